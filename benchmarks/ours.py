"""Durable submissions to one node with default settings, each answered after its fsync.

Every run has a node of its own, in an empty directory. The lean driver shows what the node can do; the line of the
package's own ``Client`` shows what a program gets that uses it, and that shares the machine with the node. After each
run the node is stopped, and its database must have exactly what was answered 200.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.driver import load
from benchmarks.measure import Figures, Shape
from benchmarks.plan import Plan
from benchmarks.processes import drive
from benchmarks.report import FIGURES, figures_row, table
from benchmarks.rounds import Measured, Measurements
from benchmarks.servers import Server, check_stored, node, stored_tasks

NAME = "tasksubmit"
_CLIENT_SHAPE = Shape(16, 64)
CLIENT = ("tasksubmit by Client", str(_CLIENT_SHAPE))


def measurements(plan: Plan) -> Measurements:
    """The node at every shape, which everything else is compared with; and once as ``Client`` drives it."""
    lean = {(NAME, str(shape)): partial(_on_a_node, plan, partial(_lean, plan, shape)) for shape in plan.shapes}
    return {**lean, CLIENT: partial(_on_a_node, plan, partial(_by_client, plan))}


def show(plan: Plan, measured: Measured) -> None:
    """Print the table."""
    keys = [(NAME, str(shape)) for shape in plan.shapes] + [CLIENT]
    table(
        "durable submissions to a node, answered after fsync",
        ["what", "shape", *FIGURES],
        [[*key, *figures_row(measured[key])] for key in keys],
    )


def _on_a_node(plan: Plan, run: Callable[[Server], Figures]) -> Figures:
    directory = plan.work_directory()
    with node(directory) as server:
        figures = run(server)
    check_stored("the node", figures.total, stored_tasks(directory / "node"))
    return figures


def _lean(plan: Plan, shape: Shape, server: Server) -> Figures:
    return load(server.port, "tasksubmit", shape, plan)


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
