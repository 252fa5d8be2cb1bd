"""Everything that the executor ``process`` needs of its machine fails once, or for a while: its tasks do not mind.

The node runs on a clock of the test, the commands on the reactor. Each test breaks something, has tasks submitted, and
says after how much of the node's time they have to be done, without any command.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from typing_extensions import override

from tasksubmit.interfaces import Execution, IExecutor
from tasksubmit.node.acceptance import AcceptAll
from tasksubmit.node.executors import faults, places, python, warden
from tasksubmit.node.executors.places import sweep
from tasksubmit.node.executors.process import ProcessExecutor
from tasksubmit.node.executors.python import CallableExecutor
from tasksubmit.node.submitted import SubmittedTask
from tasksubmit.testing.agents import Agents
from tasksubmit.testing.stores import MemoryTaskStore

STATED_SECONDS = 65
"""The longest pause of an executor, and a little: so long after a fault has ended, all tasks are done."""

SCRIPT = """
echo "progress reading" >&3
wc -c > out-$TASKSUBMIT_TASK_ID.txt  # others may be in the same directory
echo "result-file out-$TASKSUBMIT_TASK_ID.txt" >&3
"""


def shout(execution: Execution) -> str:
    """Do a task in a thread."""
    return execution.description.upper()


class FaultsTestCase(TestCase):
    """Alice submits to Bob, whose executor is a command."""

    timeout = 120

    @override
    def setUp(self) -> None:
        self.agents = Agents()
        self.addCleanup(self.agents.close)
        self.alice = self.agents.node()
        self.directory = Path(self.mktemp()).resolve()
        self.directory.mkdir()
        self.work = self.directory / "work"
        self.program = self.directory / "program.sh"
        self.program.write_text(f"#!/bin/sh\n{SCRIPT}")
        self.program.chmod(0o755)

    async def employ(self, *, executor: IExecutor | None = None, is_on_disk: bool = True, **options: Any) -> None:
        """Start Bob."""
        store = MemoryTaskStore()
        store.work_directory = self.work if is_on_disk else None
        command = (str(self.program),)
        executor = executor or ProcessExecutor(reactor=reactor, command=command, grace_seconds=0.5, **options)
        self.bob = self.agents.node(store=store, executor=executor, acceptance=AcceptAll(), concurrency=2)
        await deferLater(reactor, 0)  # a reactor that starts opens descriptors
        self.before = self.descriptors()

    def descriptors(self) -> set[tuple[str, str]]:
        """The open descriptors, each with what it refers to."""
        found = set()
        for number in os.listdir("/dev/fd"):
            with contextlib.suppress(OSError):  # the descriptor that lists the directory is closed again
                found.add((number, os.readlink(f"/dev/fd/{number}")))
        return found

    def assert_closed(self) -> None:
        """No descriptor was left open. Some may have been closed since: those of an earlier test, by the collector."""
        self.assertEqual(self.descriptors() - self.before, set())

    def submit(self, description: str = "words") -> SubmittedTask:
        """Have Alice submit a task."""
        return self.agents.done(self.alice.submit(self.bob.address, description))

    async def until(self, condition: Callable[[], bool], seconds: float = STATED_SECONDS) -> float:
        """Let the node's time pass until something is true; returns how much did."""
        passed = 0.0
        while not condition():
            self.assertLess(passed, seconds, "it takes too long")
            await deferLater(reactor, 0.02)  # for the command
            step = 0.0 if self.is_working() else 0.5
            self.agents.advance(step)
            passed += step
        return passed

    def is_working(self) -> bool:
        """Whether a command may be running: the node's time need not pass meanwhile."""
        assert self.bob.workers is not None
        return bool(self.bob.workers._working)

    async def results(self, *tasks: SubmittedTask) -> list[bytes]:
        """The results of tasks, which all are there in time."""
        found: list[Any] = []
        for task in tasks:
            task.result().addBoth(found.append)
        await self.until(lambda: len(found) == len(tasks))
        return [result.file_data for result in found]

    async def assert_done(self, task: SubmittedTask) -> None:
        """A task is done, and nothing is left of its attempts."""
        self.assertEqual(await self.results(task), [b"5\n"])
        self.assertEqual(self.agents.received(task).outcome, "")
        await self.until(lambda: not self.is_working())
        self.assertEqual([entry.name for entry in self.work.glob("*")], [])
        self.assert_closed()
        self.assertIsNone(self.bob.executor_problem)


