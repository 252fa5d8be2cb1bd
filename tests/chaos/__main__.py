"""The command line of the chaos run; see `tests.chaos`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import SystemRandom
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred

from tests.chaos.disks import have_own_mounts
from tests.chaos.nodes import MARK
from tests.chaos.run import Run, Size
from tests.docs.pages import ROOT


@contextmanager
def _swept(mark: str) -> Iterator[Path]:
    """A directory for the run; what is left of it, and of the run's processes, is removed by a process of its own."""
    directory = Path(tempfile.mkdtemp(prefix="tasksubmit-chaos-")).resolve()
    sweeper = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.sweeper", str(directory), f"{MARK}={mark}"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    assert sweeper.stdin is not None
    try:
        yield directory
    finally:
        sweeper.stdin.close()
        sweeper.wait()


async def _main(reactor: Any, run: Run) -> None:
    reactor.addSystemEventTrigger("before", "shutdown", run.kill)
    found = await run.run()
    run.is_finished = True
    if found:
        raise SystemExit(1)


def main() -> None:
    """Read the options, and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=str(__doc__).splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="how long to begin new rounds")
    parser.add_argument("--seed", type=int, default=None, help="what every choice comes from; by default a new one")
    parser.add_argument("--rounds", type=int, default=None, help="how many rounds at most")
    parser.add_argument("--window", type=float, default=Size(0).window, help="seconds of faults in a round")
    parser.add_argument("--tasks", type=int, default=Size(0).tasks, help="tasks in a round, about")
    parser.add_argument("--longest-fault", type=float, default=Size(0).longest_fault, help="in seconds")
    parser.add_argument("--no-silence", action="store_true", help="leave no connection open and silent after a cut")
    parser.add_argument("--keep-going", action="store_true", help="go on with new nodes after a finding")
    options = parser.parse_args()
    seed = SystemRandom().randrange(10**6) if options.seed is None else options.seed
    size = Size(
        seconds=options.minutes * 60,
        rounds=options.rounds,
        window=options.window,
        tasks=options.tasks,
        longest_fault=options.longest_fault,
        silence=0.0 if options.no_silence else Size(0).silence,
    )
    mark = os.urandom(8).hex()
    has_mounts = have_own_mounts()
    began = time.monotonic()
    print(f"chaos: --seed {seed}; disks {'are mounted' if has_mounts else 'are simulated'}", flush=True)
    with _swept(mark) as directory:
        run: list[Run] = []
        is_well = False

        def react(reactor: Any) -> Deferred[None]:
            run.append(
                Run(
                    reactor=reactor,
                    seed=seed,
                    size=size,
                    directory=directory,
                    mark=mark,
                    has_mounts=has_mounts,
                    tell=lambda line: print(line, flush=True),
                    keeps_going=options.keep_going,
                )
            )
            return Deferred.fromCoroutine(_main(reactor, run[0]))

        try:
            task.react(react)
        except SystemExit as end:
            is_well = not end.code
        finally:
            print(f"chaos: --seed {seed}: {run[0].found} findings in {time.monotonic() - began:.0f} s", flush=True)
            print(run[0].totals, flush=True)
    if not run[0].is_finished:
        print("chaos: interrupted")
    raise SystemExit(0 if is_well and run[0].is_finished else 1)


if __name__ == "__main__":
    main()
