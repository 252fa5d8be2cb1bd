"""Places on the disk for attempts: locks that tell whether one lives, and what dead ones left."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tasksubmit.lifecycle.table import Side
from tasksubmit.lifecycle.task import TaskKey
from tasksubmit.node.executors import places
from tasksubmit.node.executors.places import Place, PlaceTaken, holders, kill_holders, remove_tree, sweep
from tests.node.helpers import ALICE, BOB
from tests.processes import LONGEST_SECONDS, kill, start, until

KEY = TaskKey(Side.RECEIVER, ALICE, "t1")


class PlacesTestCase(SynchronousTestCase):
    """A work directory, which is not there yet."""

    @override
    def setUp(self) -> None:
        self.root = Path(self.mktemp()).resolve() / "work"

    def hold(self, place: Place) -> subprocess.Popen[bytes]:
        """Have a process hold the lock of a place, as a command does whose node is killed."""
        assert place.descriptor is not None
        process = subprocess.Popen(["/bin/sleep", "60"], pass_fds=[place.descriptor])
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        os.close(place.descriptor)
        return process


class ClaimTests(PlacesTestCase):
    """Who gets a place."""

    def test_new(self) -> None:
        """A place is a new, empty directory, which only its owner can enter; nothing is left of it."""
        place = Place.claim(self.root, KEY, 5)
        self.assertEqual(place.directory.parent, self.root)
        self.assertEqual(list(place.directory.iterdir()), [])
        for directory in (self.root, place.directory):
            self.assertEqual(directory.stat().st_mode & 0o777, 0o700)
        (place.directory / "file").touch()
        place.leave()
        self.assertEqual(list(self.root.iterdir()), [])

    def test_temporary(self) -> None:
        """Without a work directory it is among the temporary files."""
        place = Place.temporary()
        self.assertEqual(place.directory.parent, Path(tempfile.gettempdir()))
        self.assertIsNone(place.descriptor)
        place.leave()
        self.assertFalse(place.directory.exists())

    def test_one_attempt_at_a_time(self) -> None:
        """While an attempt at a task has a place no other attempt gets one; tasks do not get into each other's way."""
        first = Place.claim(self.root, KEY, 5)
        with self.assertRaises(PlaceTaken):
            Place.claim(self.root, KEY, 5)
        for other in (TaskKey(Side.RECEIVER, BOB, "t1"), TaskKey(Side.RECEIVER, ALICE, "T1")):
            Place.claim(self.root, other, 5).leave()
        first.leave()
        Place.claim(self.root, KEY, 5).leave()

    def test_taken_while_a_process_lives(self) -> None:
        """A place is taken as long as any process of the attempt lives, although its node is gone."""
        process = self.hold(Place.claim(self.root, KEY, 5))
        with self.assertRaises(PlaceTaken):
            Place.claim(self.root, KEY, 5)
        self.assertEqual(holders(next(self.root.glob("*.lock"))), [process.pid])
        process.kill()
        process.wait()
        place = Place.claim(self.root, KEY, 5)
        self.assertEqual(len(list(self.root.iterdir())), 2)  # what the dead one left is gone
        place.leave()

    def test_no_descriptor_is_lost(self) -> None:
        """Whatever goes wrong, nothing stays open."""
        self.root.parent.mkdir()
        self.root.touch()
        before = len(os.listdir("/dev/fd"))
        for _ in range(3):
            with self.assertRaises(OSError):
                Place.claim(self.root, KEY, 5)
        self.root.unlink()
        place = Place.claim(self.root, KEY, 5)
        for _ in range(3):
            with self.assertRaises(PlaceTaken):
                Place.claim(self.root, KEY, 5)
        place.leave()
        self.assertEqual(len(os.listdir("/dev/fd")), before)