class WalkTests(FaultsTestCase):
    """Each call that the executor makes for an execution fails once, and then no more."""

    async def walk(self, owner: Any, name: str, error: Exception, least: int) -> None:
        """Submit a task for each call of a function, which is the one that fails, until no task makes so many calls.

        :param least: how many calls a task has to make for the test to mean something.
        """
        function = getattr(owner, name)
        for failing in count(1):
            calls = 0

            def fail_once(*args: Any, failing: int = failing, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == failing:
                    raise error
                return function(*args, **options)

            patched = self.patch(owner, name, fail_once)
            try:
                await self.assert_done(self.submit())
            finally:
                patched.restore()
            self.agents.flush_errors()
            if calls < failing:
                break
        self.assertGreater(failing, least, f"{name} was not called so often")

    async def test_directory(self) -> None:
        """Making the directory of an attempt fails once."""
        await self.employ()
        for number in (errno.ENOSPC, errno.EROFS, errno.EACCES):
            await self.walk(tempfile, "mkdtemp", OSError(number, os.strerror(number)), 1)
            await self.walk(Path, "mkdir", OSError(number, os.strerror(number)), 1)

    async def test_lock(self) -> None:
        """Opening, locking and writing the lock file of an attempt fails once; so does opening a result file."""
        await self.employ()
        for owner, name, number in (
            (os, "open", errno.ENFILE),
            (fcntl, "flock", errno.ENOLCK),
            (fcntl, "flock", errno.EAGAIN),
            (os, "ftruncate", errno.EIO),
            (os, "pwrite", errno.ENOSPC),
        ):
            await self.walk(owner, name, OSError(number, os.strerror(number)), 1)

    async def test_process(self) -> None:
        """There is once no descriptor for a pipe, and once no process."""
        await self.employ()
        await self.walk(os, "pipe", OSError(errno.EMFILE, os.strerror(errno.EMFILE)), 6)
        for number in (errno.EAGAIN, errno.ENOMEM, errno.ENOENT):
            await self.walk(os, "posix_spawnp", OSError(number, os.strerror(number)), 1)

    async def test_thread(self) -> None:
        """There is once no thread."""
        await self.employ()
        await self.walk(faults, "deferToThreadPool", RuntimeError("can't start new thread"), 3)

    async def test_clean_up(self) -> None:
        """What an attempt leaves on the disk cannot be removed: the next start does it."""
        await self.employ()
        self.patch(places, "remove_tree", lambda directory: None)
        self.assertEqual(await self.results(self.submit()), [b"5\n"])
        await self.until(lambda: not self.is_working())
        self.assertEqual(len(list(self.work.glob("*"))), 1)
        self.assertTrue(sweep(self.work, 0))

    async def test_supervisor(self) -> None:
        """Each step of the supervisor fails once, up to the one that runs the program."""
        await self.employ()
        marker = self.directory / "fail"
        wrapper = self.directory / "warden.py"
        self.patch(warden, "__file__", str(wrapper))
        for name in ("setsid", "set_inheritable", "pipe", "set_blocking", "fork", "setpgid", "chdir", "execvp"):
            wrapper.write_text(WARDEN.format(marker=str(marker), name=name, original=warden.__spec__.origin))
            marker.write_text(str(errno.EAGAIN if name == "fork" else errno.EMFILE))
            await self.assert_done(self.submit())
            self.assertFalse(marker.exists(), name)


class OutageTests(FaultsTestCase):
    """Something is gone for a while."""

    async def outage(self, begin: Callable[[], Any], end: Callable[[], Any]) -> str:
        """Have tasks wait for the end of a fault; returns what the node says of it meanwhile."""
        begin()
        tasks = [self.submit() for _ in range(5)]
        await self.until(lambda: self.bob.executor_problem is not None)
        for _ in range(40):
            await self.until(lambda: not self.is_working())
            self.agents.advance(5)
        problem = self.bob.executor_problem
        assert problem is not None
        self.assertTrue(problem.is_refusing)
        for task in tasks:
            self.assertFalse(self.agents.received(task).status.is_final)
            seen = self.agents.submitted(task)
            self.assertNotIn(str(self.directory), f"{seen.justification} {seen.error}")
        end()
        self.assertEqual(await self.results(*tasks), [b"5\n"] * 5)
        self.assertIsNone(self.bob.executor_problem)
        await self.until(lambda: not self.is_working())
        self.assert_closed()
        return problem.error

    async def test_program(self) -> None:
        """The program is gone, cannot be executed, or lacks its interpreter."""
        await self.employ()
        away = self.directory / "away"
        error = await self.outage(lambda: self.program.rename(away), lambda: away.rename(self.program))
        self.assertEqual(error, f"cannot execute {self.program}: No such file or directory")
        error = await self.outage(lambda: self.program.chmod(0o644), lambda: self.program.chmod(0o755))
        self.assertEqual(error, f"cannot execute {self.program}: Permission denied")
        whole = self.program.read_text()
        error = await self.outage(
            lambda: self.program.write_text("#!/no/such/interpreter\n"), lambda: self.program.write_text(whole)
        )
        self.assertEqual(error, f"cannot execute {self.program}: No such file or directory")

    async def test_directory(self) -> None:
        """The directory of the commands is gone, or is none."""
        there = self.directory / "there"
        there.mkdir()
        await self.employ(directory=there)
        error = await self.outage(there.rmdir, there.mkdir)
        self.assertEqual(error, f"cannot enter the directory {there}: No such file or directory")

    async def test_work_directory(self) -> None:
        """The work directory cannot be made; when it is removed it is made again."""
        await self.employ()
        error = await self.outage(self.work.touch, self.work.unlink)
        self.assertIn("cannot make a directory for the command: File exists", error)
        shutil.rmtree(self.work)
        await self.assert_done(self.submit())

    async def test_temporary_directory(self) -> None:
        """The directory of temporary files is gone, where a node that keeps nothing on disk has its commands."""
        await self.employ(is_on_disk=False)
        temporary = self.directory / "tmp"
        temporary.mkdir()
        self.patch(tempfile, "tempdir", str(temporary))
        error = await self.outage(temporary.rmdir, temporary.mkdir)
        self.assertIn("cannot make a directory for the command: No such file or directory", error)

    async def test_interpreter(self) -> None:
        """The interpreter of the supervisor is gone, or cannot be started."""
        await self.employ()
        original = sys.executable
        for program, words in (("/no/such/python", "cannot start a process"), ("/bin/false", "cannot supervise")):
            error = await self.outage(
                partial(setattr, sys, "executable", program), partial(setattr, sys, "executable", original)
            )
            self.assertIn(words, error)

    async def test_descriptors(self) -> None:
        """The node has no descriptors left."""
        await self.employ()
        await self.assert_done(self.submit())  # and what is opened once is open
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        lowest_free = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest_free)
        error = await self.outage(
            lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 4, hard)),
            lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
        )
        self.assertIn("Too many open files", error)

    async def test_threads(self) -> None:
        """A function that is called in a thread waits until there can be one."""
        function = python._in_thread(reactor, shout)
        await self.employ(executor=CallableExecutor(function))
        working = self.patch(faults, "deferToThreadPool", _no_thread)
        task = self.submit()
        await self.until(lambda: self.bob.executor_problem is not None)
        working.restore()
        found: list[Any] = []
        task.result().addBoth(found.append)
        await self.until(lambda: bool(found))
        self.assertEqual(found[0].result_text, "WORDS")


def _no_thread(*arguments: Any) -> Any:
    raise RuntimeError("can't start new thread")


WARDEN = """
import os
def fail_once(*arguments, function=os.{name}):
    try:
        number = int(open({marker!r}).read())
        os.unlink({marker!r})
    except FileNotFoundError:
        return function(*arguments)
    raise OSError(number, os.strerror(number))
os.{name} = fail_once
exec(compile(open({original!r}).read(), "warden.py", "exec"))
"""
