"""The benchmark: a node beside what users would pick instead, in one run on one machine.

Run from the top of the checkout, with the extra ``bench`` installed::

    python -m benchmarks
    python -m benchmarks --quick
    python -m benchmarks --only rivals --without huey --shape 16x64 --json figures.json

Figures are of this machine at this time; compare those of one run. The submissions, the rivals and the ceilings are
measured in turn, in several rounds. Server and driver share the machine, as they would on a laptop and would not in
production; the column "driver" tells which share of a core the driver took.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import ceilings, ours, rivals
from benchmarks.lifecycles import lifecycles
from benchmarks.machine import fsync_ms, machine, versions
from benchmarks.measure import Shape
from benchmarks.plan import LONGEST_SECONDS, SHAPES, Plan
from benchmarks.processes import BenchmarkError
from benchmarks.results import results
from benchmarks.rounds import Measured, measure, progress
from benchmarks.scale import scale

_SECTIONS = ("submissions", "rivals", "ceilings", "lifecycles", "results", "scale")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="measure everything, but too briefly to mean anything")
    parser.add_argument("--only", action="append", choices=_SECTIONS, help="one section; may be repeated")
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=[rival.name for rival in rivals.RIVALS],
        help="leave out a rival; may be repeated",
    )
    parser.add_argument("--seconds", type=float, help="how long each shape is measured (3)")
    parser.add_argument("--rounds", type=int, help="how often each is measured; the median counts (3)")
    parser.add_argument(
        "--shape",
        action="append",
        type=_shape,
        metavar="CxO",
        help=f"connections x outstanding requests; may be repeated ({' '.join(map(str, SHAPES))})",
    )
    parser.add_argument("--directory", type=Path, help="where everything is stored (a temporary directory)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here, too")
    return parser.parse_args(arguments)


def _shape(text: str) -> Shape:
    try:
        return Shape.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not CONNECTIONSxOUTSTANDING, such as 16x64") from None


def _plan(options: argparse.Namespace, directory: Path) -> Plan:
    return Plan(
        directory,
        is_quick=options.quick,
        seconds=(0.15 if options.quick else 3.0) if options.seconds is None else options.seconds,
        rounds=(1 if options.quick else 3) if options.rounds is None else options.rounds,
        shapes=tuple(options.shape or SHAPES),
        left_out=frozenset(options.without),
    )


def _check(plan: Plan, sections: Sequence[str]) -> None:
    """Refuse what would fail later, or mean nothing.

    :raises BenchmarkError: naming each reason in a line.
    """
    if not (plan.seconds > 0 and plan.rounds > 0):  # what is not a number is not over 0 either
        raise BenchmarkError("--seconds and --rounds must be more than 0")
    if plan.warm_up + plan.seconds > LONGEST_SECONDS:
        raise BenchmarkError(
            f"--seconds {plan.seconds:g} is too long: by default a node cancels what nobody accepts for a minute"
        )
    if "rivals" in sections and (complaints := rivals.complaints(plan)):
        raise BenchmarkError("\nbenchmarks: ".join(complaints))


def _introduce(plan: Plan, sections: Sequence[str]) -> dict[str, Any]:
    """Print on what it is measured; returns it."""
    measured = rivals.chosen(plan) if "rivals" in sections else []
    used = sorted({version for rival in measured for version in rival.versions()})
    print(f"machine: {machine()}\nnode: {versions()}")
    if used:
        print(f"rivals: {', '.join(used)}")
    p50, p99 = fsync_ms(plan.directory)
    print(f"directory: {plan.directory}\nfsync there: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    median = f", the median of {plan.rounds} runs" if plan.rounds > 1 else ""
    print(f"each shape: {plan.seconds:g} s after {plan.warm_up:g} s of warm-up{median}", flush=True)
    return {"machine": machine(), "node": versions(), "rivals": used, "fsync_p50_ms": p50, "fsync_p99_ms": p99}


def _compare(plan: Plan, sections: Sequence[str]) -> Measured:
    """Measure what is compared with each other in turn, and print it; returns the figures."""
    measurements = dict(ours.measurements(plan))
    if "ceilings" in sections:
        measurements |= ceilings.measurements(plan)
    if "rivals" in sections:
        measurements |= rivals.measurements(plan)
    measured = measure(measurements, plan.rounds)
    for name, section in (("submissions", ours), ("rivals", rivals), ("ceilings", ceilings)):
        if name in sections:
            section.show(plan, measured)
    return measured


def _run(plan: Plan, sections: Sequence[str]) -> dict[str, Any]:
    """Measure the sections, print them, and return all figures."""
    _check(plan, sections)
    found = _introduce(plan, sections)
    measured: Measured = {}
    if {"submissions", "rivals", "ceilings"}.intersection(sections):
        measured = _compare(plan, sections)
        found["measured"] = _named(measured)
    if "lifecycles" in sections:
        found["lifecycles"] = _named(lifecycles(plan))
    if "results" in sections:
        found["results"] = {size: asdict(passed) for size, passed in results(plan).items()}
    if "scale" in sections:
        found["scale"] = asdict(scale(plan))
    progress("")
    p50, p99 = fsync_ms(plan.directory)
    found |= {"fsync_p50_ms_in_the_end": p50, "fsync_p99_ms_in_the_end": p99}
    print(f"\nfsync in the end: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    if "rivals" in sections:
        found["summary"] = rivals.summary(plan, measured)
        print("\nsummary, by submissions per second (ours/theirs), the worst first")
        print("\n".join(f"  {line}" for line in found["summary"]))
    if plan.is_quick:
        print("\n--quick: it shows that everything can be measured; the figures are too short to mean much")
    return found


def _named(measured: Measured) -> dict[str, Any]:
    return {" ".join(key): asdict(figures) for key, figures in measured.items()}


def _end(signal_number: int, frame: object) -> None:
    """End as after an error, so that every process and directory is removed."""
    raise SystemExit(128 + signal_number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the options say; returns the exit code."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, _end)
    began = time.monotonic()
    try:
        if options.json:
            options.json.touch()  # better now than after all the measuring
        if options.directory:
            options.directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as end:
            own = TemporaryDirectory(prefix="tasksubmit-", dir=options.directory, ignore_cleanup_errors=True)
            directory = Path(end.enter_context(own))
            found = _run(_plan(options, directory.resolve()), options.only or _SECTIONS)
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n")
    except (BenchmarkError, OSError) as error:
        progress("")
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        progress("")
        print("benchmarks: interrupted", file=sys.stderr)
        return 130
    print(f"\nit took {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
