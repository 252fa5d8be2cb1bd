"""The OpenAPI 3.1 document of the control API, made from the table of routes and the classes that it names."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from datetime import datetime
from enum import Enum
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from attrs import NOTHING, fields, has

from tasksubmit.web.encoding import json_name
from tasksubmit.web.faults import FAULTS
from tasksubmit.web.requests import Nothing
from tasksubmit.web.routes import PREFIX, Route
from tasksubmit.web.views import Page
from tasksubmit.wire.address import Address

Json = dict[str, Any]

_PLAIN: dict[Any, Json] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    datetime: {"type": "string", "format": "date-time"},
    bytes: {"type": "string", "contentEncoding": "base64"},
    Address: {"type": "string", "pattern": "^[0-9]+:[0-9A-Fa-f]{4}(\\.[0-9A-Fa-f]{4}){2}$"},
    NoneType: {"type": "null"},
}

_ERROR: Json = {
    "type": "object",
    "required": ["status", "code", "message", "hint"],
    "properties": {
        "status": {"const": "error"},
        "code": {"enum": sorted(FAULTS)},
        "message": {"type": "string"},
        "hint": {"type": "string"},
    },
}


def openapi_document(routes: Iterable[Route[Any, Any, Any]], version: str) -> Json:
    """Describe the routes.

    :param version: of the package.
    :returns: the document, ready to be written as JSON.
    """
    schemas: Json = {"Error": _ERROR}
    paths: Json = {}
    for route in routes:
        paths.setdefault(PREFIX + route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tasksubmit control API",
            "version": version,
            "description": "Served on a Unix socket of the node, for its operator alone.",
        },
        "servers": [{"url": "http://localhost"}],
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


def _operation(route: Route[Any, Any, Any], schemas: Json) -> Json:
    parameters = [{"name": "task_id", "in": "path", "required": True, "schema": {"type": "string"}}]
    operation: Json = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": [*(parameters if "{task_id}" in route.path else []), *_parameters(route.query, schemas)],
        "responses": {
            str(route.status): _response("The answer", _ok(route.answers, schemas)),
            "default": _response("An error", {"$ref": "#/components/schemas/Error"}),
        },
    }
    if route.body is not Nothing:
        content = {"application/json": {"schema": _schema(route.body, schemas)}}
        operation["requestBody"] = {"required": bool(_required(route.body)), "content": content}
    return operation


def _response(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ok(answers: Any, schemas: Json) -> Json:
    properties: Json = {"status": {"const": "ok"}}
    if get_origin(answers) is Page:
        (item,) = get_args(answers)
        properties["data"] = {"type": "array", "items": _schema(item, schemas)}
        hints = get_type_hints(Page)
        properties |= {a.name: _schema(hints[a.name], schemas) for a in fields(Page) if a.name != "items"}
    else:
        properties["data"] = _schema(answers, schemas)
    return {"type": "object", "required": list(properties), "properties": properties}


def _parameters(query: type[Any], schemas: Json) -> list[Json]:
    properties = _object(query, schemas)["properties"]
    return [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]


def _schema(cls: Any, schemas: Json) -> Json:
    if cls in _PLAIN:
        return _PLAIN[cls]
    if get_origin(cls) is list:
        return {"type": "array", "items": _schema(get_args(cls)[0], schemas)}
    if get_args(cls):  # a union
        return {"anyOf": [_schema(argument, schemas) for argument in get_args(cls)]}
    if cls.__name__ not in schemas:
        schemas[cls.__name__] = {}  # it may come up again within itself
        is_words = inspect.isclass(cls) and issubclass(cls, Enum)
        schemas[cls.__name__] = {"enum": [member.value for member in cls]} if is_words else _object(cls, schemas)
    return {"$ref": f"#/components/schemas/{cls.__name__}"}


def _object(cls: type[Any], schemas: Json) -> Json:
    assert has(cls)
    hints = get_type_hints(cls)
    return {
        "type": "object",
        "description": inspect.cleandoc(cls.__doc__ or ""),
        "required": _required(cls),
        "properties": {json_name(a.name): _schema(hints[a.name], schemas) for a in fields(cls)},
    }


def _required(cls: type[Any]) -> list[str]:
    return [json_name(a.name) for a in fields(cls) if a.default is NOTHING]
