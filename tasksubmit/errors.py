"""Every exception that a user of the package may catch.

All of them descend from `TaskSubmitError`. Two families tell whose fault it was: `UsageError` and its children are
ours or the caller's, `PeerError` and its children are the other agent's or the network's. The text of an error says
what was wrong, with which task or peer, and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasksubmit.lifecycle.change import Tombstone
    from tasksubmit.wire.frames import Frame


class TaskSubmitError(Exception):
    """The root of every error that this package raises on purpose.

    `code` is a short word for programs; where the wire has a word for the condition (wire.md, section 6) it is that.
    """

    code = "error"


# --- what a peer sent -------------------------------------------------------------------------------------------


class PeerError(TaskSubmitError):
    """The other agent, or the network between, is at fault."""

    code = "peer"


class ProtocolViolation(PeerError):
    """The peer sent what the protocol does not allow at that point; the connection is given up."""

    code = "malformed"


class FrameError(ProtocolViolation):
    """A byte stream that cannot be cut into frames.

    `frames` are the whole frames that came before the fault in the same call to the decoder.
    """

    def __init__(self, message: str, frames: Sequence[Frame] = ()) -> None:
        super().__init__(message)
        self.frames: list[Frame] = list(frames)


class FrameTooLarge(FrameError):
    """A header announces a payload over the limit; nothing of the payload was read."""

    code = "too_large"


class TruncatedFrame(FrameError):
    """The stream ended inside a frame. `part` is ``"header"`` or ``"payload"``: where it ended."""

    def __init__(self, message: str, part: str) -> None:
        super().__init__(message)
        self.part = part


class MalformedMessage(PeerError):
    """A payload cannot be read as the message it should be.

    `field` is the JSON name of the field at fault, empty when it is the document as a whole.
    """

    code = "malformed"

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class TooManyConnections(PeerError):
    """The peer has as many connections to this node as one may have; close some, or use them for more requests."""

    code = "overloaded"


class PeerUnreachable(PeerError):
    """No connection to the peer could be made. Check its endpoint, and that it runs; trying again is safe."""

    code = "unreachable"


class CertificateRefused(PeerUnreachable):
    """One end does not trust the other's certificate: a matter of configuration, which trying again does not settle.

    The text says whose certificate it is and what to do. `seen` is the fingerprint of its key, and `expected` what
    would have been taken; both may be empty. Nothing was handed over on that connection.
    """

    code = "certificate"

    def __init__(self, message: str, seen: str = "", expected: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.seen = seen
        self.expected = tuple(expected)


class PeerVanished(PeerError):
    """The connection was lost before the answer came. Whether the peer acted on the request is not known."""

    code = "vanished"


class NotAcknowledged(PeerVanished):
    """The peer closed the connection cleanly, in place of an acknowledgement that it had announced."""


class PeerTimedOut(PeerError):
    """The peer did not answer in time. Whether it acted on the request is not known."""

    code = "timed_out"


# --- what cannot be, whoever asks --------------------------------------------------------------------------------


class UsageError(TaskSubmitError):
    """The caller asked for something that cannot be."""

    code = "invalid"


class InvalidMessage(UsageError):
    """A well-formed message holds what no honest peer sends (wire.md, section 2). `field` names the culprit."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class InvalidAddress(UsageError):
    """A text is not an address of the form ``N:NNNN.HHHH.LLLL``."""


class InvalidTime(UsageError):
    """A text is not an RFC 3339 time stamp with a date, a time and an offset."""


class NeverStaged(UsageError):
    """The time since staging was asked of a task that never reached the head of the queue."""


class ConfigurationError(UsageError):
    """An option, or a key of the configuration file, is missing or wrong."""

    code = "configuration"


class ListenError(UsageError):
    """An endpoint cannot be listened on, most often because its port or path is taken."""

    code = "listen"


