"""The contracts: our own implementations keep them, and whatever breaks them is found out."""

from __future__ import annotations

import subprocess
import unittest
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet import process
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import ExecutionFailed
from tasksubmit.interfaces import (
    Execution,
    ExecutionResult,
    IAcceptancePolicy,
    IAdmissionPolicy,
    IExecutor,
    IPureAdmissionPolicy,
    Peer,
    PeerLoad,
    Refusal,
)
from tasksubmit.lifecycle.change import Change, Delivery, DeliveryKind
from tasksubmit.lifecycle.table import Lease, Side
from tasksubmit.lifecycle.task import Task
from tasksubmit.node.acceptance import AcceptAll
from tasksubmit.node.executors.process import ProcessExecutor
from tasksubmit.node.executors.python import CallableExecutor
from tasksubmit.node.load import Load
from tasksubmit.node.peers import StaticPeers
from tasksubmit.node.policy import (
    AllOf,
    Allow,
    Deny,
    PeerQuota,
    PeersOnly,
    QueueLimit,
    RateLimit,
    ScoreGate,
    SizeLimit,
)
from tasksubmit.testing import FakeExecutor, MemoryNetwork, MemoryScoreBook, MemoryTaskStore
from tasksubmit.testing.contracts import (
    AcceptanceContract,
    AdmissionContract,
    ExecutorContract,
    ScoreBookContract,
    StoreContract,
)
from tasksubmit.testing.contracts.base import Contract
from tasksubmit.testing.contracts.samples import OWN, PEER, submissions
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import MAX_DESCRIPTION_BYTES, SubmitRequest
from tests.processes import LONGEST_SECONDS
from tests.testing.test_executors import FakeContract, by_description

# --- those that keep them ----------------------------------------------------------------------------------------


class PeersOnlyTests(AdmissionContract, TestCase):
    """Admission of peers."""

    def make_policy(self) -> PeersOnly:
        """See `AdmissionContract`."""
        return PeersOnly(StaticPeers({PEER: MemoryNetwork(Clock()).client_endpoint("x")}))


POLICIES: dict[str, Callable[[], IAdmissionPolicy]] = {
    "Allow": lambda: Allow([PEER]),
    "Deny": lambda: Deny([PEER]),
    "SizeLimit": lambda: SizeLimit(100),
    "PeerQuota": lambda: PeerQuota(10, 1000, load=full_load()),
    "QueueLimit": lambda: QueueLimit(5, load=full_load()),
    "RateLimit": lambda: RateLimit(Clock(), 1, 2),
    "ScoreGate": lambda: ScoreGate(OWN, lambda address: succeed(address.node)),
    "AllOf": lambda: AllOf([SizeLimit(100), PeerQuota(10, 1000, load=full_load()), RateLimit(Clock(), 1, 2)]),
    "AllOfSlow": lambda: AllOf([ScoreGate(OWN, lambda address: succeed(address.node)), SizeLimit(100)]),
}


def full_load() -> Load:
    """More than is good."""
    load = Load()
    load.recount([PeerLoad(PEER, new=10, queued=5, open=15, records=15, stored_bytes=1010)])
    return load


class PolicyTests(AdmissionContract, TestCase):
    """Each policy of admission that comes with the package."""

    def make_policy(self) -> IAdmissionPolicy:
        """See `AdmissionContract`; the first of them, `test_each` runs the others."""
        return AllOf([])

    def test_each(self) -> None:
        """Each keeps the contract."""
        for name, make in POLICIES.items():
            tests = type(
                name, (AdmissionContract, SynchronousTestCase), {"make_policy": lambda case, make=make: make()}
            )
            result = unittest.TestResult()
            unittest.defaultTestLoader.loadTestsFromTestCase(tests).run(result)
            self.assertEqual([text for _, text in result.failures + result.errors], [], name)
            self.assertGreaterEqual(result.testsRun, 3)


class MemoryScoreBookTests(ScoreBookContract, TestCase):
    """The score book in memory."""

    def make_book(self) -> MemoryScoreBook:
        """See `ScoreBookContract`."""
        return MemoryScoreBook()


class AcceptAllTests(AcceptanceContract, TestCase):
    """Acceptance of all."""

    def make_policy(self) -> AcceptAll:
        """See `AcceptanceContract`."""
        return AcceptAll()


