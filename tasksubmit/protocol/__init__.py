"""Task submission on Twisted transports: the framed protocol, the server factory, the client (wire.md, 1, 3 and 6)."""

from tasksubmit.protocol.client import Client, connect
from tasksubmit.protocol.factory import TaskSubmitFactory
from tasksubmit.protocol.framing import TaskSubmitProtocol

__all__ = ["Client", "TaskSubmitFactory", "TaskSubmitProtocol", "connect"]
