"""The bare protocol: a server that is one function, and a client; no node, no store, no queue.

    python bare_protocol.py

The server accepts what it can do, and sends the result on the connection on which the task came: the old, synchronous
way, which older peers know as well. Nothing here survives the process, and nothing is acknowledged: it suits work that
can be asked for again.
"""

from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.task import react

from tasksubmit import Address, Peer, SubmitRequest, TaskResult, TaskSubmitFactory, connect
from tasksubmit.errors import PeerVanished
from tasksubmit.interfaces import SendResult

CLIENT = Address.parse("0:0000.0000.0001")
SERVER = Address.parse("0:0000.0000.0002")


async def exchange(reactor: Any) -> None:
    """Start the server, and have it do two tasks, of which it declines one."""

    def handle(peer: Peer, request: SubmitRequest, send_result: SendResult) -> bool:
        """Decide on one submission; the result goes out after the answer."""
        if not request.task_description.isascii():
            return False
        result = TaskResult(request.task_description, status="success", result=request.task_description.upper())
        reactor.callLater(0.1, deliver, send_result, result)
        return True

    def deliver(send_result: SendResult, result: TaskResult) -> None:
        try:
            send_result(result)
        except PeerVanished:
            print(f"whoever wanted {result.task_description!r} has gone")

    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(TaskSubmitFactory(handle, clock=reactor))
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    client = await connect(endpoint, CLIENT, clock=reactor)
    try:
        for description in ("shout this", "und dies für später"):
            answer = await client.submit_task(description, SERVER)
            print(f"{description!r} is answered {answer.status} {answer.message}")
            if answer.status == 200:
                result = await client.next_result()
                print(f"{description!r} is {result.status}: {result.result!r}")
    finally:
        await client.close()
        await port.stopListening()


if __name__ == "__main__":
    react(exchange)
