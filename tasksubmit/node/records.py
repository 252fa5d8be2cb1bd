"""The one place where a task's record changes: read, look up the table, commit, and only then tell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock

from tasksubmit.errors import IllegalTransition, InvalidTime, StaleTask, StoreUncertain, UnknownTask
from tasksubmit.interfaces import ITaskStore, SavedResult
from tasksubmit.lifecycle.change import Booking, Change, Delivery, DeliveryKind, Note, TaskEvent
from tasksubmit.lifecycle.results import TEXT_RESULT
from tasksubmit.lifecycle.table import DECIDED_BY, Deadline, Effect, Event, Side, TaskStatus, advance
from tasksubmit.lifecycle.task import Task, TaskKey, from_milliseconds, to_milliseconds
from tasksubmit.node.clock import NodeClock
from tasksubmit.node.doubts import Doubts
from tasksubmit.node.room import ResultRoom
from tasksubmit.protocol.elsewhere import Elsewhere
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import ACK, TaskResultMessage, TaskStatusUpdate
from tasksubmit.wire.timestamps import format_time, parse_time

HOLD = timedelta(seconds=1)
"""How long after the answer to a submission nothing about the task is sent to a peer without ``ack``."""

MAX_KEPT_TEXT = 1000
"""Characters of a refusal or an error that are kept."""

_MAX_REMEMBERED = 512
_MAX_REMEMBERED_TEXT = 4096
"""How many records are remembered; how long the description of each may be, and what was said of it, in characters."""

Decision = Callable[[Task, datetime], tuple[Sequence[Event], Mapping[str, Any]]]
"""Given a record as it is and the time: what happens to it, and the fields that this sets besides."""


def always(*events: Event, **fields: Any) -> Decision:
    """The decision that does not depend on the record."""
    return lambda task, now: (events, fields)


def clipped(text: str) -> str:
    """As much of a text that another agent wrote as a record keeps."""
    return text[:MAX_KEPT_TEXT]


def kept_as(message: TaskResultMessage, saved: SavedResult) -> dict[str, Any]:
    """The fields of a record that name its results, which a message carried and the store has saved."""
    return {
        "result_type": message.result_type,
        "result_filename": message.filename,
        "result_file": saved.name,
        "result_sha256": saved.sha256,
        "result_bytes": saved.size_bytes,
    }


def overdue(task: Task, deadline: Deadline) -> tuple[Sequence[Event], Mapping[str, Any]]:
    """What happens to a task whose ``deadline`` has passed."""
    events = task.events_of(deadline)
    # A refusal keeps the receiver's own words, and a query says nothing yet.
    is_silent = not deadline.reason or events[0] in (Event.REFUSE, Event.QUERY_UNDECIDED)
    return events, {} if is_silent else {"justification": deadline.reason}


def recorded_time(text: str) -> datetime:
    """Read a time stamp of a message as records keep it, in whole milliseconds.

    :raises InvalidTime: when it is none, or its offset takes it out of the years that a record can hold.
    """
    try:
        return from_milliseconds(to_milliseconds(parse_time(text)))
    except OverflowError:
        raise InvalidTime(f"{text[:80]!r} lies outside the years 1 to 9999 in UTC") from None


class Records:
    """Changes tasks in the store, one event at a time for each task, and tells whoever waits.

    :param own: the node's address.
    :param clock: gives the time, to `Records.now`.
    :param changed: is called with each record that was changed, as it was and as it is, after the commit.
    :param owed: is called with a peer when something has become owed to it.
    :param is_fair: whether the submitters take turns in the queue.
    :param doubts: are told of every task whose commit may or may not have happened.
    :param room: on the disk, for results.
    :param elsewhere: makes a call in a thread if it is about many bytes.
    :param booked: is called when something was booked that a score book is to be told; None if there is no score book.
    """

    def __init__(
        self,
        own: Address,
        store: ITaskStore,
        clock: NodeClock,
        changed: Callable[[Task, Task], None],
        owed: Callable[[Address], None],
        doubts: Doubts,
        room: ResultRoom,
        elsewhere: Elsewhere,
        booked: Callable[[], None] | None = None,
        is_fair: bool = False,
    ) -> None:
        self.own = own
        self.store = store
        self.now = clock.now
        self._changed = changed
        self._owed = owed
        self.doubts = doubts
        self.room = room
        self.elsewhere = elsewhere
        self._booked = booked
        self._is_fair = is_fair
        self._locks: dict[TaskKey, DeferredLock] = {}
        self._held_until: dict[TaskKey, datetime] = {}
        self._recent: dict[TaskKey, Task] = {}

    async def save_result(self, peer: Address, message: TaskResultMessage) -> SavedResult:
        """Keep the results that a message to or from a peer carries, if its share has space; see `ResultRoom.save`."""
        filename = message.filename if message.result_type == "file" else TEXT_RESULT
        content = await self.elsewhere(len(message.result_text), message.content)
        return await self.room.save(self.store, peer, message.task_id, filename, content)

    def create(self, task: Task) -> Deferred[tuple[Task, bool]]:
        """Keep a new task; fires with it and True, or with the record that has its key and False."""
        effects = advance(task.side, None, Event.SUBMIT).effects
        deliveries = [self._delivery(effect, task, task.created_at) for effect in effects]
        created = self.store.create(task, deliveries)
        if deliveries:
            return created.addCallbacks(self._created, self.doubts.note, errbackArgs=(task.key,))
        return created  # there are many of these: the receiver notes doubts itself

    def is_in_doubt(self, key: TaskKey) -> bool:
        """True while it is unknown whether a change of the task is on disk: nobody may be told about the task then."""
        return key in self.doubts

    def _created(self, created: tuple[Task, bool]) -> tuple[Task, bool]:
        task, is_new = created
        if is_new:
            self._owed(task.peer)
        return created

    def hold_messages(self, key: TaskKey) -> None:
        """Have no message about a received task go out before `HOLD` has passed, counted from now.

        A reference peer writes its record of a task only after it has read the answer to the submission: until then it
        ignores what it is sent about the task (wire.md, section 3).
        """
        now = self.now()
        while self._held_until and (first := next(iter(self._held_until.items())))[1] <= now:
            del self._held_until[first[0]]
        self._held_until[key] = now + HOLD

    async def get(self, key: TaskKey) -> Task:
        """The record known by ``key``.

        :raises UnknownTask: when there is none.
        """
        task = await self.store.get(key)
        if task is None:
            role = "from" if key.side is Side.RECEIVER else "submitted to"
            raise UnknownTask(f"there is no task {key.task_id} {role} {key.peer} here")
        return task

    async def reread(self, key: TaskKey, found: Callable[[Task | None], None]) -> None:
        """Read a record, and call ``found`` with it before anything else changes it."""
        async with self._one_at_a_time(key):
            found(await self.store.get(key))

    async def change(
        self,
        what: Task | TaskKey,
        decide: Decision,
        *,
        settles: Delivery | None = None,
        gives_up: Delivery | None = None,
        revives: bool = False,
        note: tuple[Note, str] | None = None,
    ) -> Task:
        """Carry out what ``decide`` says about a record; returns the record after the commit.

        :param what: the record as it was read a moment ago, or what it is known by.
        :param settles: a delivery that ends with the change.
        :param gives_up: a delivery that is not to be tried again by itself.
        :param revives: whether to try what was given up again.
        :param note: what the task's story says besides the events; by default what happened to the delivery.

        :raises UnknownTask: when there is no such record.
        :raises IllegalTransition: when the table does not allow it; nothing changed.
        :raises StoreError: when it could not be committed; nothing changed.
        :raises StoreUncertain: when it is unknown whether it was committed; the task is in doubt until that is known.
        """
        key = what.key if isinstance(what, Task) else what
        async with self._one_at_a_time(key):
            remembered = self._recent.pop(key, None)
            if isinstance(what, Task) and (remembered is None or remembered.revision < what.revision):
                remembered = what
            while True:
                before = remembered or await self.get(key)
                try:
                    change = self._plan(before, decide, settles, gives_up, revives, note)
                    if not change.is_empty:
                        after = await self.store.apply(change)
                        break
                    if remembered is None:
                        self._refuse_in_doubt(key)
                        return before
                except StoreUncertain:
                    self.doubts.add(key)
                    raise
                except StaleTask:
                    pass  # someone else was first: the queue, the clock, another node on the same store
                except IllegalTransition:
                    if remembered is None:
                        self._refuse_in_doubt(key)
                        raise
                remembered = None  # what was not carried out is decided again on what the store has
            self.remember(after)
        self._changed(change.before, after)
        if change.deliveries or settles or gives_up or revives:
            self._owed(after.peer)
        if change.tells_bookings and self._booked is not None:
            self._booked()
        return after

    def _refuse_in_doubt(self, key: TaskKey) -> None:
        """Say nothing about a record that may not be on disk as it was read.

        :raises StoreUncertain: when the task is in doubt.
        """
        if self.is_in_doubt(key):
            raise StoreUncertain(f"it is unknown whether the last change of task {key.task_id} is on disk: try again")

    def remember(self, task: Task) -> None:
        """Keep a record for the next change of it, which often comes soon."""
        longest = max(len(task.description), len(task.justification) + len(task.error))
        if longest <= _MAX_REMEMBERED_TEXT and not task.status.is_final:
            self._recent[task.key] = task
            if len(self._recent) > _MAX_REMEMBERED:
                del self._recent[next(iter(self._recent))]

    def remembered(self, key: TaskKey) -> Task | None:
        """The record as it was a moment ago, if it is kept: good enough to begin with what a change will decide."""
        return self._recent.get(key)

    async def retry(self, key: TaskKey) -> Task:
        """Have what was given up for a task tried again, as if it were new.

        :raises IllegalTransition: when nothing was given up.
        """

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            if task.delivery_given_up_at is None:
                raise IllegalTransition(f"nothing that is owed for task {key.task_id} was given up")
            ended_at = task.ended_at if task.is_settled else None
            return (), {"delivery_given_up_at": None, "ended_at": ended_at, "code": "", "error": ""}

        return await self.change(key, decide, revives=True, note=(Note.RETRIED, ""))

    async def results(self, task: Task) -> TaskResultMessage:
        """The results of a task, as the message that carries them."""
        content = await self.store.read_result(task.result_file, task.result_sha256)
        is_file = task.result_type == "file"
        return TaskResultMessage(
            task_id=task.task_id,
            result_type=task.result_type,
            result_text="" if is_file else content.decode(),
            filename=task.result_filename,
            file_data=content if is_file else b"",
            completed_at=format_time(task.completed_at) if task.completed_at else "",
            time_idle_ms=task.time_idle_ms,
            time_staged_ms=task.time_staged_ms,
            time_cpu_ms=task.time_cpu_ms,
            ack=True,
            from_addr=str(self.own),
        )

    def _plan(
        self,
        before: Task,
        decide: Decision,
        settles: Delivery | None,
        gives_up: Delivery | None,
        revives: bool,
        note: tuple[Note, str] | None,
    ) -> Change:
        now = self.now()
        events, fields = decide(before, now)
        after = before.evolved(**fields)
        story: list[TaskEvent] = []
        deliveries: list[Delivery] = []
        drops_pending = False
        bookings: list[Booking] = []
        if note is None and settles is not None:
            note = Note.DELIVERED, described(settles)
        if note is not None:
            story.append(noted(after.status, now, *note, by=before.side.value if revives else "node"))
        for event in events:
            transition = advance(after.side, after.status, event)
            after = after.advanced(transition, now)
            detail = fields.get("error") or fields.get("justification") or transition.outcome
            story.append(_told(event, after.status, now, detail))
            for effect in transition.effects:
                if effect in _BOOKINGS:
                    bookings.extend(self._bookings(effect, after))
                elif effect is Effect.DROP_PENDING:
                    deliveries.clear()
                    drops_pending = True
                else:
                    deliveries.append(self._delivery(effect, after, now))
        return Change(
            before=before,
            after=after,
            at=now,
            events=tuple(story),
            deliveries=tuple(deliveries),
            bookings=tuple(bookings),
            settles=settles.id if settles else None,
            gives_up=gives_up.id if gives_up else None,
            revives=revives,
            drops_pending=drops_pending,
            tells_bookings=bool(bookings) and self._booked is not None,
            is_fair=self._is_fair,
        )

    def _delivery(self, effect: Effect, task: Task, now: datetime) -> Delivery:
        kind = _DELIVERIES[effect]
        payload = b""
        if kind in (DeliveryKind.STATUS, DeliveryKind.PROGRESS):
            is_withdrawal = effect is Effect.OWE_CANCELLATION
            update = TaskStatusUpdate(
                task_id=task.task_id,
                status=(TaskStatus.CANCELLED if is_withdrawal else task.status).value,
                justification=task.justification,
                ack=True,
                outcome=task.cancel_outcome if is_withdrawal else task.outcome,
                error="" if is_withdrawal else task.error,
                from_addr=str(self.own),
            )
            update.validate()  # what cannot be told must not happen either
            payload = update.to_json()
        return Delivery(
            key=task.key, kind=kind, payload=payload, created_at=now, ready_at=self._held_until_of(task, now)
        )

    def _held_until_of(self, task: Task, now: datetime) -> datetime | None:
        """Return before when no message about a task may be sent; None if there is no such time.

        After a restart it is not known when the submission was answered, but when the task was created.
        """
        if task.side is Side.SUBMITTER or ACK in task.features:
            return None
        held_until = self._held_until.get(task.key) or task.created_at + HOLD
        return min(held_until, now + HOLD)  # the clock may have been set back

    def _bookings(self, effect: Effect, task: Task) -> list[Booking]:
        is_own = task.peer == self.own
        if is_own and task.side is Side.RECEIVER:
            return []  # the node works for itself: its other record books for both
        submitter, receiver = (self.own, task.peer) if task.side is Side.SUBMITTER else (task.peer, self.own)
        if effect is Effect.BOOK_EXPIRY:
            return [Booking(receiver, -1, "expired")]
        if task.reward is None:
            return []  # a deployed submitter does not say what it booked
        if is_own:
            return [Booking(self.own, task.reward - 1, "completed")]
        return [Booking(submitter, -1, "completed"), Booking(receiver, task.reward, "completed")]

    @asynccontextmanager
    async def _one_at_a_time(self, key: TaskKey) -> AsyncIterator[None]:
        lock = self._locks.setdefault(key, DeferredLock())
        await lock.acquire()
        try:
            yield
        finally:
            if not lock.waiting:
                self._locks.pop(key, None)
            lock.release()


def described(delivery: Delivery) -> str:
    """A delivery, as a task's story names it."""
    if not delivery.payload:
        return delivery.kind.value
    return f"{delivery.kind.value} {TaskStatusUpdate.from_json(delivery.payload).status}"


def noted(status: TaskStatus, now: datetime, name: Note, detail: str, by: str = "node") -> TaskEvent:
    """A line of the story that no event of the table tells."""
    return TaskEvent(at=now, name=name.value, by=by, status=status, detail=clipped(detail))


def _told(event: Event, status: TaskStatus, now: datetime, detail: str) -> TaskEvent:
    return TaskEvent(at=now, name=event.name.lower(), by=DECIDED_BY[event], status=status, detail=clipped(detail))


_DELIVERIES = {
    Effect.OWE_SUBMISSION: DeliveryKind.SUBMISSION,
    Effect.OWE_CANCELLATION: DeliveryKind.STATUS,
    Effect.NOTIFY_SUBMITTER: DeliveryKind.STATUS,
    Effect.TELL_PROGRESS: DeliveryKind.PROGRESS,
    Effect.OWE_RESULTS: DeliveryKind.RESULTS,
}
_BOOKINGS = {Effect.BOOK_REWARD, Effect.BOOK_EXPIRY}