class CallableExecutorTests(ExecutorContract, TestCase):
    """An executor that calls a function."""

    succeeding, expected, failing, endless, reporting = "work", "done", "fail", "go on", "tell"

    def make_executor(self) -> CallableExecutor:
        """See `ExecutorContract`."""
        self.waiting: list[Deferred[ExecutionResult]] = []
        return CallableExecutor(self.work)

    def work(self, execution: Execution) -> ExecutionResult | Deferred[ExecutionResult]:
        """What the description says."""
        result = by_description(execution)
        if result is not None:
            return result
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def running(self) -> int:
        """See `ExecutorContract`."""
        return sum(not waiting.called for waiting in self.waiting)


class ProcessExecutorTests(ExecutorContract, TestCase):
    """An executor that runs a command."""

    succeeding, expected, failing, endless, reporting = "work", "done", "fail", "go on", "tell"
    timeout = LONGEST_SECONDS

    def make_executor(self) -> ProcessExecutor:
        """See `ExecutorContract`."""
        from twisted.internet import reactor

        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        script = f"touch '{self.directory}'/$$; case $(cat) in"
        script += " work) printf done;; tell) echo progress half of it >&3;; fail) echo it cannot be >&2; exit 1;;"
        script += " *) exec sleep 1000;; esac"
        return ProcessExecutor(reactor=reactor, command=("sh", "-c", script), grace_seconds=0.1)

    def running(self) -> int:
        """See `ExecutorContract`."""
        # A command that was just started has left no trace yet; that of one which has ended is gone at once.
        alive = sum(is_alive(int(path.name)) for path in self.directory.iterdir())
        return max(alive, len(process.reapProcessHandlers))


