"""What the load driver sends, in each protocol: the same submission, with a new task id each time.

A request is the text between the ids, which the driver puts in. To Redis and beanstalkd goes the JSON of a submission,
byte for byte as long; to AMP the same four fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from twisted.protocols.amp import AmpBox

from benchmarks.bare import Submit
from benchmarks.measure import Figures, Shape
from benchmarks.plan import Plan
from benchmarks.processes import drive
from tasksubmit import Address, SubmitRequest
from tasksubmit.wire.messages import FEATURES

NODE = Address.parse("0:0000.0000.0001")
LOAD = Address.parse("0:0000.0000.0002")
DESCRIPTION = "a task of the benchmark"

_ID = "00000000-0000-0000-0000-000000000000"
_REQUEST = SubmitRequest(_ID, DESCRIPTION, str(LOAD), str(NODE), features=FEATURES)

STREAM = "tasks"


def payload_parts() -> list[str]:
    """The JSON of a submission, without its task id."""
    return _REQUEST.to_json().decode().split(_ID)


def _frame() -> bytes:
    return _REQUEST.to_frame().encode()


def _xadd() -> bytes:
    words = [b"XADD", STREAM.encode(), b"*", b"task", _REQUEST.to_json()]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _put() -> bytes:
    job = _REQUEST.to_json()
    return b"put 0 0 60 %d\r\n%s\r\n" % (len(job), job)


def _box() -> bytes:
    box = AmpBox(
        _ask=_ID.encode(),
        _command=Submit.commandName,
        task_id=_ID.encode(),
        task_description=DESCRIPTION.encode(),
        from_addr=str(LOAD).encode(),
        to_addr=str(NODE).encode(),
    )
    return bytes(box.serialize())


_REQUESTS: Mapping[str, Callable[[], bytes]] = {"tasksubmit": _frame, "redis": _xadd, "beanstalkd": _put, "amp": _box}


def load(port: int, protocol: str, shape: Shape, plan: Plan, keys: Path | None = None) -> Figures:
    """Drive a server that speaks ``protocol`` on ``port``.

    :param keys: the directory with the key and the certificate to speak TLS with; None for no TLS.
    :raises BenchmarkError: it refused something, or fell silent.
    """
    parts = _REQUESTS[protocol]().split(_ID.encode())
    measured = drive(
        "benchmarks.load",
        plan.longest_seconds,
        port=port,
        protocol=protocol,
        parts=[part.decode("latin-1") for part in parts],
        connections=shape.connections,
        outstanding=shape.outstanding,
        keys=str(keys) if keys else "",
        warm_up=plan.warm_up,
        seconds=plan.seconds,
    )
    return Figures(**measured)