class ReactorNotStarted(UsageError):
    """A foreign event loop runs the reactor, but nobody has started it: its threads would never run anything.

    Call ``reactor.startRunning(installSignalHandlers=False)`` before ``Node.startService()``, once in the process.
    """

    code = "reactor"


class UnknownPeer(UsageError):
    """The address is not one of the configured peers. Add it with ``--peer ADDRESS=ENDPOINT``."""

    code = "not_a_peer"


class UnknownTask(UsageError):
    """There is no such task here. ``tasksubmit list`` shows those that are."""

    code = "unknown_task"


class AmbiguousTask(UsageError):
    """Several tasks have this id, from different peers or on both sides; say which with ``--from`` or ``--to``."""

    code = "ambiguous_task"


class TaskConflict(UsageError):
    """The id is taken by a task that differs; use another id, or leave it out to have one made."""

    code = "id_conflict"


class TaskForgotten(UsageError):
    """The id was used by a task that has ended and was removed by retention; use another id.

    `tombstone` is what is left of that task.
    """

    code = "id_conflict"

    def __init__(self, message: str, tombstone: Tombstone) -> None:
        super().__init__(message)
        self.tombstone = tombstone


class NotAccepting(UsageError):
    """The node is being drained: it takes nothing new, and will stop."""

    code = "not_accepting"


class IllegalTransition(UsageError):
    """The task's status does not allow this step (wire.md, section 4)."""

    code = "illegal_transition"


class NotAtHead(UsageError):
    """The task is not the head of the queue; only the head can be executed."""

    code = "not_at_head"


class EmptyQueue(UsageError):
    """The queue is empty: accept a task first."""

    code = "empty_queue"


class TooLarge(UsageError):
    """A description or a result is over the size that may be sent."""

    code = "too_large"


class NoRoom(UsageError):
    """The results of a peer use up its share of ``--max-result-bytes``, and none of them can be removed, because they
    are pending. Try again when the peer has taken some of them, or raise the option."""

    code = "storage"


# --- the disk ----------------------------------------------------------------------------------------------------


class StoreError(TaskSubmitError):
    """The store cannot be used. The text names the file and the way out."""

    code = "storage"


class StoreLocked(StoreError):
    """The state directory is in use by another process; stop that one, or choose another directory."""


class StoreTooNew(StoreError):
    """The database was made by a newer version of this package; install that version or a later one."""


class StoreDamaged(StoreError):
    """The file is not a database of this package, or it is damaged."""


class StoreUncertain(StoreError):
    """It is unknown whether the commit that failed was made. Look again a little later, and repeat it if it was not."""


class StoreClosed(StoreError):
    """The store was closed before the operation could be done; nothing of it was written."""


class StaleTask(StoreError):
    """The task was no longer in the expected status: someone else was first. Read it again."""


# --- how work ends ----------------------------------------------------------------------------------------------


class ExecutionFailed(TaskSubmitError):
    """A task cannot be done; executors raise it, with what to tell the submitter as its text."""

    code = "failed"


class ExecutorUnavailable(TaskSubmitError):
    """The executor cannot start anything at the moment: its machine is at fault, not the task.

    Executors raise it, with what is wrong for the operator as its text; submitters do not see that. The task is
    requeued without counting the attempt, and the node pauses before it tries again. Repair what the text names; the
    node goes on by itself.
    """

    code = "executor_unavailable"


# --- how a task may end for the submitter ------------------------------------------------------------------------


class TaskEnded(TaskSubmitError):
    """The task ended without results. `task` is its last record."""

    code = "ended"

    def __init__(self, message: str, task: object = None) -> None:
        super().__init__(message)
        self.task = task


class TaskDeclined(TaskEnded):
    """The receiver refused the submission, or declined the task."""

    code = "declined"


class TaskCancelled(TaskEnded):
    """The task was cancelled: by its submitter, by a deadline, or because its execution failed."""

    code = "cancelled"


class TaskExpired(TaskEnded):
    """The task waited too long at the head of the receiver's queue."""

    code = "expired"
