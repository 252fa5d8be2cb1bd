"""What a node does while its disk is full or fails, and afterwards."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReactorThreads
from typing_extensions import override

from tasksubmit.errors import StoreError, StoreUncertain
from tasksubmit.lifecycle.table import TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.stores.sqlite import SQLiteTaskStore
from tasksubmit.wire.messages import ResponseStatus, SubmitResponse
from tests.faults import vfs
from tests.faults.disk import Fault
from tests.faults.harness import STATES, MarkingNode, all_tasks, key_of, violations
from tests.faults.losses import PowerLossTestCase
from tests.node.helpers import ALICE, BOB, Message, request
from tests.protocol.support import RawFactory

_ATTEMPTS = 500
_QUIET_TURNS = 5


class FailingDiskTestCase(PowerLossTestCase):
    """Two nodes on a disk that is about to fail."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.alice, self.bob = self.start(ALICE), self.start(BOB)

    async def ask_bob(self, message: Message) -> SubmitResponse | None:
        """Send Bob a message as any peer does; gives the answer, or None if he aborts the connection."""
        dialled = self.network.client_endpoint(str(BOB)).connect(factory := RawFactory())
        await dialled
        [peer] = factory.peers
        peer.send(message.to_frame().encode())
        await self.until(lambda: peer.answers or peer.lost is not None, "there was no answer")
        if not peer.answers:
            assert peer.lost is not None
            peer.lost.trap(ConnectionLost)  # a clean end could be taken for delivery
            return None
        peer.close()
        return peer.answers[0]

    async def ask_until_accepted(self, message: Message) -> None:
        """Send Bob a message again and again, as a peer does that is answered 400 ``storage``, or not at all."""
        for _ in range(_ATTEMPTS):
            answer = await self.ask_bob(message)
            if answer is not None and answer.status == ResponseStatus.ACCEPTED:
                return
            await self.turn()
        self.fail("it is still refused")

    def assert_not_taken(self, answer: SubmitResponse | None, is_uncertain: bool = True) -> None:
        """The peer is to try again: told so, or, if it is not known what is on the disk, without an answer."""
        if answer is None:
            self.assertTrue(is_uncertain, "there was no answer")
        else:
            self.assertEqual((answer.status, answer.code), (ResponseStatus.REJECTED, "storage"))

    async def retry(self, command: Callable[[], Deferred[Task]]) -> None:
        """Give Bob a command again and again, as its caller does who was told that the disk is at fault."""
        for _ in range(_ATTEMPTS):
            try:
                await self.told(command(), self.bob)
                return
            except StoreError:
                await self.turn()
        self.fail("it still fails")

    async def last_error(self, key: TaskKey) -> str:
        """Wait until Bob has tried to deliver something in vain; why was it?"""
        for _ in range(_ATTEMPTS):
            for delivery in await self.bob.store.deliveries_of(key):
                if delivery.attempts:
                    return delivery.last_error
            await self.turn()
        return ""

    async def submitted(self, task_id: str) -> TaskKey:
        """Have Alice submit a task; gives the key of Bob's record."""
        handle = await self.alice.submit(BOB, "work", task_id=task_id)
        await self.alice.wait(handle.key, lambda task: task.answered_at is not None)
        return key_of(BOB, task_id)

    async def executing(self, task_id: str) -> TaskKey:
        """Have Bob execute a task; gives the key of his record, once Alice knows."""
        key = await self.submitted(task_id)
        await self.told(self.bob.accept(key), self.bob)
        await self.told(self.bob.execute(key), self.bob)
        await self.has_status(self.alice, task_id, TaskStatus.EXECUTING)
        return key

    async def has_status(self, node: MarkingNode, task_id: str, status: TaskStatus) -> None:
        """Wait until a record has a status."""
        await node.wait(key_of(node.address, task_id), lambda task: task.status is status)

    async def assert_done(self, task_id: str, text: str) -> None:
        """Both records become SUCCEEDED, with these results, and booked alike; nothing else lies about."""
        for node in (self.alice, self.bob):
            await self.has_status(node, task_id, TaskStatus.SUCCEEDED)
            self.assertEqual((await node.result(key_of(node.address, task_id))).result_text, text)
            [task] = [task for task in await all_tasks(node) if task.task_id == task_id]
            self.assertEqual(self.files(node), [task.result_file])
        self.assertEqual(await self.alice.store.scores(), await self.bob.store.scores())

    def files(self, node: MarkingNode) -> list[str]:
        """The result files of a node, with those that are under way."""
        directory = self.directory / "machine" / STATES[node.address] / "results"
        return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())

    def after_kill(self, node: MarkingNode) -> Path:
        """The state directory that a kill of the node's process would leave now: all that it wrote, synced or not."""
        state = self.directory / "machine" / STATES[node.address]
        copy = self.directory / "killed"
        copies: dict[int, Path] = {}
        for path in (path for path in state.rglob("*") if path.is_file()):
            target = copy / path.relative_to(state)
            target.parent.mkdir(parents=True, exist_ok=True)
            # A result file and its mark are one file, and have to stay so.
            if (same := copies.setdefault(path.stat().st_ino, target)) is target:
                shutil.copyfile(path, target)
            else:
                os.link(same, target)
        return copy

    async def restarted(self, node: MarkingNode) -> MarkingNode:
        """Stop a node, and start it again."""
        await self.stop(node)
        return self.start(node.address)

    def assert_helps(self, error: StoreError, where: Path) -> None:
        """The text of an error tells which disk it is about, and what to do."""
        self.assertIn(str(where), str(error))
        self.assertRegex(str(error), "disk|space")

    async def assert_survives(self) -> None:
        """Whenever the power fails, from the first fault on, all that was told is still so."""
        await self.stop(self.alice, self.bob)
        await self.assert_nothing_lost(first=self.disk.was_well_until)


