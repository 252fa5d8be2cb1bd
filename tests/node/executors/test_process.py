"""Commands that do tasks: real processes, real signals, a real reactor."""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest, TestCase
from typing_extensions import override

from tasksubmit.errors import ConfigurationError, ExecutionFailed, ExecutorUnavailable
from tasksubmit.interfaces import Execution, ExecutionResult, ResultFile
from tasksubmit.lifecycle.table import Side
from tasksubmit.lifecycle.task import Task
from tasksubmit.node.executors import warden
from tasksubmit.node.executors.beneath import Base, read_beneath
from tasksubmit.node.executors.process import ProcessExecutor, _Command, make_executor
from tests.node.helpers import ALICE
from tests.processes import LONGEST_SECONDS, start

NOW = datetime(2026, 4, 9, 12, tzinfo=timezone.utc)


class ProcessTestCase(TestCase):
    """Runs commands."""

    timeout = LONGEST_SECONDS

    @override
    def setUp(self) -> None:
        self.heard: list[str] = []
        self.kept: list[str] = []
        self.work_directory: Path | None = None

    def execution(self, description: str = "work", **fields: Any) -> Execution:
        """An attempt at a task."""
        task = Task(
            side=Side.RECEIVER, peer=ALICE, task_id="t1", description=description, created_at=NOW, attempt=2, **fields
        )
        return Execution(
            task, self.heard.append, self.work_directory, lambda text: self.kept.extend([text] if text else [])
        )

    def begin(self, *command: str, description: str = "work", **options: Any) -> Deferred[ExecutionResult]:
        """Start a command."""
        executor = ProcessExecutor(reactor=reactor, command=command, **options)
        return Deferred.fromCoroutine(executor.execute(self.execution(description)))

    def shell(self, script: str, **options: Any) -> Deferred[ExecutionResult]:
        """Start a shell with a script, which is the test's: the executor knows of none."""
        return self.begin("/bin/sh", "-c", script, **options)

    async def fault(self, work: Deferred[ExecutionResult]) -> str:
        """What the submitter is told of a command that fails."""
        try:
            result = await work
        except ExecutionFailed as error:
            return str(error)
        self.fail(f"it ended well, with {result!r}")

    async def wait_for(self, condition: Any) -> None:
        """Wait until something is true, of processes that nobody tells about."""
        deadline = time.monotonic() + LONGEST_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                self.fail("it never was")
            await deferLater(reactor, 0.01)

    async def pid_in(self, path: Path) -> int:
        """The process number that a command has written into a file."""
        await self.wait_for(lambda: path.exists() and path.read_text().endswith("\n"))
        return int(path.read_text())

    def is_alive(self, pid: int) -> bool:
        """Whether there is such a process, and it has not ended."""
        try:
            return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return False


