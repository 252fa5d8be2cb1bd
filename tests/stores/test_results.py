"""Result files: whole or not at all, inside their directory, never over another; and what a crash leaves."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from hashlib import sha256
from pathlib import Path
from threading import Barrier
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tasksubmit.errors import StoreDamaged, StoreError
from tasksubmit.stores.names import PROBE, DiskLimits
from tasksubmit.stores.results import INCOMING, MemoryResultFiles, ResultFiles
from tests.tiers import examples


def named(*names: str) -> Any:
    """Records that name these files."""
    return set(names).__contains__


class ResultFilesTests(SynchronousTestCase):
    """The results directory of a node."""

    def setUp(self) -> None:
        self.outside = Path(self.mktemp())
        self.directory = self.outside / "state" / "results"
        self.files = ResultFiles(self.directory)
        self.files.open(named())

    def names(self) -> set[str]:
        """Every file under the results directory."""
        return {path.relative_to(self.directory).as_posix() for path in self.directory.rglob("*") if not path.is_dir()}

    def mode(self, path: Path) -> str:
        """Who may do what with a file."""
        return oct(path.stat().st_mode & 0o777)

    # --- writing -------------------------------------------------------------------------------------------------

    def test_write_and_read(self) -> None:
        """A result is kept under its task's id and its own name, and reads back."""
        name = self.files.write("t-1", "report.pdf", b"\x00pages\xff")
        self.assertEqual(name, "t-1_report.pdf")
        self.assertEqual(self.files.path(name), self.directory / "t-1_report.pdf")
        self.assertEqual(self.files.read(name), b"\x00pages\xff")

    def test_settle(self) -> None:
        """A settled file stays, and nothing else does."""
        self.files.settle(self.files.write("t-1", "a.md", b"a"))
        self.assertEqual(self.names(), {"t-1_a.md"})
        self.files.settle("t-1_a.md")

    def test_discard(self) -> None:
        """A discarded file leaves nothing behind; discarding it again does nothing."""
        name = self.files.write("t-1", "a.md", b"a")
        self.files.discard(name)
        self.assertEqual(self.names(), set())
        self.files.discard(name)

    def test_collision(self) -> None:
        """A name that is taken gets a number before the extension, and nothing is overwritten."""
        names = [self.files.write("t-1", "a.b.md", content) for content in (b"1", b"2", b"3")]
        self.assertEqual(names, ["t-1_a.b.md", "t-1_a.b-2.md", "t-1_a.b-3.md"])
        self.assertEqual([self.files.read(name) for name in names], [b"1", b"2", b"3"])
        for name in names:
            self.files.settle(name)
        self.assertEqual(self.files.write("t-1", "a.b.md", b"4"), "t-1_a.b-4.md")

    def test_write_under_way(self) -> None:
        """A name that another write is about to take is left to it."""
        (self.directory / INCOMING / "t-1_a.md").write_bytes(b"half")
        self.assertEqual(self.files.write("t-1", "a.md", b"mine"), "t-1_a-2.md")
        self.assertEqual((self.directory / INCOMING / "t-1_a.md").read_bytes(), b"half")

    def test_symlink_in_the_way(self) -> None:
        """A symbolic link in the place of a file is neither followed nor replaced, wherever it points."""
        target = self.outside / "secret"
        target.write_bytes(b"theirs")
        (self.directory / "t-1_a.md").symlink_to(target)
        (self.directory / "t-1_a-2.md").symlink_to(self.outside / "missing")
        (self.directory / INCOMING / "t-1_a-3.md").symlink_to(target)
        self.assertEqual(self.files.write("t-1", "a.md", b"mine"), "t-1_a-4.md")
        self.assertEqual(target.read_bytes(), b"theirs")
        self.assertFalse((self.outside / "missing").exists())

    def test_long_name(self) -> None:
        """The longest names that may be sent find room, numbered ones too."""
        name = "\u00e4" * 98 + ".md"
        first, second = (self.files.write("x" * 128, name, content) for content in (b"1", b"2"))
        self.assertEqual((self.files.read(first), self.files.read(second)), (b"1", b"2"))

    def test_permissions(self) -> None:
        """Files and directories are the owner's alone, whatever the umask."""
        self.addCleanup(os.umask, os.umask(0))
        directory = Path(self.mktemp())
        files = ResultFiles(directory)
        files.open(named())
        name = files.write("t-1", "a.md", b"a")
        self.assertEqual(self.mode(directory / name), "0o600")
        self.assertEqual(self.mode(directory), "0o700")
        self.assertEqual(self.mode(directory / INCOMING), "0o700")

    def test_never_outside(self) -> None:
        """A name that leads out of the directory is refused, in every call, and nothing is touched."""
        victim = self.outside / "state" / "tasks.db"
        victim.write_bytes(b"precious")
        for name in ("../tasks.db", str(victim.absolute()), "..", "", ".", f"{INCOMING}/../../tasks.db"):
            for call in (self.files.read, self.files.settle, self.files.condemn, self.files.discard, self.files.path):
                with self.assertRaises(StoreError):
                    call(name)
        for task_id, filename in (("../../t", "a.md"), ("t", "/../../../a.md"), ("/tmp/t", "a.md"), (".", "./a.md")):
            with self.assertRaises(StoreError):
                self.files.write(task_id, filename, b"evil")
        self.assertEqual(victim.read_bytes(), b"precious")
        self.assertEqual([path.name for path in self.outside.rglob("*") if path.is_file()], ["tasks.db"])

    @settings(deadline=None, max_examples=examples(60))
    @given(st.text("a./\\\0-\n", max_size=8), st.text("a./\\\0-\n", max_size=8))
    def test_any_name(self, task_id: str, filename: str) -> None:
        """Whatever the names, a write ends in a plain file of the directory or is refused."""
        try:
            name = self.files.write(task_id, filename, b"x")
        except StoreError:
            return
        self.assertEqual((self.directory / name).parent, self.directory)
        self.assertEqual(self.files.read(name), b"x")
        self.files.discard(name)

    # --- failing -------------------------------------------------------------------------------------------------

    def test_missing(self) -> None:
        """A file that is gone is a `StoreError` that names it."""
        error = self.assertRaises(StoreError, self.files.read, "t-1_gone.md")
        self.assertIn(str(self.directory / "t-1_gone.md"), str(error))
        self.assertIn("restore it from a backup", str(error))

    def test_digest(self) -> None:
        """A file reads back under its own digest only: cut short or changed it is damaged, and named."""
        name = self.files.write("t-1", "a.md", b"content")
        path, digest = self.directory / name, sha256(b"content").hexdigest()
        self.assertEqual(self.files.read(name, digest), b"content")
        for damaged in (b"", b"conten", b"contenT"):
            path.write_bytes(damaged)
            error = self.assertRaises(StoreDamaged, self.files.read, name, digest)
            self.assertIn(f"the result file {path} is damaged: its {len(damaged)} bytes are not those", str(error))
            self.assertIn("restore it from a backup", str(error))
            self.assertEqual(self.files.read(name), damaged)  # records of older versions have no digest

    def test_full_disk(self) -> None:
        """A write that fails leaves nothing behind, and says where and why."""

        def fsync(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        self.patch(os, "fsync", fsync)
        error = self.assertRaises(StoreError, self.files.write, "t-1", "a.md", b"a")
        self.assertIn(f"{self.directory}: No space left on device", str(error))
        self.assertEqual(self.names(), set())

    def test_name_is_not_durable(self) -> None:
        """A write whose name could not be made durable is none, and leaves nothing behind."""
        fsync = os.fsync

        def fail_for_directories(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(5, "Input/output error")
            fsync(descriptor)

        self.patch(os, "fsync", fail_for_directories)
        error = self.assertRaises(StoreError, self.files.write, "t-1", "a.md", b"a")
        self.assertIn(f"{self.directory}: Input/output error", str(error))
        self.assertEqual(self.names(), set())

    def test_many(self) -> None:
        """Results that are written together have names like those that are written one by one, in any order."""
        wanted = [("t-1", "a.md", b"1"), ("t-2", "a.md", b"2"), ("t-1", "a.md", b"3"), ("t-1", "a.md", b"")]
        names = self.files.write_all(wanted)
        self.assertEqual(set(names), {"t-1_a.md", "t-2_a.md", "t-1_a-2.md", "t-1_a-3.md"})
        self.assertEqual([self.files.read(str(name)) for name in names], [content for *_, content in wanted])
        self.assertEqual(self.files.write_all([]), [])

    def test_many_names_are_synced_once(self) -> None:
        """The names of results that are written together become durable together, after all of their contents."""
        calls: list[str] = []
        fsync = os.fsync

        def recorded_fsync(descriptor: int) -> None:
            calls.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
            fsync(descriptor)

        self.patch(os, "fsync", recorded_fsync)
        self.files.write_all([(f"t-{n}", "a.md", b"x") for n in range(3)])
        self.assertEqual(calls, ["file", "file", "file", "directory"])

    def test_several_at_once(self) -> None:
        """Several files wait for the disk at the same time; those that want the same name get one each."""
        fsync, both = os.fsync, Barrier(2)

        def fsync_together(descriptor: int) -> None:
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                both.wait(30)
            fsync(descriptor)

        self.patch(os, "fsync", fsync_together)
        names = self.files.write_all([("t-1", "a.md", b"1"), ("t-1", "a.md", b"2")])
        self.assertEqual(sorted(map(str, names)), ["t-1_a-2.md", "t-1_a.md"])
        self.assertEqual([self.files.read(str(name)) for name in names], [b"1", b"2"])

    def test_one_of_many_fails(self) -> None:
        """A result that cannot be written is refused alone; what is written together with it is kept."""
        fsync = os.fsync

        def fail_for_long_ones(descriptor: int) -> None:
            if os.fstat(descriptor).st_size == 4:
                raise OSError(28, "No space left on device")
            fsync(descriptor)

        self.patch(os, "fsync", fail_for_long_ones)
        first, long, astray, last = self.files.write_all(
            [("t-1", "a.md", b"1"), ("t-2", "a.md", b"long"), ("../t-3", "a.md", b"3"), ("t-4", "a.md", b"4")]
        )
        self.assertEqual((first, last), ("t-1_a.md", "t-4_a.md"))
        for failed, why in ((long, f"{self.directory}: No space left on device"), (astray, "cannot be the name")):
            assert isinstance(failed, Failure)
            self.assertIs(failed.type, StoreError)
            self.assertIn(why, str(failed.value))
        self.assertEqual({name for name in self.names() if not name.startswith(INCOMING)}, {first, last})
        self.assertEqual((self.files.read("t-1_a.md"), self.files.read("t-4_a.md")), (b"1", b"4"))
        for name in (first, last):
            self.files.settle(str(name))
        self.assertEqual(self.names(), {first, last})

    def test_names_of_many_are_not_durable(self) -> None:
        """When names cannot be made durable nothing that was written together is kept, and all are told."""
        self.files.settle(self.files.write("t-1", "a.md", b"before"))
        fsync = os.fsync

        def fail_for_directories(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(5, "Input/output error")
            fsync(descriptor)

        self.patch(os, "fsync", fail_for_directories)
        failed = self.files.write_all([("t-1", "a.md", b"1"), ("../t-2", "a.md", b"2"), ("t-3", "a.md", b"3")])
        words = ["Input/output error", "cannot be the name", "Input/output error"]
        for failure, why in zip(failed, words, strict=True):
            assert isinstance(failure, Failure)
            self.assertIs(failure.type, StoreError)
            self.assertIn(why, str(failure.value))
        self.assertEqual(self.names(), {"t-1_a.md"})
        self.assertEqual(self.files.read("t-1_a.md"), b"before")

    def test_order(self) -> None:
        """The content is on disk before the name is given, and the name before the write is over."""
        calls: list[str] = []
        fsync, link = os.fsync, os.link

        def recorded_fsync(descriptor: int) -> None:
            status = os.fstat(descriptor)
            calls.append("fsync directory" if stat.S_ISDIR(status.st_mode) else f"fsync file of {status.st_size}")
            fsync(descriptor)

        def recorded_link(source: Path, target: Path) -> None:
            calls.append("link")
            link(source, target)

        self.patch(os, "fsync", recorded_fsync)
        self.patch(os, "link", recorded_link)
        self.files.write("t-1", "a.md", b"12345")
        self.assertEqual(calls, ["fsync file of 5", "link", "fsync directory"])

    # --- after a crash -------------------------------------------------------------------------------------------

    def reopen(self, *names: str) -> None:
        """Start again with records that name these files."""
        ResultFiles(self.directory).open(named(*names))

    def test_crash_before_the_content(self) -> None:
        """What was not yet synced goes at the next start."""
        (self.directory / INCOMING / "t-1_a.md").write_bytes(b"hal")
        self.reopen()
        self.assertEqual(self.names(), set())

    def test_crash_before_the_commit(self) -> None:
        """A file that no record came to name goes at the next start, under both names."""
        self.files.write("t-1", "a.md", b"content")
        self.assertEqual(self.names(), {"t-1_a.md", f"{INCOMING}/t-1_a.md"})
        self.reopen()
        self.assertEqual(self.names(), set())

    def test_crash_after_the_commit(self) -> None:
        """A file that a record names stays, although the write was not settled."""
        name = self.files.write("t-1", "a.md", b"content")
        self.reopen(name)
        self.assertEqual(self.names(), {name})
        self.assertEqual(self.files.read(name), b"content")

    def test_crash_while_the_name_was_taken(self) -> None:
        """Another file of the name that an interrupted write wanted stays, named by a record or not."""
        self.files.settle(self.files.write("t-1", "a.md", b"older"))
        (self.directory / INCOMING / "t-1_a.md").write_bytes(b"newer")
        self.reopen()
        self.assertEqual(self.names(), {"t-1_a.md"})
        self.assertEqual(self.files.read("t-1_a.md"), b"older")

    def test_crash_in_discard(self) -> None:
        """A file that was about to be discarded is gone after the next start."""
        name = self.files.write("t-1", "a.md", b"content")
        (self.directory / name).unlink()
        self.reopen()
        self.assertEqual(self.names(), set())

    def test_crash_before_a_removal(self) -> None:
        """A condemned file whose record is still there after a crash stays, and no note of it."""
        name = self.settled()
        self.files.condemn(name)
        self.reopen(name)
        self.assertEqual(self.names(), {name})
        self.assertEqual(self.files.read(name), b"content")

    def test_crash_after_a_removal(self) -> None:
        """A condemned file whose record is gone after a crash goes at the next start."""
        self.files.condemn(self.settled())
        self.reopen()
        self.assertEqual(self.names(), set())

    def test_condemn(self) -> None:
        """A condemned file can be read until it is discarded; settling it takes the sentence back."""
        name = self.settled()
        for _ in range(2):
            self.files.condemn(name)
        self.assertEqual(self.files.read(name), b"content")
        self.files.settle(name)
        self.assertEqual(self.names(), {name})
        self.files.condemn(name)
        self.files.discard(name)
        self.assertEqual(self.names(), set())

    def test_condemn_what_is_gone(self) -> None:
        """A file that is gone already cannot be condemned, which is no error."""
        self.files.condemn("t-1_gone.md")
        self.assertEqual(self.names(), set())

    def settled(self) -> str:
        """The name of a file that a record names."""
        name = self.files.write("t-1", "a.md", b"content")
        self.files.settle(name)
        return name

    def test_settled_files_are_not_looked_at(self) -> None:
        """The sweep asks for the leftovers alone, not for every file that is kept."""
        self.files.settle(self.files.write("t-1", "a.md", b"1"))
        self.files.write("t-2", "b.md", b"2")
        asked: list[str] = []

        def is_named(name: str) -> bool:
            asked.append(name)
            return False

        ResultFiles(self.directory).open(is_named)
        self.assertEqual(asked, ["t-2_b.md"])


class AwkwardDisk:
    """A disk that refuses names, links, or both: it stands in place of the functions of ``os`` that make them."""

    def __init__(self, test: SynchronousTestCase, limits: DiskLimits) -> None:
        self.limits = limits
        self._open, self._link = os.open, os.link
        test.patch(os, "open", self.open)
        test.patch(os, "link", self.link)

    def open(self, path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        """See `os.open`."""
        name = os.path.basename(path)
        if flags & os.O_CREAT:
            if not self.limits.keeps_unicode:
                name.encode("ascii")
            if set(name) & set(self.limits.forbidden):
                raise OSError(errno.EINVAL, "Invalid argument")
            if len(os.fsencode(name)) > self.limits.longest_bytes:
                raise OSError(errno.ENAMETOOLONG, "File name too long")
        return self._open(path, flags, mode, **options)

    def link(self, source: Any, target: Any, **options: Any) -> None:
        """See `os.link`."""
        if not self.limits.has_links:
            raise OSError(errno.EPERM, "Operation not permitted")
        self._link(source, target, **options)


WITHOUT_LINKS = DiskLimits(has_links=False)


class WithoutLinksTests(SynchronousTestCase):
    """A disk without hard links."""

    @override
    def setUp(self) -> None:
        AwkwardDisk(self, WITHOUT_LINKS)
        self.directory = Path(self.mktemp())
        self.files = ResultFiles(self.directory)
        self.files.open(named())

    def names(self) -> set[str]:
        """Every file under the results directory."""
        return {path.relative_to(self.directory).as_posix() for path in self.directory.rglob("*") if not path.is_dir()}

    def test_as_with_links(self) -> None:
        """Results are kept, numbered, settled and discarded as on any disk, and nothing is overwritten or followed."""
        (self.directory / "t-1_a-2.md").symlink_to(self.directory / "elsewhere")
        names = [self.files.write("t-1", "a.md", content) for content in (b"1", b"2")]
        self.assertEqual(names, ["t-1_a.md", "t-1_a-3.md"])
        self.assertEqual([self.files.read(name) for name in names], [b"1", b"2"])
        for name in names:
            self.files.settle(name)
        self.assertEqual(self.names(), {"t-1_a.md", "t-1_a-2.md", "t-1_a-3.md"})
        self.files.condemn("t-1_a.md")
        self.files.discard("t-1_a.md")
        self.assertEqual(self.names(), {"t-1_a-2.md", "t-1_a-3.md"})

    def test_condemned(self) -> None:
        """A crash before a removal keeps the file, and one after it removes the file at the next start."""
        for records in (named("t-1_a.md"), named()):
            self.files.settle(self.files.write("t-1", "a.md", b"a"))
            self.files.condemn("t-1_a.md")
            ResultFiles(self.directory).open(records)
            self.assertEqual(self.names(), {"t-1_a.md"} if records("t-1_a.md") else set())
            self.files.discard("t-1_a.md")

    def test_order(self) -> None:
        """The mark is durable before the file is made, and file and name before the record can name them."""
        calls: list[str] = []
        fsync, make = os.fsync, os.open

        def note_sync(descriptor: int) -> None:
            is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            calls.append("sync directory" if is_directory else "sync file")
            fsync(descriptor)

        def note_open(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            if flags & os.O_CREAT:
                calls.append(f"make {Path(path).relative_to(self.directory)}")
            return make(path, flags, *arguments, **options)

        self.patch(os, "fsync", note_sync)
        self.patch(os, "open", note_open)
        self.files.write("t-1", "a.md", b"a")
        mark = [f"make {INCOMING}/t-1_a.md", "sync file", "sync directory"]
        self.assertEqual(calls, [*mark, "make t-1_a.md", "sync file", "sync directory"])

    def test_write_fails(self) -> None:
        """A file that cannot be written leaves neither itself nor its mark."""
        fsync = os.fsync
        for skip in (0, 2, 3):
            calls = iter([fsync] * skip)

            def fail(descriptor: int, calls: Any = calls) -> None:
                call = next(calls, None)
                if call is None:
                    raise OSError(errno.EIO, "Input/output error")
                call(descriptor)

            self.patch(os, "fsync", fail)
            self.assertRaises(StoreError, self.files.write, "t-1", "a.md", b"a")
            self.patch(os, "fsync", fsync)
            self.assertEqual(self.names(), set())

    def test_other_ways_are_not_tried_again(self) -> None:
        """A disk that turns out to have no links, though none was refused at the start, is written to all the same."""
        files = ResultFiles(self.directory)
        self.assertEqual(files.write("t-1", "a.md", b"a"), "t-1_a.md")
        self.assertEqual(files.read("t-1_a.md"), b"a")

    def test_crash_in_the_content(self) -> None:
        """A file that was written in place, in part or whole, goes at the next start unless a record names it."""
        for records in (named(), named("t-1_a.md")):
            self.files.write("t-1", "a.md", b"a")
            ResultFiles(self.directory).open(records)
            self.assertEqual(self.names(), {"t-1_a.md"} if records("t-1_a.md") else set())

    def test_crash_before_the_file(self) -> None:
        """A mark without its file goes."""
        self.files.write("t-1", "a.md", b"a")
        (self.directory / "t-1_a.md").unlink()
        ResultFiles(self.directory).open(named())
        self.assertEqual(self.names(), set())


class NamesTests(SynchronousTestCase):
    """Names that the disk does not accept."""

    def open(self, **limits: Any) -> ResultFiles:
        """Files on a disk that has these limits."""
        self.directory = Path(self.mktemp())
        AwkwardDisk(self, DiskLimits(**limits))
        files = ResultFiles(self.directory)
        files.open(named())
        self.assertEqual(files.limits, DiskLimits(**limits))
        return files

    def check(self, files: ResultFiles, filename: str, plain: str) -> None:
        """Check that results of a name are kept under a plain one, numbered where that is taken."""
        stem, extension = plain.split(".")
        names = [files.write("t-1", filename, content) for content in (b"1", b"2")]
        self.assertEqual(names, [plain, f"{stem}-2.{extension}"])
        self.assertEqual([files.read(name) for name in names], [b"1", b"2"])
        for name in names:
            files.settle(name)
        self.assertEqual(files.write("t-1", "plain.md", b"3"), "t-1_plain.md")

    def test_encoding(self) -> None:
        """Where names have no other characters than ASCII, others are replaced."""
        self.check(self.open(keeps_unicode=False), "\u4e2d.MD", "t-1.md")

    def test_forbidden_characters(self) -> None:
        """Where names have no colons, those with colons are replaced."""
        self.check(self.open(forbidden=':*?"'), "a: b.md", "t-1.md")

    def test_long_names(self) -> None:
        """Where names are short, long ones are replaced."""
        self.check(self.open(longest_bytes=143), "x" * 150 + ".md", "t-1.md")

    def test_all_at_once(self) -> None:
        """A disk that can do nothing of all this keeps every result."""
        files = self.open(has_links=False, keeps_unicode=False, forbidden=":", longest_bytes=100)
        self.check(files, "\u4e2d:" + "x" * 150 + ".md", "t-1.md")
        self.assertEqual(
            str(files.limits), "no hard links, only ASCII in names, no ':' in names, names of at most 100 bytes"
        )

    def test_limits_unknown(self) -> None:
        """A name that is refused is replaced also when nothing was known of the disk's limits."""
        self.directory = Path(self.mktemp())
        files = ResultFiles(self.directory)
        files.open(named())
        AwkwardDisk(self, DiskLimits(keeps_unicode=False, forbidden=":"))
        for task_id, name in (("t-1", "\u4e2d.md"), ("t-2", "a:b.md")):
            self.assertEqual(files.write(task_id, name, b"1"), f"{task_id}.md")

    def test_other_unicode_form(self) -> None:
        """A disk that lists names in another form than they were given keeps them in ASCII, and loses none."""
        real = os.listdir
        self.patch(os, "listdir", lambda path: [unicodedata.normalize("NFD", name) for name in real(path)])
        files = ResultFiles(Path(self.mktemp()))
        files.open(named())
        self.assertFalse(files.limits.keeps_unicode)
        self.assertEqual(files.write("t-1", "\u00e9.md", b"1"), "t-1.md")

    def test_other_case(self) -> None:
        """A name that differs in case alone from one that is there overwrites nothing where that is the same name."""
        for limits in (DiskLimits(), WITHOUT_LINKS):
            files = ResultFiles(directory := Path(self.mktemp()))
            files.open(named())
            AwkwardDisk(self, limits)
            files.write("t-1", "a.md", b"1")
            os.rename(directory / "t-1_a.md", directory / "t-1_A.md")  # as if they were one
            self.assertEqual(files.write("t-1", "A.md", b"2"), "t-1_A-2.md")
            self.assertEqual(files.read("t-1_A.md"), b"1")

    def test_probe_leaves_nothing(self) -> None:
        """The probe removes its files, and those that an interrupted one left."""
        files = ResultFiles(directory := Path(self.mktemp()))
        (directory / INCOMING).mkdir(parents=True)
        (directory / INCOMING / f"{PROBE}-link").write_bytes(b"")
        files.open(named())
        self.assertEqual([path.name for path in directory.rglob("*")], [INCOMING])
        self.assertEqual(str(files.limits), "")

    def test_probe_on_a_full_disk(self) -> None:
        """A disk on which nothing can be made at the start is no obstacle to the start."""

        def full(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            if flags & os.O_CREAT:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(path, flags, *arguments, **options)

        real = os.open
        self.patch(os, "open", full)
        files = ResultFiles(Path(self.mktemp()))
        files.open(named())
        self.assertEqual(files.limits, DiskLimits())


class MemoryResultFilesTests(SynchronousTestCase):
    """Results in memory behave like those on disk."""

    def test_like_files(self) -> None:
        """Collisions are numbered, also of equal contents; what is discarded or was never there cannot be read."""
        files = MemoryResultFiles()
        files.open(named())
        content = b"same"
        names = [files.write("t-1", "a.md", content) for _ in range(3)]
        self.assertEqual(names, ["t-1_a.md", "t-1_a-2.md", "t-1_a-3.md"])
        files.settle(names[0])
        files.condemn(names[0])
        self.assertEqual(files.read(names[0]), content)
        self.assertEqual(files.read(names[0], sha256(content).hexdigest()), content)
        self.assertRaises(StoreDamaged, files.read, names[0], sha256(b"else").hexdigest())
        files.discard(names[1])
        files.discard(names[1])
        for name in (names[1], "t-9_a.md"):
            with self.assertRaises(StoreError):
                files.read(name)
