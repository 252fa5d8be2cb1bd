"""Every route of the control API, from its table and the description that is made of it."""

from __future__ import annotations

from typing import Any, get_args

from attrs import NOTHING, fields, has

from sitegen.rst import literal, prose, table, title
from tasksubmit import __version__
from tasksubmit.web.encoding import json_name
from tasksubmit.web.openapi import openapi_document
from tasksubmit.web.requests import Nothing
from tasksubmit.web.routes import OPENAPI_PATH, PREFIX, ROUTES, Route

Json = dict[str, Any]


def routes() -> str:
    """A section for each route, in the order of the table."""
    schemas = _schemas()
    parts = [_route(route, schemas) for route in ROUTES]
    parts.append(title(f"GET {OPENAPI_PATH}") + "The OpenAPI 3.1 document of these routes.\n\n")
    return "".join(parts)


def objects() -> str:
    """A section for each object that answers are made of."""
    schemas = _schemas()
    answers = [view for view in schemas if view.endswith(("View", "Details"))]
    parts = []
    for name in answers:
        schema = schemas[name]
        rows = [(literal(key), _type(of, schemas)) for key, of in schema["properties"].items()]
        parts.append(title(name) + f"{prose(schema['description'])}\n\n" + table(("key", "type"), rows, "40 60"))
    return "".join(parts)


def _schemas() -> Json:
    schemas: Json = openapi_document(ROUTES, __version__)["components"]["schemas"]
    return schemas


def _route(route: Route[Any, Any, Any], schemas: Json) -> str:
    listed = get_args(route.answers)
    answer = f"a list of {listed[0].__name__}" if listed else route.answers.__name__
    text = title(f"{route.method} {PREFIX}{route.path}")
    text += f"{route.summary}. Answers {route.status} with {answer}.\n\n"
    rows = [*_keys(route.query, "query"), *_keys(route.body, "body")]
    return text + (table(("key", "in", "type", "default"), rows, "25 10 35 30") if rows else "")


def _keys(cls: type[Any], where: str) -> list[tuple[str, str, str, str]]:
    """The keys of a query or a body; what they are for stands above the first."""
    if cls is Nothing:
        return []
    assert has(cls)
    document = openapi_document(ROUTES, __version__)
    schemas = document["components"]["schemas"]
    properties = _properties(cls, document)
    rows = []
    for attribute in fields(cls):
        key = json_name(attribute.name)
        default = attribute.default
        shown = (
            "required" if default is NOTHING else "" if default is None else literal(getattr(default, "value", default))
        )
        rows.append((literal(key), where, _type(properties[key], schemas), shown))
    return rows


def _properties(cls: type[Any], document: Json) -> Json:
    if cls.__name__ in document["components"]["schemas"]:
        properties: Json = document["components"]["schemas"][cls.__name__]["properties"]
        return properties
    for route in ROUTES:
        if route.query is cls:
            operation = document["paths"][PREFIX + route.path][route.method.lower()]
            return {each["name"]: each["schema"] for each in operation["parameters"]}
    raise LookupError(f"no route takes {cls.__name__}")


def _type(schema: Json, schemas: Json) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        words = schemas[name].get("enum")
        return ", ".join(map(literal, words)) if words else name
    if "anyOf" in schema:
        return " or ".join(_type(each, schemas) for each in schema["anyOf"])
    if schema["type"] == "array":
        return f"a list of {_type(schema['items'], schemas)}"
    if "format" in schema:
        return "time"
    if "contentEncoding" in schema:
        return "base64"
    return "an address" if "pattern" in schema else str(schema["type"])