class OutcomeTests(ProcessTestCase):
    """What comes of a command."""

    async def test_output(self) -> None:
        """The description is the standard input, and what is printed are the results, byte for byte."""
        self.assertEqual(await self.begin("/bin/cat", description="zwei Wörter\n\n"), "zwei Wörter\n\n")

    async def test_input_is_not_read(self) -> None:
        """A command need not read what it is given, however long that is."""
        self.assertEqual(await self.begin("/bin/echo", "hello", description="x" * 1_000_000), "hello\n")

    async def test_no_shell(self) -> None:
        """Nothing in a description or an argument is ever seen by a shell."""
        nasty = "$(touch broken); `id` | > x & ' \" \\ \0 \x1b[2J"
        self.assertEqual(await self.begin("/bin/cat", description=nasty), nasty)
        self.assertEqual(await self.begin("/bin/echo", "-n", "$HOME;*"), "$HOME;*")

    async def test_environment(self) -> None:
        """The task is in the environment, which is otherwise the node's, or the one that was given."""
        executor = ProcessExecutor(reactor=reactor, command=("/usr/bin/env",), environment={"COLOUR": "red"})
        printed = await executor.execute(self.execution(expires_at=NOW))
        assert isinstance(printed, str)
        expected = {
            "COLOUR=red",
            "TASKSUBMIT_TASK_ID=t1",
            f"TASKSUBMIT_FROM={ALICE}",
            "TASKSUBMIT_ATTEMPT=2",
            "TASKSUBMIT_EXPIRES_AT=2026-04-09T12:00:00Z",
        }
        self.assertEqual({line for line in printed.splitlines() if not line.startswith(("LC_", "PWD="))}, expected)
        printed = await self.begin("/usr/bin/env")
        assert isinstance(printed, str)
        self.assertIn(f"PATH={os.environ['PATH']}\n", printed)

    async def test_directory(self) -> None:
        """It runs in a new directory, which goes with it, or in the one that was given."""
        scratch = await self.shell("touch left; pwd")
        assert isinstance(scratch, str)
        self.assertIn("tasksubmit-", scratch)
        self.assertFalse(Path(scratch.strip()).exists())
        chosen = Path(self.mktemp()).resolve()
        chosen.mkdir()
        self.assertEqual(await self.shell("touch left; pwd", directory=chosen), f"{chosen}\n")
        self.assertTrue((chosen / "left").exists())

    async def test_result_file(self) -> None:
        """A file that the command names is the result, in place of what it prints."""
        result = await self.shell("echo noise; printf 'a,b' > out.csv; echo result-file out.csv >&3")
        self.assertEqual(result, ResultFile("out.csv", b"a,b"))
        result = await self.shell("printf 'a,b' > out.csv; printf 'result-file out.csv' >&3")
        self.assertEqual(result, ResultFile("out.csv", b"a,b"))

    async def test_bad_result_files(self) -> None:
        """A file that is not there, is none, or is too large fails the task, and does not hang it."""
        for script, words in (
            ("echo result-file nothing.csv >&3", "nothing.csv cannot be read: No such file"),
            ("mkdir d.csv; echo result-file d.csv >&3", "d.csv"),
            ("mkfifo p.csv; echo result-file p.csv >&3", "p.csv is not a regular file"),
            ("head -c 1001 /dev/zero > z.bin; echo result-file z.bin >&3", "z.bin has more than 1000 bytes"),
            ("printf 'result-file a\\0b\\n' >&3", "cannot be read: embedded null byte"),
            ("echo result-file . >&3", "is not in the directory of the command"),
        ):
            self.assertIn(words, await self.fault(self.shell(script, max_output_bytes=1000)))
        whole = await self.shell("head -c 1000 /dev/zero > z.bin; echo result-file z.bin >&3", max_output_bytes=1000)
        self.assertEqual(whole, ResultFile("z.bin", bytes(1000)))

    async def test_result_file_of_a_directory(self) -> None:
        """A file in a directory of its own may be named by its whole path, also where links lead to the directory."""
        real = Path(self.mktemp()).resolve()
        real.mkdir()
        linked = real.with_name(f"{real.name}-linked")
        linked.symlink_to(real)
        script = "mkdir -p a/b; echo 1 > a/b/out.csv; echo result-file {}a/b/out.csv >&3"
        for prefix in ("", "./", "$PWD/", f"{linked}/", f"{real}/"):
            result = await self.shell(script.format(prefix), directory=linked)
            self.assertEqual(result, ResultFile("out.csv", b"1\n"), prefix)

    async def test_files_elsewhere(self) -> None:
        """No file outside the directory of the command is sent, however it is named or linked."""
        outside = Path(self.mktemp()).resolve()
        outside.mkdir()
        secret = outside / "key.txt"
        secret.write_text("secret")
        for script, words in (
            (f"echo result-file {secret}", "key.txt is not in the directory of the command"),
            ("echo result-file /proc/self/environ", "environ is not in the directory of the command"),
            (f"echo result-file ../../../../../../..{secret}", "is not in the directory of the command"),
            (f"ln -s {secret} out.txt; echo result-file out.txt", "out.txt cannot be read: a part of its path is a"),
            (f"ln -s {outside} d; echo result-file d/key.txt", "key.txt cannot be read: a part of its path is a symb"),
            (f"mkdir e; ln -s {outside} e/d; echo result-file e/d/key.txt", "a part of its path is a symbolic link"),
            (f"ln -s {secret} out.txt; echo result-file $PWD/out.txt", "a part of its path is a symbolic link"),
            (f"ln {secret} out.txt; echo result-file out.txt", "out.txt has 2 links"),
        ):
            told = await self.fault(self.shell(f"({script}) >&3"))
            self.assertIn(words, told)
            self.assertNotIn(str(outside), told)

    async def test_file_of_another_user(self) -> None:
        """A file that belongs to another user than expected is not sent."""
        script = "echo 1 > out.csv; echo result-file out.csv >&3"
        told = await self.fault(self.shell(script, result_owner=os.geteuid() + 1))
        self.assertIn(f"out.csv belongs to user {os.geteuid()}, not to user {os.geteuid() + 1}", told)

    async def test_replaced_meanwhile(self) -> None:
        """What the command swaps between its look and the node's leads nowhere else."""
        outside = Path(self.mktemp()).resolve()
        outside.mkdir()
        (outside / "out.txt").write_text("secret")
        directory = Path(self.mktemp()).resolve()
        (directory / "d").mkdir(parents=True)
        (directory / "d" / "out.txt").write_text("mine")
        opened = os.open

        def swap(path: str | Path, flags: int, *, dir_fd: int | None = None) -> int:
            if path == "d":  # it was there, and was no link
                (directory / "d").rename(directory / "gone")
                (directory / "d").symlink_to(outside)
            return opened(path, flags, dir_fd=dir_fd)

        base = Base.open(directory, directory)
        self.addCleanup(base.close)
        self.patch(os, "open", swap)
        error = self.assertRaises(ExecutionFailed, read_beneath, base, "d/out.txt", 100, os.geteuid())
        self.assertIn("a part of its path is a symbolic link", str(error))

    async def test_directory_is_replaced(self) -> None:
        """A command that replaces its directory by a link has nothing read through it, by a later attempt either."""
        private = Path(self.mktemp()).resolve()
        private.mkdir()
        (private / "out.txt").write_text("secret")
        directory = Path(self.mktemp()).resolve()
        directory.mkdir()
        executor = ProcessExecutor(
            reactor=reactor,
            command=(
                "/bin/sh",
                "-c",
                f"echo mine > out.txt; mv {directory} {directory}.old; ln -s {private} {directory};"
                " echo result-file out.txt >&3",
            ),
            directory=directory,
        )
        self.assertEqual(await executor.execute(self.execution()), ResultFile("out.txt", b"mine\n"))
        with self.assertRaisesRegex(ExecutorUnavailable, f"cannot enter the directory {directory}: Not a directory"):
            await executor.execute(self.execution())
        self.assertEqual((private / "out.txt").read_text(), "secret")

    async def test_directory_is_not_inherited(self) -> None:
        """The command does not have the node's descriptor of its directory."""
        printed = await self.shell("ls -l /proc/self/fd | grep -c tasksubmit- || true")
        self.assertEqual(printed, "0\n")

    async def test_no_descriptor_is_lost(self) -> None:
        """What was opened is closed again, also of what cannot be read, like a directory."""
        await self.fault(self.shell("mkdir d; echo result-file d >&3"))
        before = len(os.listdir("/dev/fd"))
        for _ in range(3):
            await self.fault(self.shell("mkdir d; echo result-file d >&3"))
            await self.shell("echo 1 > out.txt; echo result-file out.txt >&3")
            with self.assertRaises(ExecutorUnavailable):
                await self.begin("/no/such")
            with self.assertRaises(ExecutorUnavailable):
                await self.begin("/bin/true", directory=Path("/no/where"))
            cancelled = self.shell("sleep 60")
            cancelled.cancel()
            with self.assertRaises(CancelledError):
                await cancelled
        self.assertEqual(len(os.listdir("/dev/fd")), before)

    async def test_progress(self) -> None:
        """Lines of progress are told, also when they come in pieces."""
        await self.shell("printf 'progress 10%% read\\nprog' >&3; printf 'ress 20%%\\n' >&3; echo done")
        self.assertEqual(self.heard, ["10% read", "20%"])

    async def test_control_lines(self) -> None:
        """A line that means nothing, or never ends, ends the command."""
        self.assertIn("no meaning: 'rm'", await self.fault(self.shell("echo rm -rf >&3; sleep 60")))
        endless = "head -c 100000 /dev/zero >&3; sleep 60"
        self.assertIn("of over 8192 bytes", await self.fault(self.shell(endless)))

    async def test_exit_code(self) -> None:
        """Another exit code than 0 is a failure, told with the last line of the standard error."""
        self.assertEqual(
            await self.fault(self.shell("echo lost; echo first >&2; echo 'no ink' >&2; exit 3")),
            "the command ended with exit code 3: no ink",
        )
        self.assertEqual(await self.fault(self.shell("exit 1")), "the command ended with exit code 1")
        self.assertEqual(await self.fault(self.shell("exit 255")), "the command ended with exit code 255")
        self.assertEqual(await self.fault(self.shell("exit 128")), "the command ended with exit code 128")
        self.assertEqual(await self.fault(self.shell("kill -SEGV $$")), "the command was ended by signal 11")

    async def test_long_standard_error(self) -> None:
        """Of a standard error of any length its end is kept."""
        fault = await self.fault(self.shell("yes x | head -c 3000000 >&2; echo last >&2; exit 1"))
        self.assertEqual(fault, "the command ended with exit code 1: last")

    async def test_cannot_be_started(self) -> None:
        """A program or a directory that is not there is no failure of the task: the executor is unavailable."""
        for command, directory, words in (
            ("/no/such", None, "cannot execute /no/such: No such file or directory"),
            ("/etc/passwd", None, "cannot execute /etc/passwd: Permission denied"),
            ("/bin/true", Path("/no/where"), "cannot enter the directory /no/where: No such file"),
            ("/bin/true", Path("/etc/passwd"), "cannot enter the directory /etc/passwd: Not a directory"),
        ):
            with self.assertRaisesRegex(ExecutorUnavailable, words):
                await self.begin(command, directory=directory)

    async def test_forged_status(self) -> None:
        """What a command writes to its supervisor's pipe has no task requeued that has run, and raises no error."""
        if sys.platform != "linux":
            raise SkipTest("there is no /proc")
        for forged, script, words in (
            ("cannot foo", "exit 1", "the command ended with exit code 1"),
            ("cannot foo", "echo out; exit 127", "the command ended with exit code 127"),
            ("cannot foo", "echo no ink >&2; exit 127", "the command ended with exit code 127: no ink"),
            ("cannot foo", "echo progress 1 >&3; exit 127", "the command ended with exit code 127"),
            ("exit abc", "exit 1", "the command ended with exit code 1"),
            ("exit", "exit 1", "the command ended with exit code 1"),
            ("exit -1", "exit 1", "the command ended with exit code 1"),
            ("started -1", "exit 1", "the command ended with exit code 1"),
            (f"exit {'9' * 5000}", "exit 1", "the command ended with exit code 1"),
        ):
            work = self.shell(f"echo {forged} > /proc/$PPID/fd/{warden.STATUS}; {script}")
            self.assertEqual(await self.fault(work), words, forged[:20])
        forge = f"echo cannot foo > /proc/$PPID/fd/{warden.STATUS}"
        self.assertEqual(await self.shell(f"{forge}; echo done"), "done\n")

    async def test_forged_status_without_end(self) -> None:
        """A line without an end on the supervisor's pipe takes no memory."""
        command = _Command(ProcessExecutor(reactor=reactor, command=("x",)), self.execution())
        for _ in range(100):
            command.childDataReceived(warden.STATUS, bytes(65536))
        self.assertLess(len(command._status), 65536)

    async def test_exit_code_127(self) -> None:
        """A command that runs, and ends as shells do that find no program, is a failure of its task."""
        fault = await self.fault(self.shell("no-such-command-anywhere"))
        self.assertIn("exit code 127", fault)

    async def test_not_text(self) -> None:
        """What is printed has to be UTF-8."""
        self.assertIn("not text in UTF-8", await self.fault(self.shell("printf '\\377'")))

    async def test_short_grace(self) -> None:
        """What a command printed before its end is read, however late the reactor comes to it."""
        for _ in range(5):
            self.assertEqual(len(str(await self.shell("printf '%060000d' 1", grace_seconds=1e-6))), 60_000)

    async def test_too_much(self) -> None:
        """A command that prints without end is ended."""
        fault = await self.fault(self.begin("/usr/bin/yes", max_output_bytes=100_000))
        self.assertEqual(fault, "the command printed more than 100000 bytes")
        self.assertEqual(await self.shell("printf '%.0sx' $(seq 1000)", max_output_bytes=1000), "x" * 1000)

    async def test_first_fault(self) -> None:
        """Of a command that does more than one thing wrong the first is told."""
        script = "trap 'echo nonsense >&3; exit' TERM; while :; do sleep 0.05; done"
        fault = await self.fault(self.shell(script, timeout_seconds=0.2))
        self.assertEqual(fault, "the command took longer than 0.2 s")


