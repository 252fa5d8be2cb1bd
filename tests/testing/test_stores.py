"""The store for tests: what it keeps, holds and lets go. That it is a store is for the contract to say."""

from __future__ import annotations

import sqlite3

from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import StoreClosed
from tasksubmit.testing import MemoryTaskStore
from tasksubmit.testing.contracts.samples import new_task


class MemoryTaskStoreTests(SynchronousTestCase):
    """A store in memory."""

    def setUp(self) -> None:
        self.store = MemoryTaskStore()
        self.store.open()
        self.addCleanup(lambda: self.store.discard())

    def count(self, store: MemoryTaskStore) -> int:
        """How many tasks it has."""
        return len(self.successResultOf(store.find("t-1")))

    def test_held(self) -> None:
        """What is held is committed when it is released, in its order, and what is asked meanwhile after it."""
        self.store.hold_commits()
        created = self.store.create(new_task(), [])
        again = self.store.create(new_task(), [])
        self.assertNoResult(created)
        self.assertEqual(self.count(self.store), 0)
        created.addCallback(lambda _: self.assertNoResult(again))
        self.store.release_commits()
        self.successResultOf(created)
        self.assertEqual(self.successResultOf(again)[1], False)
        self.successResultOf(self.store.create(new_task("t-2"), []))

    def test_closed_while_held(self) -> None:
        """Closing finishes what was asked for."""
        self.store.hold_commits()
        created = self.store.create(new_task(), [])
        self.successResultOf(self.store.close())
        self.successResultOf(created)
        self.failureResultOf(self.store.find("t-1"), StoreClosed)
        self.store.release_commits()
        self.store.open()
        self.assertEqual(self.count(self.store), 1)

    def test_crash(self) -> None:
        """After a crash the store does nothing and says nothing; its successor has what was committed."""
        self.store.create(new_task(), [])
        self.store.hold_commits()
        lost = self.store.create(new_task("t-2"), [])
        successor = self.store.crash()
        self.store.release_commits()
        for silent in (lost, self.store.find("t-1"), self.store.create(new_task("t-3"), []), self.store.close()):
            self.assertNoResult(silent)
        successor.open()
        self.addCleanup(successor.discard)
        self.assertEqual(self.count(successor), 1)
        self.assertEqual(self.successResultOf(successor.find("t-2")), [])

    def test_discard(self) -> None:
        """Discarding closes the database; the store is empty when it is opened again."""
        self.store.create(new_task(), [])
        self.successResultOf(self.store.close())
        database = self.store._memory
        assert database is not None
        self.store.discard()
        self.store.discard()
        self.assertRaises(sqlite3.ProgrammingError, database.execute, "SELECT 1")
        self.store.open()
        self.assertEqual(self.count(self.store), 0)
