"""What the pages take from the code: tables that cannot differ from it.

``.. generated:: NAME`` in a page stands for the text that ``GENERATED[NAME]`` makes, reStructuredText like the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sitegen.errors import error_codes, exceptions, outcomes
from sitegen.lifecycle import picture, steps
from sitegen.messages import messages
from sitegen.options import executors, options
from sitegen.routes import objects, routes
from sitegen.verbs import verbs
from tasksubmit.lifecycle.table import Side

if TYPE_CHECKING:
    from sphinx.application import Sphinx

GENERATED: Mapping[str, Callable[[], str]] = MappingProxyType(
    {
        "options": options,
        "executors": executors,
        "verbs": verbs,
        "routes": routes,
        "objects": objects,
        "messages": messages,
        "error-codes": error_codes,
        "exceptions": exceptions,
        "outcomes": outcomes,
        **{f"{side}-picture": partial(picture, side) for side in Side},
        **{f"{side}-steps": partial(steps, side) for side in Side},
    }
)
"""Every text, by the name that pages call it."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Give Sphinx the directive."""
    from sphinx.util.docutils import SphinxDirective

    class Generated(SphinxDirective):
        """Stands for a generated text."""

        required_arguments = 1

        def run(self) -> list[Any]:
            """The nodes of the text."""
            self.env.note_reread()  # what it is made of is no file of these pages
            return self.parse_text_to_nodes(GENERATED[self.arguments[0]](), allow_section_headings=True)

    app.add_directive("generated", Generated)
    return {"parallel_read_safe": True}