class EndTests(ProcessTestCase):
    """Commands that are ended, with all that they have started."""

    async def test_time_out(self) -> None:
        """A command that takes too long is ended."""
        fault = await self.fault(self.shell("sleep 60", timeout_seconds=0.2))
        self.assertEqual(fault, "the command took longer than 0.2 s")

    async def test_cancelled(self) -> None:
        """Cancelling ends the whole group, and fires when it is gone."""
        file = Path(self.mktemp()).resolve()
        work = self.shell(f"sleep 60 & echo $! > {file}; wait")
        sleeper = await self.pid_in(file)
        work.cancel()
        await self.assertFailure(work, CancelledError)
        await self.wait_for(lambda: not self.is_alive(sleeper))

    async def test_may_tidy_up(self) -> None:
        """The command is asked first, and has some time to end by itself."""
        file = Path(self.mktemp()).resolve()
        work = self.shell(f"trap 'echo 1 > {file}.tidied; exit' TERM; echo $$ > {file}; while :; do sleep 0.05; done")
        await self.pid_in(file)
        work.cancel()
        await self.assertFailure(work, CancelledError)
        self.assertTrue(Path(f"{file}.tidied").exists())

    async def test_does_not_listen(self) -> None:
        """One that does not listen is killed, with its children."""
        file = Path(self.mktemp()).resolve()
        deaf = f"trap '' TERM; (trap '' TERM; sleep 60; sleep 60) & echo $! > {file}; wait"
        work = self.shell(deaf, grace_seconds=0.2)
        child = await self.pid_in(file)
        work.cancel()
        await self.assertFailure(work, CancelledError)
        await self.wait_for(lambda: not self.is_alive(child))

    async def test_leftovers(self) -> None:
        """What a command leaves behind in its group is killed when it ends, and does not hold up the results."""
        file = Path(self.mktemp()).resolve()
        result = await self.shell(f"sleep 60 & echo $! > {file}; echo done")
        self.assertEqual(result, "done\n")
        sleeper = await self.pid_in(file)
        await self.wait_for(lambda: not self.is_alive(sleeper))

    async def test_own_group(self) -> None:
        """A signal that the command sends to its own group does not reach the node, nor end it if it handles that."""
        self.assertIn("signal 15", await self.fault(self.shell("kill -TERM 0; sleep 60")))
        for name in ("USR1", "QUIT", "ALRM", "INT", "HUP"):
            self.assertEqual(await self.shell(f"trap 'echo heard' {name}; kill -{name} 0"), "heard\n")

    async def test_stopped_group(self) -> None:
        """A group that stopped itself, and cannot be asked any more, is killed."""
        work = self.shell("kill -STOP 0; sleep 60", timeout_seconds=0.2, grace_seconds=0.1)
        self.assertEqual(await self.fault(work), "the command took longer than 0.2 s")

    async def test_ignored_signals(self) -> None:
        """The command has all signals as they are by default, whatever the interpreter does with them."""
        ignored = await self.begin("/bin/grep", "SigIgn", "/proc/self/status")
        mask = int(str(ignored).split()[1], 16)
        self.assertEqual([number for number in signal.valid_signals() if mask & 1 << number - 1], [])

    async def test_supervisor_is_stopped(self) -> None:
        """A command that stops its supervisor is ended all the same."""
        work = self.shell("kill -STOP $PPID; sleep 60", timeout_seconds=0.2, grace_seconds=0.1)
        self.assertEqual(await self.fault(work), "the command took longer than 0.2 s")

    async def test_node_is_killed(self) -> None:
        """A command does not outlive a node that is killed."""
        file = Path(self.mktemp()).resolve()
        program = f"""
from pathlib import Path
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from tests.node.executors.test_process import ProcessTestCase
case = ProcessTestCase()
case.setUp()
work = case.shell("sleep 60 & echo $! > {file}; wait", directory=Path("."))
reactor.run()
"""
        node = start(self, [sys.executable, "-c", program])
        sleeper = await self.pid_in(file)
        self.assertTrue(self.is_alive(sleeper))
        node.kill()
        node.wait()
        await self.wait_for(lambda: not self.is_alive(sleeper))


