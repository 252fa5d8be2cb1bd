"""What goes wrong, as HTTP has it: one table from an error's code to the status and to what can be done about it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from attrs import frozen

from tasksubmit.errors import TaskSubmitError


@frozen
class Fault:
    """Answer to an error: an HTTP status, and a hint for people that may be empty.

    In a command of the hint, ``ID`` stands for the id of the task that was asked about.
    """

    status: int
    hint: str = ""


_NO_RESULTS = Fault(409, "`tasksubmit show ID` says how the task ended")

FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        "invalid": Fault(400),
        "malformed": Fault(400),
        "not_a_peer": Fault(400, "`tasksubmit peers` lists those that are"),
        "unauthorized": Fault(401, "it is in the file control.token of the node's state directory: see --token-file"),
        "forbidden": Fault(403),
        "not_found": Fault(404, "/v1/openapi.json lists every route"),
        "unknown_task": Fault(404, "`tasksubmit list` shows the tasks that there are"),
        "method_not_allowed": Fault(405, "/v1/openapi.json lists every route"),
        "ambiguous_task": Fault(409),
        "configuration": Fault(409, "put it right, then repeat the command; until then all is as before"),
        "cancelled": _NO_RESULTS,
        "declined": _NO_RESULTS,
        "empty_queue": Fault(409, "`tasksubmit list --status NEW` shows those that wait"),
        "expired": _NO_RESULTS,
        "id_conflict": Fault(409),
        "illegal_transition": Fault(409, "`tasksubmit why ID` says what the task waits for"),
        "no_results": Fault(409, "wait for them with `tasksubmit wait ID`"),
        "not_accepting": Fault(503, "start the node again once it has stopped, then repeat the command"),
        "not_at_head": Fault(409),
        "too_large": Fault(413),
        "url_too_long": Fault(414),
        "headers_too_large": Fault(431),
        "internal": Fault(500, "the node's log has the details"),
        "storage": Fault(503, "look at the node's log and at its disk, then try again"),
        "timed_out": Fault(504, "ask again to wait longer"),
    }
)
"""Of each code: the status and the hint. Codes that are not here are the node's own trouble: 500."""


class ApiError(TaskSubmitError):
    """An error that only the control API knows; `code` is one of `FAULTS`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def fault_of(code: str) -> Fault:
    """How an error with `code` is answered."""
    return FAULTS.get(code, FAULTS["internal"])
