"""Tasks handed from agent to agent: the Pilot Protocol's task submission, on Twisted.

Everything that a program needs is importable from here. What does not need Twisted does not import it: the names that
do are looked up when they are first used.
"""

from __future__ import annotations

from tasksubmit import module_form as _module_form  # noqa: F401  # before all others: see there

# isort: split
from importlib import import_module
from typing import TYPE_CHECKING

from tasksubmit.errors import ExecutionFailed, ExecutorUnavailable, TaskSubmitError
from tasksubmit.interfaces import (
    Execution,
    IAcceptancePolicy,
    IAdmissionPolicy,
    IAuthenticator,
    ICountingAdmissionPolicy,
    IExecutor,
    IExecutorMaker,
    ILoad,
    ILoadAdmissionPolicy,
    IPeerAdmissionPolicy,
    IPeers,
    IPureAdmissionPolicy,
    IReloadable,
    IScoreBook,
    ITaskHandler,
    ITaskStore,
    IWithdrawalPolicy,
    Peer,
    PeerLoad,
    Refusal,
    ResultFile,
)
from tasksubmit.lifecycle.change import Booking, Delivery, TaskEvent, Tombstone
from tasksubmit.lifecycle.polo import PoloScoreBreakdown, ScoreFormula, polo_score
from tasksubmit.lifecycle.results import ALLOWED_RESULT_EXTENSIONS, FORBIDDEN_RESULT_EXTENSIONS
from tasksubmit.lifecycle.table import ACCEPT_TIMEOUT, QUEUE_HEAD_TIMEOUT, Lease, Side, TaskStatus, Timeouts
from tasksubmit.lifecycle.task import Reason, Task, TaskKey
from tasksubmit.wire import (
    DEFAULT_TCP_PORT,
    MAX_FRAME,
    PORT,
    Address,
    Frame,
    FrameDecoder,
    FrameType,
    ResponseStatus,
    SubmitRequest,
    SubmitResponse,
    TaskFile,
    TaskResult,
    TaskResultMessage,
    TaskStatusUpdate,
    generate_task_id,
    parse_time,
    type_name,
)

if TYPE_CHECKING:
    from tasksubmit.node.acceptance import AcceptAll
    from tasksubmit.node.attempt import UnendedExecution
    from tasksubmit.node.availability import ExecutorProblem
    from tasksubmit.node.clock import use_steady_timers
    from tasksubmit.node.drain import Drained
    from tasksubmit.node.executors.process import ProcessExecutor
    from tasksubmit.node.executors.python import CallableExecutor
    from tasksubmit.node.fanout import FanOut, Finished
    from tasksubmit.node.load import Load
    from tasksubmit.node.mutual import MutualTLS
    from tasksubmit.node.peers import StaticPeers
    from tasksubmit.node.policy import (
        AllOf,
        Allow,
        Deny,
        PeerQuota,
        PeersOnly,
        QueueLimit,
        RateLimit,
        ScoreGate,
        SizeLimit,
    )
    from tasksubmit.node.reloaded import Reloaded
    from tasksubmit.node.retention import Retention
    from tasksubmit.node.service import Node
    from tasksubmit.node.story import Story
    from tasksubmit.node.submitted import SubmittedTask
    from tasksubmit.node.tuning import allow_files, tune_interpreter
    from tasksubmit.protocol.bounds import Bounds
    from tasksubmit.protocol.client import Client, connect
    from tasksubmit.protocol.factory import TaskSubmitFactory
    from tasksubmit.protocol.framing import TaskSubmitProtocol
    from tasksubmit.stores.sqlite import SQLiteTaskStore
    from tasksubmit.tls.credentials import Credentials

__version__: str

_POLICIES = ("AllOf", "Allow", "Deny", "PeerQuota", "PeersOnly", "QueueLimit", "RateLimit", "ScoreGate", "SizeLimit")

