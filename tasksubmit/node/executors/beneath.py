"""Reads a file that a command names: only what lies beneath the command's directory, and reached through no link.

A command may run under another account, or in a container, and then must not be able to have the node read what the
command itself cannot. So the path is opened component by component, each relative to the one before and none through a
symbolic link: nothing that the command changes meanwhile leads out of the directory. The directory itself is opened in
the same way, before the command starts, for the command may be able to replace it. A hard link is no way out either, as
the file may have no other name and has to belong to the expected user.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from pathlib import Path, PurePath

from attrs import frozen

from tasksubmit.errors import ExecutionFailed
from tasksubmit.node.executors.faults import TRANSIENT

_LINKS = (errno.ELOOP, errno.EMLINK, errno.ENOTDIR)
"""Errors of a component that is not opened because it is a symbolic link, or no directory."""


_PASS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW
"""How a directory is opened; where there is ``O_PATH`` it need not be readable."""


@frozen
class Base:
    """A directory that is kept open, so that no other can take its place.

    :ivar directory: where it was when it was opened.
    :ivar written: another path of it, perhaps through links.
    :ivar descriptor: of the directory; no child process inherits it.
    """

    directory: Path
    written: Path
    descriptor: int

    @classmethod
    def open(cls, directory: Path, written: Path) -> Base:
        """Open a directory; blocks.

        :param directory: absolute; no part of it may be a symbolic link.
        :raises OSError: when it cannot be opened.
        """
        return cls(directory, written, _open(None, directory, _PASS))

    def close(self) -> None:
        """Close the directory."""
        os.close(self.descriptor)


def read_beneath(base: Base, path: str, limit: int, owner: int) -> bytes:
    """Return the content of a file; blocks.

    :param path: relative to the directory, or absolute and in it.
    :param limit: the most bytes that it may have.
    :param owner: the user id that it has to belong to.
    :raises ExecutionFailed: when it is none that may be sent; names the file, not where it is.
    :raises OSError: when the machine is at fault.
    """
    inside = PurePath(path)
    name = inside.name
    for start in (base.written, base.directory):  # a command is told where it is without the links to there
        if inside.is_relative_to(start):
            inside = inside.relative_to(start)
    if inside.is_absolute() or not inside.parts or ".." in inside.parts:
        raise ExecutionFailed(f"the result file {name} is not in the directory of the command")
    try:
        # Without O_NONBLOCK a named pipe would wait for its writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        with open(name, "rb", opener=lambda *_: _open(base.descriptor, inside, flags)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ExecutionFailed(f"the result file {name} is not a regular file")
            if found.st_nlink != 1:
                raise ExecutionFailed(f"the result file {name} has {found.st_nlink} links: copy it in place of linking")
            if found.st_uid != owner:
                raise ExecutionFailed(f"the result file {name} belongs to user {found.st_uid}, not to user {owner}")
            content = file.read(limit + 1)  # of whatever size it is said to be: something may write to it still
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in TRANSIENT:
            raise
        why = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, OSError) and error.errno in _LINKS:
            why = "a part of its path is a symbolic link, or no directory"
        raise ExecutionFailed(f"the result file {name} cannot be read: {why}") from None
    if len(content) > limit:
        raise ExecutionFailed(f"the result file {name} has more than {limit} bytes")
    return content


def _open(start: int | None, path: PurePath, flags: int) -> int:
    """Open what a path leads to from a directory, through no symbolic link; returns its descriptor."""
    *folders, name = path.parts
    with ExitStack() as opened:
        for folder in folders:
            start = os.open(folder, _PASS, dir_fd=start)
            opened.callback(os.close, start)
        return os.open(name, flags, dir_fd=start)
