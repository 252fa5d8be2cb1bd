"""Reads a file that a command names: only what lies beneath the command's directory, and reached through no link.

A command may run under another account, or in a container, and then must not be able to have the node read what the
command itself cannot. So the path is opened component by component, each relative to the one before and none through a
symbolic link: nothing that the command changes meanwhile leads out of the directory. A hard link is no way out either,
as the file may have no other name and has to belong to the expected user.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from pathlib import Path, PurePath

from tasksubmit.errors import ExecutionFailed
from tasksubmit.node.executors.faults import TRANSIENT

_LINKS = (errno.ELOOP, errno.EMLINK, errno.ENOTDIR)
"""Errors of a component that is not opened because it is a symbolic link, or no directory."""


def read_beneath(directory: Path, path: str, limit: int, owner: int) -> bytes:
    """Return the content of a file; blocks.

    :param path: relative to the directory, or absolute and in it.
    :param limit: the most bytes that it may have.
    :param owner: the user id that it has to belong to.
    :raises ExecutionFailed: when it is none that may be sent; names the file, not where it is.
    :raises OSError: when the machine is at fault.
    """
    inside = PurePath(path)
    name = inside.name
    for base in (directory, directory.resolve()):  # a command is told where it is without the links to there
        if inside.is_relative_to(base):
            inside = inside.relative_to(base)
    if inside.is_absolute() or not inside.parts or ".." in inside.parts:
        raise ExecutionFailed(f"the result file {name} is not in the directory of the command")
    try:
        with open(name, "rb", opener=lambda *_: _open(directory, inside)) as file:
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


def _open(directory: Path, inside: PurePath) -> int:
    """Open a file for reading; returns its descriptor."""
    *folders, name = inside.parts
    with ExitStack() as opened:
        current = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        opened.callback(os.close, current)
        for folder in folders:
            current = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
            opened.callback(os.close, current)
        # Without O_NONBLOCK a named pipe would wait for its writer.
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=current)