def is_alive(pid: int) -> bool:
    """Whether a process does anything any more; one that nobody has asked about yet is still listed."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(done.stdout.strip()) and not done.stdout.startswith("Z")


# --- those that do not -------------------------------------------------------------------------------------------


class BrokenCase(SynchronousTestCase):
    """Finds what a contract says of an implementation."""

    def failed(self, contract: type[Contract], names: Collection[str] = (), **made: Callable[[], Any]) -> set[str]:
        """The names of the tests that fail, without ``test_``; `made` are the methods that make what is tested.

        :param names: the tests to run; by default all.
        """

        def making(make: Callable[[], Any]) -> Callable[[Any], Any]:
            return lambda case: self.made(case, make())

        methods: dict[str, Any] = {name: making(make) for name, make in made.items()}
        case: Any = type("Broken", (contract, unittest.TestCase), methods)
        result = unittest.TestResult()
        every = unittest.defaultTestLoader.loadTestsFromTestCase(case)
        suite = unittest.TestSuite(case(f"test_{name}") for name in names) if names else every
        suite.run(result)
        self.assertGreater(result.testsRun, 0)
        self.flushLoggedErrors()
        return {test.id().split(".test_")[-1] for test, _ in result.failures + result.errors}

    def made(self, case: unittest.TestCase, thing: Any) -> Any:
        """See that what was made goes when the test of it is over."""
        if isinstance(thing, MemoryTaskStore):
            case.addCleanup(thing.discard)
        return thing


class HeadStore(MemoryTaskStore):
    """Gives the queue the wrong way round."""

    @override
    def queue(self, limit: int, **cursors: int | None) -> Deferred[list[Task]]:
        return super().queue(limit).addCallback(lambda tasks: tasks[::-1])


class BoldStore(MemoryTaskStore):
    """Carries out stale changes."""

    @override
    def apply(self, change: Change) -> Deferred[Task]:
        def anew(now: Task | None) -> Deferred[Task]:
            assert now is not None
            after = evolve(change.after, revision=now.revision, number=now.number)
            return MemoryTaskStore.apply(self, evolve(change, before=now, after=after))

        return self.get(change.before.key).addCallback(anew)


class ForgetfulStore(MemoryTaskStore):
    """Keeps nothing when it is closed."""

    @override
    def close(self) -> Deferred[None]:
        return super().close().addCallback(lambda _: self.discard())


class EagerStore(MemoryTaskStore):
    """Gives what is owed too early."""

    @override
    def ready_deliveries(
        self,
        peer: Address,
        now: datetime,
        limit: int,
        skip: Collection[int] = (),
        kinds: Collection[DeliveryKind] = tuple(DeliveryKind),
        sides: Collection[Side] = tuple(Side),
    ) -> Deferred[list[tuple[Delivery, Task]]]:
        return super().ready_deliveries(peer, datetime.max.replace(tzinfo=now.tzinfo), limit, skip)


class RuthlessStore(MemoryTaskStore):
    """Says that it has forgotten what it has not."""

    @override
    def forget(self, task: Task, now: datetime) -> Deferred[bool]:
        return super().forget(task, now).addCallback(lambda _: True)


class OpenStore(MemoryTaskStore):
    """Answers although it is closed."""

    @override
    def find(self, task_id: str, peer: Address | None = None) -> Deferred[list[Task]]:
        return super().find(task_id, peer).addErrback(lambda _: [])


class TardyStore(MemoryTaskStore):
    """Finds nothing due."""

    @override
    def due(self, deadline: Any, before: datetime, limit: int) -> Deferred[list[Task]]:
        return succeed([])


class LateStore(MemoryTaskStore):
    """Answers when nobody is there any more."""

    @override
    def create(self, task: Task, owed: Sequence[Delivery]) -> Deferred[tuple[Task, bool]]:
        return Deferred()


class BrokenStoreTests(BrokenCase):
    """Stores that break the contract."""

    def test_broken(self) -> None:
        """Each fault is found, by the tests that are about it."""
        self.assertEqual(self.failed(StoreContract, make_store=MemoryTaskStore), set())
        for broken, by in (
            (HeadStore, {"in_the_order_of_the_calls"}),
            (BoldStore, {"stale"}),
            (ForgetfulStore, {"every_field_is_kept"}),
            (EagerStore, {"in_order_within_a_task"}),
            (RuthlessStore, {"not_forgotten"}),
            (OpenStore, {"closed"}),
            (TardyStore, {"due"}),
        ):
            self.assertEqual(self.failed(StoreContract, by, make_store=broken), by, broken.__name__)

    def test_needs_a_reactor(self) -> None:
        """A test that waits for a reactor, where none runs, says what to do."""
        case: Any = type(
            "Late", (StoreContract, unittest.TestCase), {"make_store": lambda case: self.made(case, LateStore())}
        )
        result = unittest.TestResult()
        case("test_create_once").run(result)
        [(_, text)] = result.failures
        self.assertIn("inherit from twisted.trial.unittest.TestCase instead", text)


@implementer(IExecutor)
class Broken:
    """An executor, nearly."""

    lease: Any = Lease()

    def __init__(self) -> None:
        self.works: list[Deferred[ExecutionResult]] = []

    def __str__(self) -> str:
        return "broken"

    def execute(self, execution: Execution) -> Any:
        result = by_description(execution)
        if result is None:
            self.works.append(Deferred())
            return self.works[-1]
        return result

    @property
    def running(self) -> list[Any]:
        return [work for work in self.works if not work.called]


class Unleased(Broken):
    """Its lease is a number."""

    lease = 60


class Nameless(Broken):
    """Says nothing to people."""

    def __str__(self) -> str:
        return object.__repr__(self)


class Foreign(Broken):
    """Gives results that cannot be sent."""

    def execute(self, execution: Execution) -> Any:
        return b"done" if execution.description == "work" else super().execute(execution)


class Cheerful(Broken):
    """Never fails."""

    def execute(self, execution: Execution) -> Any:
        return "well" if execution.description == "fail" else super().execute(execution)


class Mute(Broken):
    """Fails without a word."""

    def execute(self, execution: Execution) -> Any:
        if execution.description == "fail":
            raise ExecutionFailed("")
        return super().execute(execution)


class Leaky(Broken):
    """Fires when it is cancelled, and works on."""

    def execute(self, execution: Execution) -> Any:
        work = super().execute(execution)
        if isinstance(work, Deferred):
            self.works[-1] = Deferred()
        return work


class Deaf(Broken):
    """Never fires once it is cancelled."""

    def execute(self, execution: Execution) -> Any:
        work = super().execute(execution)
        return self._for_ever(work) if isinstance(work, Deferred) else work

    async def _for_ever(self, work: Deferred[ExecutionResult]) -> ExecutionResult:
        while True:
            try:
                return await work
            except Exception:
                work = Deferred()


class Single(Broken):
    """Ends what it does when it is given more to do."""

    def execute(self, execution: Execution) -> Any:
        for work in self.running:
            work.callback("too much")
        return super().execute(execution)


class Blank(Broken):
    """Tells progress that says nothing."""

    def execute(self, execution: Execution) -> Any:
        return super().execute(evolve(execution, progress=lambda text: execution.progress("")))


class BrokenExecutorTests(BrokenCase):
    """Executors that break the contract."""

    def test_broken(self) -> None:
        """Each fault is found, by the tests that are about it."""
        self.assertEqual(self.failed(FakeContract, make_executor=Broken), set())
        for broken, by in (
            (object, {"interface", "results", "failure", "cancel", "several_at_once", "progress"}),
            (Unleased, {"interface"}),
            (Nameless, {"interface"}),
            (Foreign, {"results", "failure", "cancel", "several_at_once"}),
            (Cheerful, {"failure"}),
            (Mute, {"failure"}),
            (Leaky, {"cancel", "several_at_once"}),
            (Deaf, {"cancel", "several_at_once"}),
            (Single, {"several_at_once"}),
            (Blank, {"progress"}),
            (lambda: FakeExecutor("done"), {"failure", "cancel", "several_at_once", "progress"}),
        ):
            self.assertEqual(self.failed(FakeContract, make_executor=broken), by, broken)


@implementer(IPureAdmissionPolicy)
class Admitting:
    """Asks a function."""

    def __init__(self, admit: Callable[[SubmitRequest], Any]) -> None:
        self._admit = admit

    def admit(self, peer: Peer, request: SubmitRequest) -> Any:
        """See `IAdmissionPolicy.admit`."""
        return self._admit(request)


class BrokenPolicyTests(BrokenCase):
    """Policies that break the contracts."""

    def admission(self, admit: Callable[[SubmitRequest], Any]) -> set[str]:
        """What fails for an admission policy."""
        return self.failed(AdmissionContract, make_policy=lambda: Admitting(admit))

    def test_submissions(self) -> None:
        """What the policies are asked about is valid, and there is much of it."""
        self.assertGreater(len(submissions()), 30)
        for _, request in submissions():
            request.validate(MAX_DESCRIPTION_BYTES)

    def test_sound_admission(self) -> None:
        """A policy may admit, refuse, and take its time for either."""
        refusal = Refusal("quota", "too many tasks", 60)
        for answer in (None, refusal):
            self.assertEqual(self.admission(lambda request, answer=answer: answer), set())  # type: ignore[misc]
            self.assertEqual(self.admission(lambda request, answer=answer: succeed(answer)), set())  # type: ignore[misc]

    def test_broken_admission(self) -> None:
        """Each fault is found."""
        answers: Iterable[Any] = (
            True,
            "no",
            Refusal("", "too many tasks"),
            Refusal("Too many", "too many tasks"),
            Refusal("quota", ""),
            Refusal("quota", "quota"),
            Refusal("quota", "too\nmany tasks"),
            Refusal("score_too_low", "try again later", 60),
            fail(KeyError("x")),
        )
        for answer in answers:
            if isinstance(answer, Deferred):
                answer.addErrback(lambda _: None)
                found = self.admission(lambda request: fail(KeyError("x")))
                self.assertEqual(found, {"every_submission", "pure"})
            else:
                found = self.admission(lambda request, answer=answer: answer)  # type: ignore[misc]
                self.assertEqual(found, {"every_submission"}, answer)
        self.assertEqual(self.failed(AdmissionContract, make_policy=object), {"interface", "every_submission"})

    def test_raises(self) -> None:
        """A policy that chokes on an odd request is found."""
        for choke in (
            lambda request: request.task_description.encode("ascii") and None,
            lambda request: int(request.from_addr.split(".")[-1]) and None,
            lambda request: request.features[0] and None,
        ):
            self.assertEqual(self.admission(choke), {"every_submission", "pure"})

    def test_impure(self) -> None:
        """A policy on which being asked has an effect is found, if it claims that it has none."""
        counted = count()
        refusal = Refusal("rate_limited", "too many tasks")
        self.assertEqual(self.admission(lambda request: refusal if next(counted) > 50 else None), {"pure"})

        @implementer(IAdmissionPolicy)
        class Honest(Admitting):
            """Claims nothing."""

        from zope.interface import classImplementsOnly

        classImplementsOnly(Honest, IAdmissionPolicy)
        again = count()
        self.assertEqual(
            self.failed(
                AdmissionContract, make_policy=lambda: Honest(lambda request: refusal if next(again) > 50 else None)
            ),
            set(),
        )

    def test_acceptance(self) -> None:
        """A policy of acceptance says yes, no, or refuses in words; anything else is found."""

        @implementer(IAcceptancePolicy)
        class Accepting:
            def __init__(self, answer: Any) -> None:
                self._answer = answer

            def decide(self, task: Task) -> Any:
                return self._answer(task) if callable(self._answer) else self._answer

        good: Iterable[Any] = (True, False, Refusal("", "I have no time"), lambda task: succeed(True))
        bad: Iterable[Any] = (None, 1, "yes", Refusal("busy", ""), Refusal("busy", "busy"), lambda task: task.nothing)
        for answers, expected in ((good, set()), (bad, {"every_task"})):
            for answer in answers:
                found = self.failed(AcceptanceContract, make_policy=lambda answer=answer: Accepting(answer))  # type: ignore[misc]
                self.assertEqual(found, expected, answer)
        self.assertEqual(self.failed(AcceptanceContract, make_policy=object), {"interface", "every_task"})
