"""Every word that programs read when something goes wrong: codes, exceptions, and how tasks end."""

from __future__ import annotations

import inspect

from sitegen.rst import first_paragraph, literal, table
from tasksubmit import errors
from tasksubmit.lifecycle.table import TRANSITIONS
from tasksubmit.node.courier import WORTH_TRYING_AGAIN
from tasksubmit.web.faults import FAULTS

ON_THE_WIRE = {
    "rate_limited": "the peer sends too much in too short a time",
    "quota": "the peer has too many tasks here",
    "overloaded": "the node could not do it just now",
    "storage": "the node's disk does not take it",
    "not_accepting": "the node is being drained",
    "malformed": "the message cannot be read",
    "invalid": "the message holds what no honest peer sends",
    "not_a_peer": "the submitter is not a peer of the node",
    "score_too_low": "the submitter's score is too low",
    "id_conflict": "the task id is taken by another task",
    "too_large": "the description or the result is too long",
    "unknown_task": "there is no such task between the two parties",
    "illegal_transition": "the task's status does not allow it",
}
"""The codes of a 400, as one agent gives them to another (wire.md, section 6)."""

ON_THE_COMMAND_LINE = {
    "unreachable": "no connection to the node; nothing was asked of it; exit code 3",
    "unanswered": "the node did not answer: whether it did what it was asked is not known; exit code 3",
    "exists": "the file that was to be written is there already",
    "demo": "the demonstration failed",
    "output": "standard output cannot be written, as on a full disk",
    "not_confirmed": "the question whether to do it was not answered with yes",
    "usage": "the command was used wrongly; exit code 2",
    "interrupted": "the command was interrupted; exit code 130",
}
"""The codes that ``tasksubmit --json`` has besides those of the API."""

IN_THE_API = {
    "internal": "the node has failed, or the command itself",
    "forbidden": "a request that a web page of another origin could have made, or to a name that others control",
    "method_not_allowed": "the route does not take that method",
    "no_results": "the results are not here yet",
    "not_found": "there is no such route",
    "unauthorized": "the control API is on TCP, and the token was missing or wrong",
    "headers_too_large": "the headers of the request are too long",
    "url_too_long": "the URL of the request is too long",
    "timed_out": "it was waited for too long; exit code 4",
}
"""The codes that no exception explains."""

OUTCOMES = {
    "accept_timeout": "nobody decided in time",
    "deadline_passed": "it was not begun by ``expires_at``",
    "answer_timeout": "its submitter cancelled it, because the receiver did not decide in time",
    "cancelled_by_submitter": "its submitter withdrew it",
    "expired": "it was at the head of the queue for too long",
    "failed": "its execution failed; ``error`` says why",
    "late": "the results arrived when the submitter's record had ended: neither scored nor used",
    "lease_expired": "nothing was heard of its execution in time",
    "lost": "the receiver does not know the task any more",
    "refused": "the submission was answered 400; ``code`` says why",
    "result_timeout": "its submitter cancelled it, because results or news did not arrive in time",
    "withdrawn_by_receiver": "its receiver declined it after accepting it, or held it for too long",
    "undelivered": "it could not be delivered by its deadline",
}
"""What each outcome means; a test compares the words with those of the table of transitions."""


def error_codes() -> str:
    """A table of every code: where it comes up, and what to do."""
    raised = _raised()
    codes = sorted({*ON_THE_WIRE, *FAULTS, *ON_THE_COMMAND_LINE})
    header = ("code", "between agents", "API", "what it means, what to do")
    return table(header, [_row(code, raised.get(code, [])) for code in codes], "22 18 10 50")


def _row(code: str, raised: list[type[errors.TaskSubmitError]]) -> tuple[str, str, str, str]:
    wire = ""
    if code in ON_THE_WIRE:
        wire = "400, tried again" if code in WORTH_TRYING_AGAIN else "400, final"
    fault = FAULTS.get(code)
    first = {**IN_THE_API, **ON_THE_COMMAND_LINE, **ON_THE_WIRE}.get(code)
    meaning = [first] if first else [_lower(first_paragraph(error.__doc__)) for error in raised[:1]]
    if fault is not None and fault.hint:
        meaning.append(fault.hint.replace("`", "``"))
    return literal(code), wire, str(fault.status) if fault else "", "; ".join(meaning)


def _lower(sentence: str) -> str:
    """A sentence as a part of another."""
    return sentence[:1].lower() + sentence[1:].rstrip(".")


def _raised() -> dict[str, list[type[errors.TaskSubmitError]]]:
    """The exceptions that have each code."""
    by_code: dict[str, list[type[errors.TaskSubmitError]]] = {}
    for error in _exceptions():
        by_code.setdefault(error.code, []).append(error)
    return by_code


def _exceptions() -> list[type[errors.TaskSubmitError]]:
    """In the order of the module, in which a parent stands before its children."""
    return [
        each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, errors.TaskSubmitError)
    ]


def exceptions() -> str:
    """A table of every exception that a program may catch."""
    rows = [
        (
            literal(error.__name__),
            literal(error.__mro__[1].__name__),
            literal(error.code),
            first_paragraph(error.__doc__),
        )
        for error in _exceptions()
    ]
    return table(("exception", "is a", "code", "what it says"), rows, "20 18 18 44")


def outcomes() -> str:
    """A table of the words that tell programs how a task ended."""
    made = TRANSITIONS.values()
    words = sorted({transition.outcome for transition in made} - {""})
    # A request for cancellation leaves the task open; its word is the outcome once the task is cancelled.
    ends = {
        word: sorted({str(t.target) if t.target.is_final else "CANCELLED" for t in made if t.outcome == word})
        for word in words
    }
    rows = [(literal(word), ", ".join(ends[word]), OUTCOMES[word]) for word in words]
    return table(("outcome", "status", "what happened"), rows, "30 20 50")