DAEMON = """
import os, sys, time
file, command_goes_on = sys.argv[1], sys.argv[2:]
ready, done = os.pipe()
if os.fork():
    os.read(ready, 1)
    print("done", flush=True)
    while command_goes_on:
        time.sleep(60)
    sys.exit()
os.setsid()
if os.fork():
    os._exit(0)
for descriptor in os.listdir("/dev/fd"):
    if int(descriptor) not in KEPT:
        try:
            os.close(int(descriptor))
        except OSError:
            pass
with open(file, "w") as out:
    out.write(f"{os.getpid()}\\n")
os.write(done, b"x")
time.sleep(60)
"""
"""A command with a daemon, as daemons are made: in a session of its own, without a parent, and without the
descriptors that it inherited, but for those in ``KEPT``."""


class DaemonTests(ProcessTestCase):
    """Processes that leave the group of the command, and processes that cannot be killed."""

    if sys.platform != "linux":
        skip = "to adopt the orphans of others takes Linux"

    def daemon(self, file: Path, *arguments: str, kept: str = "(done,)", **options: Any) -> Deferred[ExecutionResult]:
        """Start a command with a daemon, which writes its number into ``file``."""
        return self.begin(sys.executable, "-c", DAEMON.replace("KEPT", kept), str(file), *arguments, **options)

    async def test_command_ends(self) -> None:
        """A daemon is killed when its command ends, and does not hold up the results."""
        file = Path(self.mktemp()).resolve()
        self.assertEqual(await self.daemon(file), "done\n")
        self.assertFalse(self.is_alive(await self.pid_in(file)))

    async def test_pipes(self) -> None:
        """A daemon may hold the pipes of the command open, and have a long description in one of them."""
        file = Path(self.mktemp()).resolve()
        work = self.daemon(file, kept="(done, 0, 1, 2, 3)", description="x" * 300_000)
        self.assertEqual(await work, "done\n")
        self.assertFalse(self.is_alive(await self.pid_in(file)))

    async def test_cancelled(self) -> None:
        """A daemon is ended with its command, as is a child with a session of its own."""
        file = Path(self.mktemp()).resolve()
        other = Path(self.mktemp()).resolve()
        for path, work in (
            (file, self.daemon(file, "goes on", grace_seconds=0.1)),
            (other, self.shell(f"setsid sh -c 'echo $$ > {other}; exec sleep 60' & wait")),
        ):
            pid = await self.pid_in(path)
            work.cancel()
            await self.assertFailure(work, CancelledError)
            self.assertFalse(self.is_alive(pid))

    async def test_asked(self) -> None:
        """A daemon is asked to end like its command, and has the same time to tidy up."""
        directory = Path(self.mktemp()).resolve()
        directory.mkdir()
        (directory / "daemon.sh").write_text(
            "trap 'echo 1 > tidied; exit' TERM; echo 1 > ready; while :; do sleep 0.05; done"
        )
        work = self.shell(
            "trap 'until [ -e tidied ]; do sleep 0.02; done; exit' TERM; (setsid sh ./daemon.sh &)\n"
            "while :; do sleep 0.05; done",
            directory=directory,
            grace_seconds=LONGEST_SECONDS,
        )
        await self.wait_for((directory / "ready").exists)
        work.cancel()
        await self.assertFailure(work, CancelledError)
        self.assertTrue((directory / "tidied").exists())

    async def test_asked_when_it_is_adopted(self) -> None:
        """A daemon is asked to end as well if its parent, which is asked at the same time, ends after that."""
        directory = Path(self.mktemp()).resolve()
        directory.mkdir()
        (directory / "daemon.sh").write_text(
            "trap 'echo 1 > tidied; exit' TERM; echo 1 > ready; while :; do sleep 0.05; done"
        )
        work = self.shell(
            "trap 'until [ -e tidied ]; do sleep 0.02; done; exit' TERM\n"
            "(setsid sh ./daemon.sh & trap 'sleep 0.2; exit' TERM; while :; do sleep 0.05; done) &\n"
            "while :; do sleep 0.05; done",
            directory=directory,
            grace_seconds=LONGEST_SECONDS,
        )
        await self.wait_for((directory / "ready").exists)
        work.cancel()
        await self.assertFailure(work, CancelledError)
        self.assertTrue((directory / "tidied").exists())

    async def test_node_is_killed(self) -> None:
        """A daemon does not outlive a node that is killed."""
        file = Path(self.mktemp()).resolve()
        program = f"""
from pathlib import Path
from twisted.internet import reactor
from tests.node.executors.test_process import DaemonTests
case = DaemonTests()
case.setUp()
work = case.daemon(Path({str(file)!r}), "goes on", directory=Path("."), grace_seconds=0.1)
reactor.run()
"""
        node = start(self, [sys.executable, "-c", program])
        daemon = await self.pid_in(file)
        self.assertTrue(self.is_alive(daemon))
        node.kill()
        node.wait()
        await self.wait_for(lambda: not self.is_alive(daemon))

    async def test_supervisor_is_killed(self) -> None:
        """A command that kills its supervisor, and leaves its group, is killed by the lock that it has inherited."""
        file = Path(self.mktemp()).resolve()
        self.work_directory = Path(self.mktemp()).resolve()
        script = f"setsid sh -c 'echo $$ > {file}; exec sleep 60' & while [ ! -s {file} ]; do sleep 0.02; done"
        fault = await self.fault(self.shell(f"{script}; kill -KILL $PPID; sleep 60"))
        self.assertEqual(fault, "the command was killed")
        self.assertFalse(self.is_alive(await self.pid_in(file)))
        self.assertEqual(list(self.work_directory.iterdir()), [])

    def supervise_by(self, program: str) -> None:
        """Have something happen in the supervisors before they run."""
        wrapper = Path(self.mktemp()).resolve() / "warden.py"
        wrapper.parent.mkdir()
        rest = f"exec(compile(open({warden.__spec__.origin!r}).read(), 'warden.py', 'exec'))\n"
        wrapper.write_text(f"import os, signal, sys\n{program}\n{rest}")
        self.patch(warden, "__file__", str(wrapper))

    async def assert_reported(self, work: Deferred[ExecutionResult], child: int, words: str) -> None:
        """An execution that was cancelled goes on, and what keeps it is reported."""
        work.cancel()
        await self.wait_for(lambda: self.kept)
        self.assertRegex(self.kept[0], words)
        self.assertIn(f"process {child} ", self.kept[0])
        self.assertTrue(self.is_alive(child))
        self.assertNoResult(work)

    async def test_not_permitted(self) -> None:
        """While a process lives that the node may not kill, the execution does not end, and it is said why."""
        file = Path(self.mktemp()).resolve()
        forbidden = Path(self.mktemp()).resolve()
        forbidden.touch()
        self.supervise_by(f"""
def refuse(pid, number, function):
    if number == signal.SIGKILL and os.path.exists({str(forbidden)!r}):
        raise PermissionError(1, "Operation not permitted")
    function(pid, number)
def mkdir(path):
    raise PermissionError(13, "Permission denied")
os.mkdir = mkdir
os.kill = lambda pid, number, function=os.kill: refuse(pid, number, function)
os.killpg = lambda pid, number, function=os.killpg: refuse(pid, number, function)
""")
        script = f"trap '' TERM; echo $$ > {file}; while :; do sleep 0.05; done"
        work = self.shell(script, grace_seconds=0.1)
        child = await self.pid_in(file)
        await self.assert_reported(work, child, r"cannot be killed: Operation not permitted \(through a cgroup: Perm")
        forbidden.unlink()
        await self.assertFailure(work, CancelledError)
        self.assertFalse(self.is_alive(child))

    AS_ANOTHER = """
def fork(function=os.fork):
    child = function()
    if child:
        {first}
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    return child
os.fork = fork
"""
    """A supervisor that has another account than its command, which is to it like one that ``sudo`` has started."""

    async def test_other_account(self) -> None:
        """A command with another account is waited for, and reported, until it ends by itself."""
        if os.geteuid() != 0:
            raise SkipTest("only root can start a command with another account; test_not_permitted stands in for it")
        file = Path(self.mktemp()).resolve()
        self.supervise_by(self.AS_ANOTHER.format(first=""))
        work = self.shell(f"echo $$ > {file}; exec sleep 60", grace_seconds=0.1)
        child = await self.pid_in(file)
        await self.assert_reported(work, child, r"\(sleep\) of user 0 cannot be killed: Operation not permitted \(thr")
        os.kill(child, signal.SIGTERM)
        await self.assertFailure(work, CancelledError)

    async def test_delegated_cgroup(self) -> None:
        """In a cgroup that is delegated to the node a command with another account is killed, and nothing is left."""
        if os.geteuid() != 0:
            raise SkipTest("only root can delegate a cgroup")
        mount = next((Path(path) for path in warden.CGROUP_MOUNTS if Path(path, "cgroup.procs").exists()), None)
        if mount is None or not os.access(mount, os.W_OK):
            raise SkipTest("there is no cgroup file system of version 2 that can be written to")
        node = mount / f"tests-{os.getpid()}"
        node.mkdir()
        self.addCleanup(node.rmdir)
        for path in (node, node / "cgroup.procs"):
            os.chown(path, 65534, 65534)
        file = Path(self.mktemp()).resolve()
        enter = f"with open('{node}/cgroup.procs', 'w') as procs: procs.write('0')"
        self.supervise_by(enter + self.AS_ANOTHER.format(first=""))
        work = self.shell(f"echo $$ > {file}; exec sleep 60", grace_seconds=0.1)
        child = await self.pid_in(file)
        work.cancel()
        await self.assertFailure(work, CancelledError)
        self.assertFalse(self.is_alive(child))
        self.assertEqual([path for path in node.iterdir() if path.is_dir()], [])