if TYPE_CHECKING:
    Base = FailingDiskTestCase
else:
    Base = object  # so that trial runs the subclasses only


class FailingDatabaseContract(Base):
    """What a node does, whatever it is that fails below its database."""

    operation: str
    error: int
    is_uncertain = True
    """Whether a restart may show that what failed was done after all."""

    def assert_to_be_sent_again(self, error: str) -> None:
        """The results were not taken, and are not known to be on the disk."""
        self.assertRegex(error, "storage|non-clean" if self.is_uncertain else "storage")

    def break_database(self, node: MarkingNode, *, skip: int = 0) -> Fault:
        """Let everything of the kind fail from now on, or after some that succeed."""
        return self.disk.fail(self.operation, f"{STATES[node.address]}/tasks.db*", self.error, skip=skip)

    async def test_submission(self) -> None:
        """A submission is not taken, and is as soon as the disk is well, without a restart."""
        await self.ask_until_accepted(request("before"))
        fault = self.break_database(self.bob)
        for task_id in ("during", "again"):
            self.assert_not_taken(await self.ask_bob(request(task_id)), self.is_uncertain)
        self.assertGreater(fault.hits, 0)
        self.disk.heal()
        for task_id in ("during", "again", "after"):
            await self.ask_until_accepted(request(task_id))
        await self.assert_survives()

    async def test_many(self) -> None:
        """When the disk fails in the midst of many submissions, each is answered for what has become of it."""
        for turn, skip in enumerate((0, 1, 2, 5)):
            self.break_database(self.bob, skip=skip)
            task_ids = [f"{turn}-{n}" for n in range(8)]
            asked = [Deferred.fromCoroutine(self.ask_bob(request(task_id))) for task_id in task_ids]
            for answer in await gatherResults(asked):
                if answer is None or answer.status != ResponseStatus.ACCEPTED:
                    self.assert_not_taken(answer, self.is_uncertain)
            self.disk.heal()
            for task_id in task_ids:
                await self.ask_until_accepted(request(task_id))
        await self.assert_survives()

    async def test_restart(self) -> None:
        """A node that is stopped while its disk fails, and started when that is well, has all that it had told."""
        await self.ask_until_accepted(request("before"))
        self.break_database(self.bob)
        self.assert_not_taken(await self.ask_bob(request("during")))
        await self.stop(self.bob)
        self.disk.heal()
        self.bob = self.start(BOB)
        for task_id in ("before", "during", "after"):
            await self.ask_until_accepted(request(task_id))
        await self.assert_survives()

    async def test_command(self) -> None:
        """A command fails with an error that says where and what to do, changes nothing, and works when repeated."""
        key = await self.submitted("t1")
        self.break_database(self.bob)
        with self.assertRaises(StoreError) as caught:
            await self.bob.accept(key)
        self.assert_helps(caught.exception, self.directory / "machine" / "bob")
        self.disk.heal()
        await self.retry(lambda: self.bob.accept(key))
        await self.has_status(self.alice, "t1", TaskStatus.ACCEPTED)
        await self.assert_survives()

    async def test_reading(self) -> None:
        """What was there before can be read all the time."""
        key = await self.executing("t1")
        await self.told(self.bob.send_results(key, "done"), self.bob, b"done")
        await self.assert_done("t1", "done")
        self.break_database(self.bob)
        for n in range(5):
            self.assert_not_taken(await self.ask_bob(request(f"refused-{n}")), self.is_uncertain)
            await self.assert_done("t1", "done")

    async def test_giving_results(self) -> None:
        """Results that cannot be committed can be given again, and leave no file behind, at the latest at a start."""
        key = await self.executing("t1")
        await self.has_nothing_to_do(self.bob)
        self.break_database(self.bob)
        await self.fail_to_give(key)
        self.assert_left_behind(self.bob)
        self.disk.heal()
        await self.retry(lambda: self.bob.send_results(key, "second try"))
        self.bob = await self.restarted(self.bob)
        await self.assert_done("t1", "second try")
        await self.assert_survives()

    async def fail_to_give(self, key: TaskKey) -> None:
        """Have Bob give results in vain; the error tells whether a restart may show them."""
        with self.assertRaises(StoreError) as caught:
            await self.bob.send_results(key, "first try")
        self.assertIs(type(caught.exception), StoreUncertain if self.is_uncertain else StoreError)
        self.assert_helps(caught.exception, self.directory / "machine" / STATES[BOB])

    def assert_left_behind(self, node: MarkingNode) -> None:
        """A file that a record may turn out to name stays, and its mark; one that none can name is gone."""
        results = [f for f in self.files(node) if "/" not in f]
        self.assertEqual(self.files(node), [*(f".incoming/{f}" for f in results), *results])
        self.assertEqual("t1_result.txt" in results, self.is_uncertain)
        self.assertEqual(bool(results), self.is_uncertain)

    async def test_restart_without_results(self) -> None:
        """The file of results that no record came to name is gone after the next start."""
        key = await self.executing("t1")
        await self.has_nothing_to_do(self.bob)
        self.break_database(self.bob)
        await self.fail_to_give(key)
        self.disk.heal()
        self.bob = await self.restarted(self.bob)
        self.assertEqual(self.files(self.bob), [])
        await self.told(self.bob.send_results(key, "second try"), self.bob, b"second try")
        await self.assert_done("t1", "second try")
        await self.assert_survives()

    async def test_killed_after_giving_results(self) -> None:
        """A kill right after results could not be committed leaves no record that names a missing file."""
        key = await self.executing("t1")
        await self.has_nothing_to_do(self.bob)
        self.break_database(self.bob)
        await self.fail_to_give(key)
        await self.assert_found_after_kill(self.bob)

    async def test_killed_after_receiving_results(self) -> None:
        """A kill right after results could not be taken leaves no record that names a missing file."""
        key = await self.executing("t1")
        await self.has_nothing_to_do(self.bob)
        self.break_database(self.alice)
        await self.bob.send_results(key, "first try")
        self.assert_to_be_sent_again(await self.last_error(key))
        await self.assert_found_after_kill(self.alice)

    async def has_nothing_to_do(self, node: MarkingNode) -> None:
        """Wait until a node owes nothing to anybody, and writes nothing by itself."""
        quiet_turns = 0
        while quiet_turns < _QUIET_TURNS:
            written = len(self.disk.journal)
            await self.turn()
            await node.store.confirm()  # what was asked for before is written by then
            is_quiet = len(self.disk.journal) == written and not await node.store.owed_peers()
            quiet_turns = quiet_turns + 1 if is_quiet else 0

    async def assert_found_after_kill(self, node: MarkingNode) -> None:
        """What a kill leaves now is whole: the results are there if the record names them, and else are gone."""
        directory = self.after_kill(node)
        self.assertEqual(await violations(directory, self.acknowledged(node.address)), [])
        assert IReactorThreads.providedBy(reactor)
        store = SQLiteTaskStore(directory, reactor)
        store.open()
        [task] = await store.list_tasks()
        await store.close()
        # What was written, and only not synced, a kill does not undo.
        self.assertIs(task.status, TaskStatus.COMPLETED if self.operation == "sync" else TaskStatus.EXECUTING)
        left = [str(path.relative_to(directory / "results")) for path in directory.glob("results/**/*.txt")]
        self.assertEqual(left, [task.result_file] if task.result_file else [])

    async def test_receiving_results(self) -> None:
        """Results that cannot be taken are refused with ``storage``, and delivered when the disk is well.

        No file is left behind, at the latest at a start.
        """
        key = await self.executing("t1")
        fault = self.break_database(self.alice)
        await self.told(self.bob.send_results(key, "done"), self.bob, b"done")
        self.assert_to_be_sent_again(await self.last_error(key))
        self.assertGreater(fault.hits, 0)
        self.assert_left_behind(self.alice)
        self.disk.heal()
        await self.has_status(self.alice, "t1", TaskStatus.SUCCEEDED)
        self.alice = await self.restarted(self.alice)
        await self.assert_done("t1", "done")
        await self.assert_survives()