class LeaveTests(PlacesTestCase):
    """The end of an attempt."""

    def test_taken(self) -> None:
        """A place cannot be left while a process of the attempt lives, which is killed; then nothing is left of it."""
        before = len(os.listdir("/dev/fd"))
        place = Place.claim(self.root, KEY, 5)
        assert place.descriptor is not None
        process = subprocess.Popen(["/bin/sleep", "60"], pass_fds=[place.descriptor])
        self.addCleanup(process.kill)
        for _ in range(2):
            with self.assertRaises(PlaceTaken):
                place.leave()
        self.assertIsNone(process.poll())
        self.assertTrue(place.directory.exists())
        self.assertEqual(
            place.clear(), f"process {process.pid} (sleep) of user {os.getuid()} was killed and has not ended"
        )
        self.assertEqual(process.wait(LONGEST_SECONDS), -signal.SIGKILL)
        place.leave()
        self.assertEqual(list(self.root.iterdir()), [])
        self.assertEqual(len(os.listdir("/dev/fd")), before)

    def test_supervisor(self) -> None:
        """A supervisor is not killed: it waits for what it cannot kill. One that was stopped goes on."""
        program = Path(self.mktemp()).resolve() / "warden.py"
        program.parent.mkdir()
        program.write_text("import time; time.sleep(60)")
        place = Place.claim(self.root, KEY, 5)
        assert place.descriptor is not None
        process = start(self, [sys.executable, "-I", "-S", str(program)], pass_fds=[place.descriptor])
        with self.assertRaises(PlaceTaken):
            place.leave()
        process.send_signal(signal.SIGSTOP)
        until(lambda: os.waitpid(process.pid, os.WUNTRACED | os.WNOHANG)[0], "it was not stopped")
        self.assertRegex(place.clear(), rf"^process {process.pid} \(.*\) of user .*, the supervisor, has not ended$")
        until(lambda: os.waitpid(process.pid, os.WCONTINUED | os.WNOHANG)[0], "it does not go on")
        self.assertFalse(sweep(self.root, 1000))
        self.assertIsNone(process.poll())
        kill(process)
        place.leave()

    def test_cannot_be_killed(self) -> None:
        """A process that the node may not kill is reported."""
        process = self.hold(Place.claim(self.root, KEY, 5))

        def refuse(pid: int, number: int) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        with patch("os.kill", refuse):
            (lock,) = self.root.glob("*.lock")
            said = kill_holders(lock)
        self.assertEqual(
            said, f"process {process.pid} (sleep) of user {os.getuid()} cannot be killed: Operation not permitted"
        )

    def test_lock_fails(self) -> None:
        """A place is not left while it cannot be found out whether a process lives."""
        place = Place.claim(self.root, KEY, 5)
        with (
            patch("fcntl.flock", side_effect=OSError(errno.ENOLCK, "No locks available")),
            self.assertRaises(PlaceTaken),
        ):
            place.leave()
        place.leave()
        self.assertEqual(list(self.root.iterdir()), [])


