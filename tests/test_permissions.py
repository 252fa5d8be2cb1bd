"""What a node refuses because other accounts can change it."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tasksubmit import permissions
from tasksubmit.errors import ConfigurationError, StoreError
from tasksubmit.permissions import refuse_writable
from tasksubmit.stores.sqlite import DATABASE, LOCK, RESULTS, WORK, SQLiteTaskStore
from tasksubmit.tap import Options
from tasksubmit.tls import files, keeping
from tasksubmit.tls.credentials import Credentials
from tasksubmit.tls.trust import NOBODY
from tasksubmit.wire.address import Address
from tests.tls.support import ALICE, DAY, now

OWN = "0:0000.0000.0001"
OTHER_USER, OTHER_GROUP = 4711, 4712


class PermissionsCase(SynchronousTestCase):
    """A directory that only this user can write, below a sticky one that everybody can."""

    @override
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="tasksubmit-")
        self.addCleanup(temporary.cleanup)
        self.root = Path(temporary.name)
        self.state = self.root / "home" / "state"
        self.state.mkdir(parents=True, mode=0o700)

    def refused(self, path: Path, *words: str) -> None:
        """A path is refused, in one line with these words."""
        error = str(self.assertRaises(ConfigurationError, refuse_writable, path))
        self.assertNotIn("\n", error)
        for word in words:
            self.assertIn(word, error)


class RefuseWritableTests(PermissionsCase):
    """``refuse_writable``."""

    def test_own(self) -> None:
        """What only this user can write is accepted, and so is what does not exist, or what everybody can read."""
        self.state.chmod(0o755)
        for path in (self.state, self.state / "key.pem", self.state / "not" / "there", Path(os.devnull)):
            refuse_writable(path)
        (self.state / "trust").touch()
        refuse_writable(self.state / "trust" / "below-a-file")

    def test_others(self) -> None:
        """A directory that others can write is refused, by whatever bit, and also when it is sticky."""
        self.patch(permissions, "_has_others", lambda status: True)
        for mode in (0o777, 0o770, 0o702, 0o1777):
            self.state.chmod(mode)
            self.refused(self.state, f"{self.state} has the mode {mode:03o}", f"do `chmod go-w {self.state}`")

    def test_file(self) -> None:
        """So is a file."""
        path = self.state / "node.toml"
        path.touch()
        path.chmod(0o646)
        self.refused(path, f"{path} has the mode 646")

    def test_above(self) -> None:
        """Whoever can write a directory above can put another in the place of this one, unless it is sticky."""
        self.state.parent.chmod(0o777)
        self.refused(self.state, f"{self.state.parent} has the mode 777", f"do `chmod go-w {self.state.parent}`")
        self.refused(self.state / "missing" / "directory", f"{self.state.parent} has the mode 777")
        self.state.parent.chmod(0o1777)
        refuse_writable(self.state)

    def test_link(self) -> None:
        """A link is as good as what it leads to, and as the directory that it is in."""
        link, target = self.root / "links" / "state", self.root / "other" / "state"
        link.parent.mkdir()
        link.symlink_to(target)
        target.mkdir(parents=True)
        refuse_writable(link)
        for directory in (link.parent, target.parent):
            directory.chmod(0o777)
            self.refused(link, f"{directory} has the mode 777")
            directory.chmod(0o755)

    def test_quoted(self) -> None:
        """The command that is the way out can be pasted."""
        path = self.state / "a b"
        path.mkdir()
        path.chmod(0o777)
        self.refused(path, f"`chmod go-w '{path}'`")

    def test_owner(self) -> None:
        """What another account owns is refused, links included; root may use what belongs to the node's account."""
        link = self.state / "link"
        link.symlink_to(self.root)
        if os.geteuid() == 0:
            os.lchown(link, OTHER_USER, -1)
        own = os.lstat(link).st_uid
        self.patch(os, "geteuid", lambda: own + 1)
        self.refused(link, f"belongs to another user ({own})", f"`chown {own + 1} {link}`")
        self.patch(os, "geteuid", lambda: 0)
        refuse_writable(link)

    def test_not_to_be_seen(self) -> None:
        """What cannot be looked at is not trusted."""

        def forbidden(path: object) -> None:
            raise PermissionError(13, "Permission denied")

        self.patch(os, "lstat", forbidden)
        self.refused(self.state, "cannot be looked at: Permission denied")