class FullDiskTests(FailingDatabaseContract, FailingDiskTestCase):
    """There is no space for the database."""

    operation, error = "write", vfs.FULL
    is_uncertain = False


class FailingWriteTests(FailingDatabaseContract, FailingDiskTestCase):
    """Writes to the database fail."""

    operation, error = "write", vfs.IOERR_WRITE


class FailingSyncTests(FailingDatabaseContract, FailingDiskTestCase):
    """Syncs of the database fail; what was written before them may never reach the disk."""

    operation, error = "sync", vfs.IOERR_FSYNC

    async def test_once(self) -> None:
        """One failed sync is enough for the store to open its database anew before it says yes again."""
        await self.ask_until_accepted(request("before"))
        opened = self.disk.opened_paths.count("bob/tasks.db")
        self.break_database(self.bob)
        self.assert_not_taken(await self.ask_bob(request("during")))
        self.disk.heal()
        await self.ask_until_accepted(request("after"))
        self.assertGreater(self.disk.opened_paths.count("bob/tasks.db"), opened)
        await self.assert_survives()

    async def test_confirm(self) -> None:
        """A commit whose sync failed is in doubt until `confirm` has fired; no kill then brings back what is not shown.

        Until then a kill may, for what was written and not synced is there for the next start to read.
        """
        await self.ask_until_accepted(request("before"))
        self.break_database(self.bob)
        self.assert_not_taken(await self.ask_bob(request("during")))
        with self.assertRaises(StoreError):
            await self.bob.store.confirm()
        self.assertEqual(await self.found_after_kill(), {"before", "during"})
        self.assertEqual({task.task_id for task in await all_tasks(self.bob)}, {"before"})
        self.disk.heal()
        await self.bob.store.confirm()
        self.assertEqual(await self.found_after_kill(), {"before"})
        await self.assert_survives()

    async def test_doubt_ends_without_a_restart(self) -> None:
        """A task whose commit was in doubt is so until the disk is well, and no longer; commands work as before."""
        key = await self.submitted("t1")
        await self.has_nothing_to_do(self.bob)
        self.break_database(self.bob)
        with self.assertRaises(StoreUncertain):
            await self.bob.accept(key)
        await self.until(lambda: self.bob.retrying, "nothing is done about the doubt")
        for _ in range(20):
            await self.turn()
            self.assertTrue(self.bob._records.is_in_doubt(key))
        self.disk.heal()
        await self.until(lambda: not self.bob._records.is_in_doubt(key), "the task is still in doubt")
        self.assertEqual(self.bob.retrying, {})
        await self.retry(lambda: self.bob.accept(key))
        await self.has_status(self.alice, "t1", TaskStatus.ACCEPTED)
        await self.assert_survives()

    async def found_after_kill(self) -> set[str]:
        """The tasks that Bob's next start would find after a kill now."""
        assert IReactorThreads.providedBy(reactor)
        directory = self.after_kill(self.bob)
        store = SQLiteTaskStore(directory, reactor)
        store.open()
        found = {task.task_id for task in await store.list_tasks()}
        await store.close()
        shutil.rmtree(directory)
        return found


