"""Tasks handed from agent to agent: the Pilot Protocol's task submission, on Twisted.

Everything that a program needs is importable from here. What does not need Twisted does not import it: the names that
do are looked up when they are first used.
"""

from __future__ import annotations

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
    IPeers,
    IPureAdmissionPolicy,
    IScoreBook,
    ITaskHandler,
    ITaskStore,
    Peer,
    Refusal,
    ResultFile,
)
from tasksubmit.lifecycle.polo import PoloScoreBreakdown, ScoreFormula, polo_score
from tasksubmit.lifecycle.results import ALLOWED_RESULT_EXTENSIONS, FORBIDDEN_RESULT_EXTENSIONS
from tasksubmit.lifecycle.table import ACCEPT_TIMEOUT, QUEUE_HEAD_TIMEOUT, Lease, TaskStatus, Timeouts
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
    from tasksubmit.node.service import Node
    from tasksubmit.node.submitted import SubmittedTask
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
    "CallableExecutor": "tasksubmit.node.executors.python",
    "Client": "tasksubmit.protocol.client",
    "Credentials": "tasksubmit.tls.credentials",
    "FanOut": "tasksubmit.node.fanout",
    "Finished": "tasksubmit.node.fanout",
    "Load": "tasksubmit.node.load",
    "MutualTLS": "tasksubmit.node.mutual",
    "Node": "tasksubmit.node.service",
    "ProcessExecutor": "tasksubmit.node.executors.process",
    "SQLiteTaskStore": "tasksubmit.stores.sqlite",
    "StaticPeers": "tasksubmit.node.peers",
    "SubmittedTask": "tasksubmit.node.submitted",
    "TaskSubmitFactory": "tasksubmit.protocol.factory",
    "TaskSubmitProtocol": "tasksubmit.protocol.framing",
    "connect": "tasksubmit.protocol.client",
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
    "CallableExecutor",
    "Client",
    "Deny",
    "Credentials",
    "Execution",
    "ExecutionFailed",
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
    "IPeers",
    "IPureAdmissionPolicy",
    "IScoreBook",
    "ITaskHandler",
    "ITaskStore",
    "Lease",
    "Load",
    "MutualTLS",
    "Node",
    "Peer",
    "PeerQuota",
    "PeersOnly",
    "PoloScoreBreakdown",
    "ProcessExecutor",
    "QueueLimit",
    "RateLimit",
    "Refusal",
    "ResponseStatus",
    "ResultFile",
    "SQLiteTaskStore",
    "ScoreFormula",
    "ScoreGate",
    "SizeLimit",
    "StaticPeers",
    "SubmitRequest",
    "SubmitResponse",
    "SubmittedTask",
    "TaskFile",
    "TaskResult",
    "TaskResultMessage",
    "TaskStatus",
    "TaskStatusUpdate",
    "TaskSubmitError",
    "TaskSubmitFactory",
    "TaskSubmitProtocol",
    "Timeouts",
    "connect",
    "generate_task_id",
    "parse_time",
    "polo_score",
    "type_name",
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
