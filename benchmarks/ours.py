"""Durable submissions to one node with default settings, but for the share of a peer, each answered after its fsync.

Every run has a node of its own, in an empty directory. The lean driver shows what the node can do; the line of the
package's own ``Client`` shows what a program gets that uses it, and that shares the machine with the node. After each
run the node is stopped, and its database must have exactly what was answered 200.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from benchmarks.driver import load
from benchmarks.measure import Figures, Shape
from benchmarks.plan import Plan
from benchmarks.processes import drive
from benchmarks.report import FIGURES, figures_row, table
from benchmarks.rounds import Key, Measured, Measurements
from benchmarks.servers import Server, check_stored, node, node_with_tls, stored_tasks

NAME = "tasksubmit"
WITH_TLS = "tasksubmit with TLS"
_CLIENT_SHAPE = Shape(16, 64)
CLIENT = ("tasksubmit by Client", str(_CLIENT_SHAPE))


def measurements(plan: Plan) -> Measurements:
    """The node at every shape, which everything else is compared with; with TLS; and once as ``Client`` drives it."""
    return {
        **{(NAME, str(shape)): partial(_on_a_node, plan, node, partial(_lean, plan, shape)) for shape in plan.shapes},
        **{
            (WITH_TLS, str(shape)): partial(_on_a_node, plan, node_with_tls, partial(_with_tls, plan, shape))
            for shape in plan.shapes
        },
        CLIENT: partial(_on_a_node, plan, node, partial(_by_client, plan)),
    }


def show(plan: Plan, measured: Measured) -> None:
    """Print the table."""
    keys = [(name, str(shape)) for shape in plan.shapes for name in (NAME, WITH_TLS)] + [CLIENT]
    table(
        "durable submissions to a node, answered after fsync",
        ["what", "shape", *FIGURES, "without TLS"],
        [[*key, *figures_row(measured[key]), _share(measured, key)] for key in keys],
    )


def _share(measured: Measured, key: Key) -> str:
    """What is left of the rate with TLS."""
    name, shape = key
    return f"{measured[key].rate / measured[NAME, shape].rate:.0%} of it" if name == WITH_TLS else ""


def _on_a_node(
    plan: Plan, start: Callable[[Path], AbstractContextManager[Server]], run: Callable[[Server], Figures]
) -> Figures:
    directory = plan.work_directory()
    with start(directory) as server:
        figures = run(server)
    check_stored("the node", figures.total, stored_tasks(directory / "node"))
    return figures


def _lean(plan: Plan, shape: Shape, server: Server) -> Figures:
    return load(server.port, "tasksubmit", shape, plan)


def _with_tls(plan: Plan, shape: Shape, server: Server) -> Figures:
    return load(server.port, "tasksubmit", shape, plan, server.directory / "load")


def _by_client(plan: Plan, server: Server) -> Figures:
    return Figures(
        **drive(
            "benchmarks.embedder",
            plan.longest_seconds,
            port=server.port,
            connections=_CLIENT_SHAPE.connections,
            outstanding=_CLIENT_SHAPE.outstanding,
            warm_up=plan.warm_up,
            seconds=plan.seconds,
        )
    )