class FailingCheckpointTests(FailingDiskTestCase):
    """The log can be written, but what it holds cannot be brought into the database."""

    async def test_checkpoint(self) -> None:
        """The node goes on meanwhile, and loses nothing."""
        for operation, error in (("write", vfs.FULL), ("sync", vfs.IOERR_FSYNC)):
            fault = self.disk.fail(operation, "bob/tasks.db", error)
            tried = 0
            while not fault.hits:
                tried += 1
                self.assertLess(tried, 100)
                await self.ask_bob(request(f"{operation}-{tried}", "work " * 200_000))
            self.disk.heal()
            for n in range(1, tried + 1):
                await self.ask_until_accepted(request(f"{operation}-{n}", "work " * 200_000))
        await self.assert_survives()


class FailingResultsTests(FailingDiskTestCase):
    """The database is well, but result files cannot be written."""

    faults = (
        ("write", "{}/results/*", errno.ENOSPC),
        ("sync", "{}/results/*", errno.EIO),
        ("link", "{}/results/*", errno.ENOSPC),
        ("sync", "{}/results", errno.EIO),
    )

    def break_results(self, node: MarkingNode, operation: str, pattern: str, error: int) -> Fault:
        return self.disk.fail(operation, pattern.format(STATES[node.address]), error)

    async def test_giving_results(self) -> None:
        """Results that cannot be written fail with a clear error, leave nothing behind, and can be given again."""
        for number, fault in enumerate(self.faults):
            key = await self.executing(f"t{number}")
            before = self.files(self.bob)
            self.break_results(self.bob, *fault)
            with self.assertRaises(StoreError, msg=str(fault)) as caught:
                await self.bob.send_results(key, "first try")
            self.assert_helps(caught.exception, self.directory / "machine" / "bob" / "results")
            self.assertEqual(self.files(self.bob), before, fault)
            self.disk.heal()
            await self.told(self.bob.send_results(key, "second try"), self.bob, b"second try")
            await self.has_status(self.bob, f"t{number}", TaskStatus.SUCCEEDED)
        await self.assert_survives()

    async def test_receiving_results(self) -> None:
        """Results that cannot be kept are refused with ``storage``, leave nothing behind, and are delivered later."""
        for number, fault in enumerate(self.faults):
            key = await self.executing(f"t{number}")
            before = self.files(self.alice)
            self.break_results(self.alice, *fault)
            await self.told(self.bob.send_results(key, "done"), self.bob, b"done")
            self.assertIn("storage", await self.last_error(key), fault)
            self.assertEqual(self.files(self.alice), before, fault)
            self.disk.heal()
            await self.has_status(self.bob, f"t{number}", TaskStatus.SUCCEEDED)
            result = await self.alice.result(key_of(ALICE, f"t{number}"))
            self.assertEqual(result.result_text, "done")
        self.assertEqual(await self.alice.store.scores(), await self.bob.store.scores())
        await self.assert_survives()
