"""Tasks that someone waits on, and the handle that `Node.submit` gives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred

from tasksubmit.errors import StoreClosed, TaskCancelled, TaskDeclined, TaskEnded, TaskExpired, UnknownTask
from tasksubmit.lifecycle.table import TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey

Condition = Callable[[Task], bool]


class LiveTask:
    """One task while someone waits on it: a Deferred for each caller."""

    def __init__(self) -> None:
        self._waiting: dict[Deferred[Task], Condition] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def wait(self, condition: Condition, cancelled: Callable[[Deferred[Task]], None]) -> Deferred[Task]:
        """Fires with the first record, from now on, that meets ``condition``; cancelling forgets it."""
        waiting: Deferred[Task] = Deferred(cancelled)
        self._waiting[waiting] = condition
        return waiting

    def forget(self, waiting: Deferred[Task]) -> None:
        """A caller does not wait any longer."""
        self._waiting.pop(waiting, None)

    def changed(self, task: Task) -> None:
        """Fire for those whose condition ``task`` meets; a condition that raises fails its own caller alone."""
        for waiting, condition in list(self._waiting.items()):
            if waiting not in self._waiting:
                continue  # cancelled by what a Deferred before it did
            try:
                is_met = condition(task)
            except Exception:
                self.forget(waiting)
                waiting.errback()
            else:
                if is_met:
                    self.forget(waiting)
                    waiting.callback(task)

    def fail(self, error: Exception) -> None:
        """Fail everyone who waits."""
        for waiting in list(self._waiting):
            if waiting in self._waiting:
                self.forget(waiting)
                waiting.errback(error)


_STOPPED = "the node was stopped while the task was waited for; the task itself goes on"


class LiveTasks:
    """Every task that someone waits on.

    :param get: reads a record, or raises `UnknownTask`.
    """

    def __init__(self, get: Callable[[TaskKey], Awaitable[Task]]) -> None:
        self._get = get
        self._tasks: dict[TaskKey, LiveTask] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    async def wait(self, key: TaskKey, condition: Condition) -> Task:
        """The record of ``key`` as soon as it meets ``condition``, which may be at once.

        :raises UnknownTask: when there is no such record.
        :raises StoreClosed: when the node stops meanwhile, or was stopped before.
        """
        live = self._tasks.setdefault(key, LiveTask())
        # To wait first and read afterwards misses no change in between.
        waiting = live.wait(condition, lambda deferred: self._forget(key, live, deferred))
        try:
            task = await self._get(key)
            is_met = not waiting.called and condition(task)
        except BaseException as error:
            waiting.addErrback(lambda _: None)
            waiting.cancel()
            if isinstance(error, StoreClosed):
                raise StoreClosed(_STOPPED) from error
            raise
        if is_met:
            self._forget(key, live, waiting)
            return task
        return await waiting

    def changed(self, task: Task) -> None:
        """A change of the record was committed."""
        live = self._tasks.get(task.key)
        if live is not None:
            live.changed(task)
            self._drop(task.key, live)

    def forgotten(self, key: TaskKey) -> None:
        """The record was removed: fail those who wait on it."""
        live = self._tasks.pop(key, None)
        if live is not None:
            live.fail(UnknownTask(f"task {key.task_id} was removed while it was waited for"))

    def stop(self) -> None:
        """Fail everyone who waits: the node stops."""
        tasks, self._tasks = self._tasks, {}
        for live in tasks.values():
            live.fail(StoreClosed(_STOPPED))

    def _forget(self, key: TaskKey, live: LiveTask, waiting: Deferred[Task]) -> None:
        live.forget(waiting)
        self._drop(key, live)

    def _drop(self, key: TaskKey, live: LiveTask) -> None:
        if not live and self._tasks.get(key) is live:
            del self._tasks[key]


_ENDED: dict[TaskStatus, type[TaskEnded]] = {
    TaskStatus.DECLINED: TaskDeclined,
    TaskStatus.CANCELLED: TaskCancelled,
    TaskStatus.EXPIRED: TaskExpired,
}


def raise_if_ended(task: Task) -> None:
    """Raise the named error of a task that ended without results.

    :raises TaskDeclined, TaskCancelled, TaskExpired: with the receiver's words.
    """
    ended = _ENDED.get(task.status)
    if ended is not None:
        why = task.error or task.justification or task.outcome
        raise ended(f"task {task.task_id} is {task.status}" + (f": {why}" if why else ""), task)
