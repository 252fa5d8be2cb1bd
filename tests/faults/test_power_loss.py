"""Two nodes at work lose power at every moment that matters: what they had told anybody is still so afterwards."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from typing_extensions import override

from tasksubmit.lifecycle.table import TaskStatus
from tests.faults.harness import STATES, Acknowledged, MarkingNode, all_tasks, key_of
from tests.faults.losses import PowerLossTestCase, is_final
from tests.faults.remains import Remains
from tests.node.helpers import ALICE, BOB
from tests.tiers import tier

LARGE = bytes(range(256)) * 400
RESULTS: dict[str, tuple[str, bytes]] = {
    **{f"text-{n}": ("", b"done") for n in range(5)},
    **{f"long-{n}": ("", b"all is well. " * 8000) for n in range(2)},
    **{f"file-{n}": ("small.csv", b"1,2\n") for n in range(3)},
    **{f"large-{n}": ("large.bin", LARGE) for n in range(3)},
}
"""What the tasks that are executed end with: the name of the file, and the content."""

DECLINED = [f"declined-{n}" for n in range(3)]
CANCELLED = [f"cancelled-{n}" for n in range(4)]

RESUME_EVERY = 10
"""Looks between two resumptions; those take longer."""


def _no_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


class WorkTestCase(PowerLossTestCase):
    """A workload to lose power in."""

    async def work(self) -> None:
        """Let Alice submit and Bob do all that a life of a task can hold, with a restart in between; stop both."""
        alice, bob = self.start(ALICE), self.start(BOB)
        await self.all(self.submit(alice, task_id) for task_id in [*RESULTS, *DECLINED, *CANCELLED])
        await self.all(
            [
                *(self.told(bob.accept(key_of(BOB, task_id)), bob) for task_id in [*RESULTS, *CANCELLED[:2]]),
                *(self.told(bob.decline(key_of(BOB, task_id), "no time"), bob) for task_id in DECLINED),
                *(self.told(alice.cancel(key_of(ALICE, task_id)), alice) for task_id in CANCELLED[2:]),
            ]
        )
        await self.all(self.execute_next(bob) for _ in range(len(RESULTS) // 2))
        await self.stop(alice, bob)
        alice, bob = self.start(ALICE), self.start(BOB)
        await self.all(self.told(alice.cancel(key_of(ALICE, task_id)), alice) for task_id in CANCELLED[:2])
        for task_id in CANCELLED:
            await bob.wait(key_of(BOB, task_id), is_final)
        await self.all(self.execute_next(bob) for _ in range(len(RESULTS) // 2, len(RESULTS)))
        for node in (alice, bob):
            for task in await all_tasks(node):
                await node.wait(task.key, is_final)
            while await node.store.owed_peers():
                await self.turn()
        await self.stop(alice, bob)

    async def all(self, work: Iterable[Coroutine[Any, Any, object]]) -> None:
        """Do many things at once."""
        await gatherResults([Deferred.fromCoroutine(one) for one in work])

    async def submit(self, alice: MarkingNode, task_id: str) -> None:
        """Submit a task, and wait until Bob has it."""
        handle = await alice.submit(BOB, f"do {task_id}", task_id=task_id)
        self.disk.mark(Acknowledged(ALICE, handle.key, TaskStatus.NEW))
        await alice.wait(handle.key, lambda task: task.answered_at is not None)

    async def execute_next(self, bob: MarkingNode) -> None:
        """Execute the head of Bob's queue, and send its results."""
        task = await self.told(bob.execute(), bob)
        filename, content = RESULTS[task.task_id]
        if filename:
            sent = bob.send_results(task.key, filename=filename, content=content)
        else:
            sent = bob.send_results(task.key, content.decode())
        await self.told(sent, bob, content)


class PowerLossTests(WorkTestCase):
    """The store as it is."""

    async def test_nothing_told_is_lost(self) -> None:
        """Whatever the moment, the directories open, are whole, and hold all that was told; and the work goes on."""
        await self.work()
        for node in STATES:
            self.assertGreater(len(self.acknowledged(node)), len(RESULTS))
        await self.assert_nothing_lost(resume_every=RESUME_EVERY)

    async def test_nothing_told_is_lost_without_links(self) -> None:
        """The same holds for results on a disk that has no hard links."""
        self.patch(os, "link", _no_links)
        await self.work()
        await self.assert_nothing_lost()

    async def test_new_state_directory(self) -> None:
        """What was told by a node that has just made its state directory is not lost with the directory."""
        alice = self.start(ALICE, self.directory / "machine" / "new")
        handle = await alice.submit(BOB, "work")
        remains = Remains()
        for entry in self.disk.journal:
            remains.read(entry)
        told = [Acknowledged(ALICE, handle.key, TaskStatus.NEW)]
        self.assertEqual(await self.look(remains, "new/alice", None, told), [])


class UnsafeConnection(sqlite3.Connection):
    """Lets SQLite leave it to the operating system when anything reaches the disk."""

    @override
    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        return super().execute(sql.replace("synchronous = FULL", "synchronous = OFF"), parameters)


@tier("full")
class UnsafeStoreTests(WorkTestCase):
    """The same with stores that leave out a sync: what they lose is found, so it would be found above."""

    def leave_out_sync(self, is_of: Callable[[int], bool]) -> None:
        """Do not sync the result files, or the directories, of which ``is_of(st_mode)``."""
        sync = os.fsync
        self.patch(os, "fsync", lambda file: None if is_of(os.fstat(file).st_mode) else sync(file))

    async def first_loss(self) -> str:
        await self.work()
        return "\n".join(await self.losses(enough=1))

    async def test_database_not_synced(self) -> None:
        """With ``synchronous=OFF`` tasks are lost."""
        connect = sqlite3.connect
        self.patch(sqlite3, "connect", lambda *args, **options: connect(*args, factory=UnsafeConnection, **options))
        self.assertRegex(await self.first_loss(), "and is lost|it does not open")

    async def test_results_not_synced(self) -> None:
        """When result files are not synced, their content is lost."""
        self.leave_out_sync(stat.S_ISREG)
        self.assertIn("its results are 0 bytes", await self.first_loss())

    async def test_directory_not_synced(self) -> None:
        """When their directory is not synced, result files are lost."""
        self.leave_out_sync(stat.S_ISDIR)
        self.assertIn("its results cannot be read", await self.first_loss())