class SweepTests(PlacesTestCase):
    """What is left of earlier runs of a node."""

    def lock(self) -> Path:
        """The one lock file."""
        (path,) = self.root.glob("*.lock")
        return path

    def test_nothing(self) -> None:
        """A directory that is not there, or empty, is clean."""
        self.assertTrue(sweep(self.root, 0))
        self.root.mkdir(parents=True)
        self.assertTrue(sweep(self.root, 0))

    def test_dead(self) -> None:
        """What dead attempts left is removed, be it unreadable or without its lock file."""
        place = Place.claim(self.root, KEY, 5)
        locked = place.directory / "locked" / "deeper"
        locked.mkdir(parents=True)
        (locked / "file").touch()
        locked.parent.chmod(0)
        assert place.descriptor is not None
        os.close(place.descriptor)
        (self.root / "0123-lost").mkdir()
        self.assertTrue(sweep(self.root, 0))
        self.assertEqual(list(self.root.iterdir()), [])

    def test_living(self) -> None:
        """One that lives is left alone for as long as its command may tidy up, and killed after that."""
        process = self.hold(Place.claim(self.root, KEY, 5))
        self.assertFalse(sweep(self.root, 0))
        self.assertFalse(sweep(self.root, 6.9))
        self.assertIsNone(process.poll())
        self.assertFalse(sweep(self.root, 7.1))
        self.assertEqual(process.wait(10), -signal.SIGKILL)
        self.assertTrue(sweep(self.root, 7.2))
        self.assertEqual(list(self.root.iterdir()), [])

    def test_own(self) -> None:
        """The attempts of this run of the node are not touched, however old they are."""
        place = Place.claim(self.root, KEY, 0.1)
        assert place.descriptor is not None
        process = subprocess.Popen(["/bin/sleep", "60"], pass_fds=[place.descriptor])
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertTrue(sweep(self.root, 1000))
        self.assertIsNone(process.poll())
        self.assertTrue(place.directory.exists())
        process.kill()
        process.wait()
        place.leave()

    def test_reader_of_a_lock_file(self) -> None:
        """A process that only reads a lock file is none of an attempt."""
        place = Place.claim(self.root, KEY, 5)
        reader = subprocess.Popen(["/bin/sleep", "60"], stdin=self.lock().open())
        self.addCleanup(reader.wait)
        self.addCleanup(reader.kill)
        self.assertEqual(holders(self.lock()), [os.getpid()])
        place.leave()

    def test_a_link_in_its_place(self) -> None:
        """A link in the place of the directory is removed, and what it leads to is as before, its mode as well."""
        outside = Path(self.mktemp()).resolve()
        (outside / "inner").mkdir(parents=True)
        for directory in (outside, outside / "inner"):
            directory.chmod(0o755)
        self.root.mkdir(parents=True, exist_ok=True)
        link = self.root / "place"
        link.symlink_to(outside)
        remove_tree(link)
        self.assertFalse(link.is_symlink())
        inside = self.root / "other"
        inside.mkdir()
        (inside / "link").symlink_to(outside)
        remove_tree(inside)
        self.assertFalse(inside.exists())
        modes = [stat.S_IMODE(directory.stat().st_mode) for directory in (outside, outside / "inner")]
        self.assertEqual(modes, [0o755, 0o755])

    def test_deep_tree(self) -> None:
        """However deep directories are, and whatever their modes, they are removed, and no descriptor stays open."""
        before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
        top = self.root / "deep"
        top.mkdir(parents=True)
        descriptor = os.open(top, os.O_RDONLY)
        for level in range(3000):
            os.mkdir("d", dir_fd=descriptor)
            inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=inner))
            if level % 100 == 0:
                os.fchmod(descriptor, 0o000)
            os.close(descriptor)
            descriptor = inner
        os.close(descriptor)
        remove_tree(top)
        self.assertFalse(top.exists())
        if before:
            self.assertLessEqual(len(set(os.listdir("/proc/self/fd")) - before), 1)  # that of the listing

    def test_large_lock_file(self) -> None:
        """Of a lock file, which the command can make as large as it likes, only the beginning is read."""
        place = Place.claim(self.root, KEY, 7.5)
        assert place.descriptor is not None
        [path] = self.root.glob("*.lock")
        self.assertEqual(places._grace_of(path), 7.5)
        os.ftruncate(place.descriptor, 2**40)  # which no memory could hold
        self.assertEqual(places._grace_of(path), 7.5)
        place.leave()

    def test_remove_tree_follows_nothing(self) -> None:
        """What a symbolic link leads to is not removed, and its mode stays."""
        outside = Path(self.mktemp()).resolve()
        outside.mkdir(mode=0o750)
        (outside / "file").touch()
        self.root.mkdir(parents=True)
        (self.root / "link").symlink_to(outside)
        remove_tree(self.root)
        self.assertFalse(self.root.exists())
        self.assertTrue((outside / "file").exists())
        self.assertEqual(outside.stat().st_mode & 0o777, 0o750)