class MakerTests(ProcessTestCase):
    """``--executor process:COMMAND``."""

    def test_made(self) -> None:
        """The command is split like a shell would, and the options are taken."""
        executor = make_executor(
            reactor, "/bin/echo 'two words' -n", timeout="2500ms", attempts="3", directory="/", grace="1"
        )
        assert isinstance(executor, ProcessExecutor)
        self.assertEqual(executor.command, ("/bin/echo", "two words", "-n"))
        self.assertEqual((executor.timeout_seconds, executor.directory), (2.5, Path("/")))
        self.assertEqual(str(executor), "process:/bin/echo 'two words' -n")
        self.assertEqual((executor.lease.max_attempts, executor.lease.ends_with_node), (3, True))
        self.assertEqual(executor.lease.duration.total_seconds(), 64.5)

    def test_program_is_looked_up(self) -> None:
        """The program is found once, when the executor is made."""
        for program, options in (("cat", {}), (os.path.relpath("/bin/cat"), {"directory": os.path.relpath("/")})):
            executor = make_executor(reactor, program, **options)
            assert isinstance(executor, ProcessExecutor)
            self.assertTrue(os.path.isabs(executor.command[0]))
            self.assertEqual(executor.directory, Path("/") if options else None)

    def test_refused(self) -> None:
        """What is wrong is said."""
        for arguments, options, words in (
            ((), {}, "expected a command"),
            (("  ",), {}, "expected a command"),
            (("a", "b"), {}, r"write a colon in it as \:"),
            (("echo 'x",), {}, "No closing quotation"),
            (("no-such-program",), {}, "there is no program no-such-program"),
            (("cat",), {"colour": "red"}, "there is no option 'colour'; there are attempts, directory"),
            (("cat",), {"timeout": "0"}, "timeout=0: expected more than 0"),
            (("cat",), {"timeout": "1e10"}, "timeout=1e10: expected more than 0 and at most"),
            (("cat",), {"attempts": "many"}, "attempts=many"),
            (("cat",), {"attempts": "2147483648"}, "attempts=2147483648: expected a whole number"),
            (("cat",), {"directory": "/no/where"}, "directory=/no/where: there is no such directory"),
        ):
            error = self.assertRaises(ConfigurationError, make_executor, reactor, *arguments, **options)
            self.assertIn(words, str(error))