_ON_TWISTED = {
    **dict.fromkeys(_POLICIES, "tasksubmit.node.policy"),
    "AcceptAll": "tasksubmit.node.acceptance",
    "Bounds": "tasksubmit.protocol.bounds",
    "CallableExecutor": "tasksubmit.node.executors.python",
    "Client": "tasksubmit.protocol.client",
    "Credentials": "tasksubmit.tls.credentials",
    "Drained": "tasksubmit.node.drain",
    "ExecutorProblem": "tasksubmit.node.availability",
    "FanOut": "tasksubmit.node.fanout",
    "Finished": "tasksubmit.node.fanout",
    "Load": "tasksubmit.node.load",
    "MutualTLS": "tasksubmit.node.mutual",
    "Node": "tasksubmit.node.service",
    "ProcessExecutor": "tasksubmit.node.executors.process",
    "Reloaded": "tasksubmit.node.reloaded",
    "Retention": "tasksubmit.node.retention",
    "SQLiteTaskStore": "tasksubmit.stores.sqlite",
    "StaticPeers": "tasksubmit.node.peers",
    "Story": "tasksubmit.node.story",
    "SubmittedTask": "tasksubmit.node.submitted",
    "TaskSubmitFactory": "tasksubmit.protocol.factory",
    "TaskSubmitProtocol": "tasksubmit.protocol.framing",
    "UnendedExecution": "tasksubmit.node.attempt",
    "allow_files": "tasksubmit.node.tuning",
    "connect": "tasksubmit.protocol.client",
    "tune_interpreter": "tasksubmit.node.tuning",
    "use_steady_timers": "tasksubmit.node.clock",
}

__all__ = [
    "ACCEPT_TIMEOUT",
    "ALLOWED_RESULT_EXTENSIONS",
    "DEFAULT_TCP_PORT",
    "FORBIDDEN_RESULT_EXTENSIONS",
    "MAX_FRAME",
    "PORT",
    "QUEUE_HEAD_TIMEOUT",
    "AcceptAll",
    "Address",
    "AllOf",
    "Allow",
    "Booking",
    "Bounds",
    "CallableExecutor",
    "Client",
    "Credentials",
    "Delivery",
    "Deny",
    "Drained",
    "Execution",
    "ExecutionFailed",
    "ExecutorProblem",
    "ExecutorUnavailable",
    "FanOut",
    "Finished",
    "Frame",
    "FrameDecoder",
    "FrameType",
    "IAcceptancePolicy",
    "IAdmissionPolicy",
    "ICountingAdmissionPolicy",
    "IAuthenticator",
    "IExecutor",
    "IExecutorMaker",
    "ILoad",
    "ILoadAdmissionPolicy",
    "IPeers",
    "IPeerAdmissionPolicy",
    "IPureAdmissionPolicy",
    "IReloadable",
    "IScoreBook",
    "ITaskHandler",
    "ITaskStore",
    "IWithdrawalPolicy",
    "Lease",
    "Load",
    "MutualTLS",
    "Node",
    "Peer",
    "PeerLoad",
    "PeerQuota",
    "PeersOnly",
    "PoloScoreBreakdown",
    "ProcessExecutor",
    "QueueLimit",
    "RateLimit",
    "Reason",
    "Refusal",
    "ResponseStatus",
    "ResultFile",
    "Reloaded",
    "Retention",
    "SQLiteTaskStore",
    "ScoreFormula",
    "ScoreGate",
    "Side",
    "SizeLimit",
    "StaticPeers",
    "Story",
    "SubmitRequest",
    "SubmitResponse",
    "SubmittedTask",
    "Task",
    "TaskEvent",
    "TaskFile",
    "TaskKey",
    "TaskResult",
    "TaskResultMessage",
    "TaskStatus",
    "TaskStatusUpdate",
    "TaskSubmitError",
    "TaskSubmitFactory",
    "TaskSubmitProtocol",
    "Timeouts",
    "Tombstone",
    "UnendedExecution",
    "allow_files",
    "connect",
    "generate_task_id",
    "parse_time",
    "polo_score",
    "tune_interpreter",
    "type_name",
    "use_steady_timers",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version()
    if name not in _ON_TWISTED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ON_TWISTED[name]), name)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # slow: a tenth of the start of a verb

    try:
        return version("tasksubmit")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0+unknown"
