"""Power losses at every moment of what was done to a disk, and what is wrong afterwards."""

from __future__ import annotations

import shutil
from random import Random

from tasksubmit.errors import EmptyQueue, IllegalTransition
from tasksubmit.lifecycle.table import TaskStatus
from tasksubmit.lifecycle.task import Task
from tests.faults.harness import STATES, Acknowledged, DiskTestCase, MarkingNode, all_tasks, violations
from tests.faults.remains import Mark, Remains, SyncDirectory
from tests.node.helpers import ALICE, BOB
from tests.tiers import sampled

SEED = 20
"""Of the chance by which sectors survive; change it to see other losses."""

ONE_IN = 12
"""The share of the moments at which power is lost in the default tier of tests."""


class PowerLossTestCase(DiskTestCase):
    """Loses power again and again, long after the fact."""

    async def losses(
        self, *, first: int = 0, resume_every: int = 0, enough: int | None = None, one_in: int = 1
    ) -> list[str]:
        """Lose power at every moment of the journal; what is wrong then? Stops when ``enough`` was found.

        Between two syncs of a state directory what is durable there stays the same, and what was told only grows. So it
        is enough to look just before each sync, at the directory that it belongs to.

        :param first: the moment to begin with.
        :param one_in: look at a sample of the moments, one in so many; see `sampled`.
        :param resume_every: after so many looks let both nodes go on from there.
        """
        remains, found, looks = Remains(), list[str](), 0
        told: dict[str, list[Acknowledged]] = {state: [] for state in STATES.values()}
        journal = [*self.disk.journal, *map(SyncDirectory, told)]
        looked_at = set(sampled(range(len(journal)), one_in))
        for moment, entry in enumerate(journal):
            if isinstance(entry, Mark) and isinstance(entry.what, Acknowledged):
                told[STATES[entry.what.node]].append(entry.what)
            state = remains.place(entry).split("/")[0]
            if state and moment >= first and moment in looked_at:
                looks += 1
                for luck in (None, Random(SEED + moment)):
                    wrong = await self.look(remains, state, luck, told[state])
                    found += [f"moment {moment}, {state}{', by chance' if luck else ''}: {what}" for what in wrong]
                if resume_every and looks % resume_every == 0:
                    wrong = await self.resume(remains, Random(SEED + moment), told)
                    found += [f"resumed at moment {moment}: {what}" for what in wrong]
            if enough is not None and len(found) >= enough:
                break
            remains.read(entry)
        return found

    async def assert_nothing_lost(self, **options: int) -> None:
        """Fail with the first few things that `losses` finds, if it finds any, at a sample of the moments."""
        found = await self.losses(one_in=ONE_IN, **options)
        if found:
            self.fail("\n".join([f"{len(found)} violations:", *found[:8]]))

    async def look(self, remains: Remains, state: str, luck: Random | None, told: list[Acknowledged]) -> list[str]:
        """Lose power, and look at one state directory."""
        directory = self.directory / "after" / state
        remains.restore(state, directory, luck)
        found = await violations(directory, told)
        shutil.rmtree(directory)
        return found

    async def resume(self, remains: Remains, luck: Random, told: dict[str, list[Acknowledged]]) -> list[str]:
        """Lose power, start both nodes again, and let them, and whoever tells Bob what to do, go on to the end."""
        states = self.directory / "resumed"
        for state in told:
            remains.restore(state, states / state, luck)
        alice, bob = self.start(ALICE, states), self.start(BOB, states)
        while not await self.is_all_done(alice, bob):
            await self.turn()
            for task in await all_tasks(bob):
                await self.take_next_step(bob, task)
        ledgers = [await node.store.scores() for node in (alice, bob)]
        found = [] if ledgers[0] == ledgers[1] else [f"the ledgers differ: {ledgers}"]
        await self.stop(alice, bob)
        for state, acknowledged in told.items():
            found += await violations(states / state, acknowledged)
        shutil.rmtree(states)
        return found

    async def is_all_done(self, *nodes: MarkingNode) -> bool:
        for node in nodes:
            if await node.store.owed_peers() or not all(map(is_final, await all_tasks(node))):
                return False
        return True

    async def take_next_step(self, bob: MarkingNode, task: Task) -> None:
        try:
            if task.status is TaskStatus.NEW:
                await bob.accept(task.key)
            elif task.status is TaskStatus.ACCEPTED:
                await bob.execute()
            elif task.status is TaskStatus.EXECUTING:
                await bob.send_results(task.key, "done after all")
        except (IllegalTransition, EmptyQueue):
            pass  # Alice's cancellation was first


def is_final(task: Task) -> bool:
    """Whether nothing more can happen to a task."""
    return task.status.is_final
