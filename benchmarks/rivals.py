"""What users would pick instead, at equal durability: a submission is answered only once it is on disk.

The same JSON goes to all of them. What has a wire protocol of its own is driven by the same lean driver as the node;
the task queues for Python are driven through their clients (``clients.py``), by up to 64 threads of one process. What
they store is counted and compared with what they acknowledged. AMP stores nothing: it tells what Twisted's own
protocol does with the same four fields. None of them does the rest of what a node does, such as to admit by peer, to
refuse an id that was used for something else, and to keep deadlines; nor does a node do the rest of what they do.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import servers
from benchmarks.driver import STREAM, load, payload_parts
from benchmarks.measure import Figures, Shape
from benchmarks.ours import CLIENT, NAME
from benchmarks.plan import Plan
from benchmarks.processes import drive
from benchmarks.report import FIGURES, figures_row, table, times
from benchmarks.rounds import Key, Measured, Measurements


@dataclass(frozen=True)
class Rival:
    """Something that takes submissions.

    :ivar durability: in words, what is on disk when it answers.
    :ivar programs: the programs it needs.
    :ivar packages: the Python packages it needs, as pip knows them.
    :ivar run: starts it in a directory and measures it.
    """

    name: str
    durability: str
    programs: tuple[str, ...]
    packages: tuple[str, ...]
    run: Callable[[Plan, Shape, Path], Figures]
    is_threaded: bool = False

    def key(self, shape: Shape) -> Key:
        """Under which it is measured at a shape."""
        return self.name, f"threads: {shape.threads}" if self.is_threaded else str(shape)

    def missing(self) -> list[str]:
        """How to install what is not there; the programs are Debian packages of their own names."""
        programs = [f"apt install {name}" for name in self.programs if not shutil.which(name)]
        return programs + [f"pip install {name}" for name in self.packages if not _package_version(name)]

    def versions(self) -> list[str]:
        """What is measured."""
        programs = [_program_version(name) for name in self.programs]
        return programs + [f"{name} {_package_version(name)} for Python" for name in self.packages]


_PROGRAM_VERSIONS: Mapping[str, str] = {"redis-server": "--version", "beanstalkd": "-v"}


def _program_version(name: str) -> str:
    words = subprocess.run([name, _PROGRAM_VERSIONS[name]], capture_output=True, text=True, check=True).stdout.split()
    numbers = [word.removeprefix("v=") for word in words if word.removeprefix("v=")[0].isdigit()]
    return f"{name} {numbers[0]}"


def _package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


# --- how each is run ----------------------------------------------------------------------------------------------


def _ask(server: servers.Server, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(request)
        return connection.recv(65536)


def _redis_streams(plan: Plan, shape: Shape, directory: Path) -> Figures:
    with servers.redis(directory) as server:
        figures = load(server.port, "redis", shape, plan)
        stored = int(_ask(server, f"XLEN {STREAM}\r\n".encode()).strip().removeprefix(b":"))
    servers.check_stored("Redis", figures.total, stored)
    return figures


def _beanstalkd(plan: Plan, shape: Shape, directory: Path) -> Figures:
    with servers.beanstalkd(directory) as server:
        figures = load(server.port, "beanstalkd", shape, plan)
        answer = _ask(server, b"stats\r\n").decode()
    stored = next(int(line.split()[1]) for line in answer.splitlines() if line.startswith("current-jobs-ready:"))
    servers.check_stored("beanstalkd", figures.total, stored)
    return figures


def _amp(plan: Plan, shape: Shape, directory: Path) -> Figures:
    with servers.bare("amp", directory) as server:
        return load(server.port, "amp", shape, plan)


def _by_client(client: str, plan: Plan, shape: Shape, directory: Path, port: int | None) -> Figures:
    measured = drive(
        "benchmarks.clients",
        plan.longest_seconds,
        client=client,
        port=port,
        directory=str(directory),
        threads=shape.threads,
        parts=payload_parts(),
        warm_up=plan.warm_up,
        seconds=plan.seconds,
    )
    stored = measured.pop("stored")
    figures = Figures(**measured)
    servers.check_stored(client, figures.total, stored)
    return figures


def _on_redis(client: str) -> Callable[[Plan, Shape, Path], Figures]:
    def run(plan: Plan, shape: Shape, directory: Path) -> Figures:
        with servers.redis(directory) as server:
            return _by_client(client, plan, shape, directory, server.port)

    return run


def _huey(plan: Plan, shape: Shape, directory: Path) -> Figures:
    return _by_client("huey", plan, shape, directory, port=None)


_REDIS = "appendfsync always"
_SQLITE = "SQLite with fsync"

RIVALS = (
    Rival("redis-streams", _REDIS, ("redis-server",), (), _redis_streams),
    Rival("beanstalkd", "fsync of each job", ("beanstalkd",), (), _beanstalkd),
    Rival("celery", _REDIS, ("redis-server",), ("celery", "redis"), _on_redis("celery"), is_threaded=True),
    Rival("rq", _REDIS, ("redis-server",), ("rq", "redis"), _on_redis("rq"), is_threaded=True),
    Rival("dramatiq", _REDIS, ("redis-server",), ("dramatiq", "redis"), _on_redis("dramatiq"), is_threaded=True),
    Rival("huey", _SQLITE, (), ("huey",), _huey, is_threaded=True),
    Rival("amp", "nothing is stored", (), (), _amp),
)


def chosen(plan: Plan) -> list[Rival]:
    """The rivals that are not left out."""
    return [rival for rival in RIVALS if rival.name not in plan.left_out]


def complaints(plan: Plan) -> list[str]:
    """One line for each rival that cannot be measured here."""
    return [
        f"{rival.name} is missing: {', '.join(missing)}; or leave it out with --without {rival.name}"
        for rival in chosen(plan)
        if (missing := rival.missing())
    ]


# --- the section --------------------------------------------------------------------------------------------------


def measurements(plan: Plan) -> Measurements:
    """Every rival at every shape; shapes that come to the same number of threads are one measurement."""
    return {
        rival.key(shape): partial(_in_a_directory, plan, rival, shape)
        for rival in chosen(plan)
        for shape in plan.shapes
    }


def _in_a_directory(plan: Plan, rival: Rival, shape: Shape) -> Figures:
    directory = plan.work_directory()
    return rival.run(plan, shape, directory)


def show(plan: Plan, measured: Measured) -> None:
    """Print the table."""
    rows = []
    for shape in plan.shapes:
        ours = measured[NAME, str(shape)]
        rows.append([str(shape), NAME, _SQLITE, *figures_row(ours), ""])
        if CLIENT[1] == str(shape):
            rows.append([str(shape), CLIENT[0], _SQLITE, *figures_row(measured[CLIENT]), ""])
        for rival in chosen(plan):
            figures = measured[rival.key(shape)]
            what = f"{rival.name}, {rival.key(shape)[1]}" if rival.is_threaded else rival.name
            rows.append([str(shape), what, rival.durability, *figures_row(figures), times(ours.rate / figures.rate)])
    table(
        "the same submissions, durably, to what users would pick instead",
        ["shape", "what", "on disk when answered", *FIGURES, "ours/theirs"],
        rows,
        "celery, rq, dramatiq, huey: by their own clients, one call at a time in each thread of one process.",
        "driver: the share of a core that the driver took. Near 100% it was the limit, and what it drove can do more.",
    )


def summary(plan: Plan, measured: Measured) -> list[str]:
    """One line for each comparison, the worst first."""
    ratios = [
        (measured[NAME, str(shape)].rate / measured[rival.key(shape)].rate, rival.name, shape)
        for rival in chosen(plan)
        for shape in plan.shapes
    ]
    return [
        f"{'ahead of' if ratio >= 1 else 'behind'} {name} at {shape}: {times(ratio)}"
        for ratio, name, shape in sorted(ratios, key=lambda item: item[0])
    ]