class GroupTests(PermissionsCase):
    """A group that can write: who is in it decides."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.state.chmod(0o770)
        self.group = self.state.stat().st_gid
        self.accounts = [pwd.getpwuid(os.geteuid())]
        self.patch(pwd, "getpwall", lambda: self.accounts)
        self.members(self.accounts[0].pw_name)

    def members(self, *names: str) -> None:
        """Have a group with these members."""
        entry = grp.struct_group(("own", "x", self.group, list(names)))
        self.patch(grp, "getgrgid", lambda number: entry)

    def account(self, group: int) -> None:
        """Have another account, with this group as its first."""
        other: Any = pwd.struct_passwd(("mallory", "x", OTHER_USER, group, "", "/", "/bin/sh"))
        self.accounts.append(other)

    def test_private(self) -> None:
        """A group that the owner is alone in is no other account."""
        refuse_writable(self.state)
        self.account(OTHER_GROUP)
        refuse_writable(self.state)

    def test_member(self) -> None:
        """Another account in it can write, whether it is its first group or not, and known or not."""
        self.account(OTHER_GROUP)
        self.members("mallory")
        self.refused(self.state, "has the mode 770")
        self.members("somebody-elsewhere", self.accounts[0].pw_name)
        self.refused(self.state, "has the mode 770")
        self.members()
        self.account(self.group)
        self.refused(self.state, "has the mode 770")

    def test_no_member(self) -> None:
        """A group without members is one that programs have; one that is not known at all is this process's."""
        self.members()
        self.accounts.clear()
        self.refused(self.state, "has the mode 770")

        def unknown(number: int) -> None:
            raise KeyError(number)

        self.patch(grp, "getgrgid", unknown)
        refuse_writable(self.state)

    def test_access_control_list(self) -> None:
        """With an access control list the group's bits are those of anybody in the list."""
        if sys.platform != "linux":
            return
        self.patch(os, "listxattr", lambda path: ["system.posix_acl_access"] if path == self.state else [])
        self.refused(self.state, "has the mode 770")

        def unsupported(path: object) -> None:
            raise OSError(95, "Operation not supported")

        self.patch(os, "listxattr", unsupported)
        refuse_writable(self.state)


class NodeTests(PermissionsCase):
    """A node, and the commands that change its keys, on what others can write."""

    def parse(self, *arguments: str) -> Options:
        """The options of a node."""
        options = Options()
        options.parseOptions(["--address", OWN, "--state-dir", str(self.state), *arguments])
        return options

    def refused_options(self, where: Path, *arguments: str) -> None:
        """The options are refused because of a file or directory."""
        error = str(self.assertRaises(usage.UsageError, self.parse, *arguments))
        self.assertIn(f"{where} has the mode ", error)
        self.assertIn(f"`chmod go-w {where}`", error)
        self.assertNotIn("\n", error)

    def test_state_directory(self) -> None:
        """Neither the options nor a store take a state directory that others can write."""
        self.parse()
        self.state.chmod(0o1777)
        self.refused_options(self.state)
        store = SQLiteTaskStore(self.state, object.__new__(_Reactor))
        error = str(self.assertRaises(StoreError, store.open))
        self.assertIn(f"the state directory cannot be trusted: {self.state} has the mode 1777", error)
        self.assertEqual(os.listdir(self.state), [])

    def test_in_the_state_directory(self) -> None:
        """A store does not take files that others can write."""
        for name in (DATABASE, f"{DATABASE}-wal", LOCK, RESULTS, WORK):
            path = self.state / name
            path.mkdir() if name in (RESULTS, WORK) else path.touch()
            path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o002)
            error = str(self.assertRaises(StoreError, SQLiteTaskStore(self.state, object.__new__(_Reactor)).open))
            self.assertIn(f"{path} has the mode ", error)
            path.chmod(0o700)

    def test_links_in_the_state_directory(self) -> None:
        """A store does not take links to what others can write."""
        outside = self.root / "outside"
        outside.mkdir()
        outside.chmod(0o777)
        for name in (RESULTS, WORK):
            path = self.state / name
            path.symlink_to(outside)
            error = str(self.assertRaises(StoreError, SQLiteTaskStore(self.state, object.__new__(_Reactor)).open))
            self.assertIn(f"{path} has the mode 777", error)
            path.unlink()

    def test_control_directory(self) -> None:
        """In a directory that others can write, another could listen in the place of the control socket."""
        directory = self.root / "run"
        directory.mkdir()
        control = f"unix:{directory / 'control.sock'}"
        self.parse("--control", control)
        directory.chmod(0o1777)
        self.refused_options(directory, "--control", control)

    def test_configuration(self) -> None:
        """A configuration file says which commands are executed: others must not write it, or replace it."""
        path = self.root / "etc" / "node.toml"
        path.parent.mkdir()
        path.write_text("tick = 7\n")
        self.assertEqual(self.parse("--config", str(path)).settings.tick, 7.0)
        for place in (path, path.parent):
            before = place.stat().st_mode
            place.chmod(0o777)
            self.refused_options(place, "--config", str(path))
            place.chmod(before)

    def test_keys(self) -> None:
        """Keys and trust are neither made, changed nor read where others can put others in their place."""
        keeping.make_identity(self.state, Address.parse(OWN), now(), DAY)
        credentials = Credentials.of_directory(self.state)
        credentials.load()
        self.state.chmod(0o777)
        for call in (
            credentials.load,
            lambda: keeping.make_identity(self.state, Address.parse(OWN), now(), DAY),
            lambda: keeping.renew(self.state, now(), DAY),
            lambda: keeping.make_next_key(self.state),
            lambda: keeping.change_trust(self.state, lambda trust: trust.with_proof(ALICE, "ca")),
            lambda: keeping.own_pins(self.state),
        ):
            error = str(self.assertRaises(ConfigurationError, call))
            self.assertIn(f"{self.state} has the mode 777: other users can write it", error)
        self.assertFalse((self.state / files.TRUST_FILE).exists())
        self.state.chmod(0o700)
        self.assertEqual(keeping.trusted(self.state), NOBODY)


class _Reactor:
    """Of a store that is never opened: no thread hands it anything."""

    def callFromThread(self, function: object, *arguments: object) -> None:
        raise AssertionError("nothing was to be done")
