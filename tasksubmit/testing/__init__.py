"""A test kit for applications that embed a node: agents in memory, peers that follow a script, a fake executor.

`Agents` is where to begin; ``docs/testing.rst`` shows all of it. The contracts that providers of the package's
interfaces are tested with are in `tasksubmit.testing.contracts`.
"""

from tasksubmit.testing.agents import Agents
from tasksubmit.testing.executors import FakeExecution, FakeExecutor
from tasksubmit.testing.faults import FaultyTaskStore, StoreFault
from tasksubmit.testing.network import MemoryNetwork
from tasksubmit.testing.peers import Behaviour, Deployed, Line, Refusing, ScriptedPeer, WellBehaved
from tasksubmit.testing.scores import MemoryScoreBook
from tasksubmit.testing.stores import MemoryTaskStore

__all__ = [
    "Agents",
    "Behaviour",
    "Deployed",
    "FakeExecution",
    "FakeExecutor",
    "FaultyTaskStore",
    "Line",
    "MemoryNetwork",
    "MemoryScoreBook",
    "MemoryTaskStore",
    "Refusing",
    "ScriptedPeer",
    "StoreFault",
    "WellBehaved",
]
