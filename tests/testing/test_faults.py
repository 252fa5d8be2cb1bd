"""The store that fails on request. That it is a store otherwise is for the contract to say."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tasksubmit.errors import StoreError, StoreUncertain
from tasksubmit.testing import FaultyTaskStore, StoreFault
from tasksubmit.testing.contracts.samples import new_task
from tasksubmit.testing.faults import CERTAIN, METHODS


class FaultyTaskStoreTests(SynchronousTestCase):
    """Faults, one call each."""

    @override
    def setUp(self) -> None:
        self.store = FaultyTaskStore()
        self.store.open()
        self.addCleanup(lambda: self.store.discard())

    def create(self, task_id: str, *errors: type[Exception]) -> None:
        """Create a task; a call that fails does so with one of the errors."""
        created = self.store.create(new_task(task_id), [])
        if errors:
            self.assertIs(type(self.failureResultOf(created).value), *errors)
        else:
            self.successResultOf(created)

    def known(self) -> set[str]:
        """The tasks that the store has."""
        return {task.task_id for task in self.successResultOf(self.store.list_tasks())}

    def test_each_fault(self) -> None:
        """A fault is of one call, and either of nothing or of all of it; the caller is told what it may know."""
        for fault, error in (
            (StoreFault.ROLLED_BACK, StoreError),
            (StoreFault.UNCERTAIN_COMMITTED, StoreUncertain),
            (StoreFault.UNCERTAIN_ROLLED_BACK, StoreUncertain),
        ):
            self.store.fail("create", fault)
            self.create(fault.name, error)
            self.assertIs(self.store.is_in_doubt, error is StoreUncertain)
            self.assertEqual(fault.name in self.known(), fault is StoreFault.UNCERTAIN_COMMITTED)
            self.successResultOf(self.store.confirm())
            self.assertFalse(self.store.is_in_doubt)
            self.create(f"{fault.name}-2")
        self.assertEqual(self.store.calls["create"], 6)

    def test_order(self) -> None:
        """Faults of a method come in their order, each after the calls that are to succeed before it."""
        self.store.fail("create", after=1)
        self.store.fail("create", StoreFault.UNCERTAIN_ROLLED_BACK)
        self.store.fail("create", after=2)
        errors: tuple[tuple[type[Exception], ...], ...] = (
            (),
            (StoreError,),
            (StoreUncertain,),
            (),
            (),
            (StoreError,),
            (),
        )
        for number, expected in enumerate(errors):
            self.create(f"t-{number}", *expected)

    def test_other_methods(self) -> None:
        """Only the method that is named fails."""
        self.store.fail("apply")
        self.create("t-1")
        self.assertEqual(self.known(), {"t-1"})

    def test_wrong_faults(self) -> None:
        """A method that there is not, or that has no such fault, is refused by name, with what to do."""
        for method in ("close", "open", "crash", ""):
            with self.assertRaisesRegex(ValueError, f"method='{method}' cannot fail: name one of ITaskStore"):
                self.store.fail(method)
        for method in CERTAIN:
            with self.assertRaisesRegex(ValueError, f"method='{method}' .* use StoreFault.ROLLED_BACK"):
                self.store.fail(method, StoreFault.UNCERTAIN_COMMITTED)

    def test_methods(self) -> None:
        """Every method that changes nothing is one of the interface."""
        self.assertLess(CERTAIN, METHODS)
