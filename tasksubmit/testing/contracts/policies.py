"""What every policy does: of admission, and of acceptance."""

from __future__ import annotations

from twisted.internet.defer import maybeDeferred
from typing_extensions import override
from zope.interface.verify import verifyObject

from tasksubmit.interfaces import IAcceptancePolicy, IAdmissionPolicy, IPureAdmissionPolicy, Peer, Refusal
from tasksubmit.lifecycle.task import Task
from tasksubmit.node.courier import WORTH_TRYING_AGAIN
from tasksubmit.testing.contracts.base import Contract
from tasksubmit.testing.contracts.samples import START, new_task, submissions
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import MAX_TEXT_BYTES, SubmitRequest


class RefusalCase(Contract):
    """What is said of refusals."""

    def assert_for_people(self, message: object) -> None:
        """A message is one that a person understands."""
        assert isinstance(message, str), f"{message!r} is no text"
        self.assertTrue(message.isprintable(), f"{message!r} has line breaks, or what cannot be printed")
        self.assertGreater(len(message.split()), 1, f"{message!r} is not understood by people: say it in words")
        self.assertLessEqual(len(message.encode()), MAX_TEXT_BYTES)

    def assert_sound(self, refusal: Refusal) -> None:
        """A refusal says something to programs and to people."""
        self.assertRegex(refusal.code, r"\A[a-z][a-z_]{0,63}\Z")
        self.assert_for_people(refusal.message)
        self.assertIs(type(refusal.retry_after_s), int)
        self.assertGreaterEqual(refusal.retry_after_s, 0)
        if refusal.retry_after_s:
            self.assertIn(refusal.code, WORTH_TRYING_AGAIN, "nobody tries again after this code, whatever the hint")


class AdmissionContract(RefusalCase):
    """The behaviours of `IAdmissionPolicy`, and of `IPureAdmissionPolicy` where the policy claims it."""

    policy: IAdmissionPolicy

    def make_policy(self) -> IAdmissionPolicy:
        """Make the policy to be tested."""
        raise NotImplementedError

    @override
    def setUp(self) -> None:
        super().setUp()
        self.policy = self.make_policy()

    async def asked(self, peer: Peer, request: SubmitRequest) -> object:
        """What the policy says."""
        return await maybeDeferred(self.policy.admit, peer, request)

    async def test_interface(self) -> None:
        """The policy has all that the interface asks for."""
        verifyObject(IAdmissionPolicy, self.policy)

    async def test_every_submission(self) -> None:
        """Whatever valid submission it is asked about is admitted, or refused with a code and a message for people."""
        for peer, request in submissions():
            answer = await self.asked(peer, request)
            if answer is not None:
                assert isinstance(answer, Refusal), f"{answer!r} is neither None nor a Refusal"
                self.assert_sound(answer)

    async def test_pure(self) -> None:
        """A policy that claims that asking has no effect gives the same answer whenever it is asked."""
        if not IPureAdmissionPolicy.providedBy(self.policy):
            return
        first = [await self.asked(peer, request) for peer, request in submissions()]
        again = [await self.asked(peer, request) for peer, request in reversed(submissions())]
        self.assertEqual(first, again[::-1])


class AcceptanceContract(RefusalCase):
    """The behaviours of `IAcceptancePolicy`."""

    policy: IAcceptancePolicy

    def make_policy(self) -> IAcceptancePolicy:
        """Make the policy to be tested."""
        raise NotImplementedError

    @override
    def setUp(self) -> None:
        super().setUp()
        self.policy = self.make_policy()

    async def test_interface(self) -> None:
        """The policy has all that the interface asks for."""
        verifyObject(IAcceptancePolicy, self.policy)

    async def test_every_task(self) -> None:
        """Whatever new task it is asked about, and asked again, it says yes, no, or refuses it in words for people."""
        tasks = [_task(request) for _, request in submissions()]
        for task in tasks + tasks:
            answer = await maybeDeferred(self.policy.decide, task)
            if isinstance(answer, Refusal):
                self.assert_for_people(answer.message)
            else:
                self.assertIs(type(answer), bool, f"{answer!r} is neither True, False nor a Refusal")


def _task(request: SubmitRequest) -> Task:
    """The record of a submission that has just been admitted."""
    return new_task(
        request.task_id,
        peer=Address.parse(request.from_addr),
        description=request.task_description,
        features=request.features,
        created_at=START,
    )
