"""Small files that only their owner may write, and that are replaced in one step."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from tasksubmit.errors import ConfigurationError
from tasksubmit.permissions import refuse_writable

KEY_FILE, CERTIFICATE_FILE, TRUST_FILE, CA_FILE = "key.pem", "certificate.pem", "trust", "ca.pem"
"""What a node's files are called in its state directory."""

NEXT_KEY_FILE = "next-key.pem"
"""The key that is to follow, while peers come to know it."""

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
OTHERS_TOUCH = stat.S_IRWXG | stat.S_IRWXO


def is_set_up(directory: Path) -> bool:
    """Whether a node uses TLS. If one file is there and another missing, it does, and will complain.

    :raises ConfigurationError: that cannot be seen. To go on as if there were no keys would be to go on without TLS.
    """
    return any(is_there(directory / name) for name in (KEY_FILE, CERTIFICATE_FILE, TRUST_FILE))


def is_there(path: Path) -> bool:
    """Whether there is a file, or a link, also one that leads nowhere: what it led to may only be away for a while.

    :raises ConfigurationError: its directory does not let anybody see.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be looked for: {error.strerror}") from None
    return True


def read_guarded(path: Path, forbidden: int, why: str) -> bytes:
    """Read a file, unless another account owns it or can replace it, or its mode allows what it must not.

    Root may read what belongs to the user that a node is to run as.

    :param forbidden: bits that its mode must not have.
    :param why: what is wrong if it has one, for people.
    :raises ConfigurationError: it cannot be read, or others may do with it what they must not.
    """
    user = os.geteuid()
    try:
        # A pipe that nobody writes to would otherwise keep whoever opens it, and a node is to go on.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            mode = stat.S_IMODE(status.st_mode)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigurationError(f"{path} cannot be read: it is not a file, but a pipe or a device")
            if user and status.st_uid not in (user, 0):
                raise ConfigurationError(f"{path} belongs to another user ({status.st_uid}), who decides what is in it")
            if mode & forbidden:
                raise ConfigurationError(f"{path} has the mode {mode:03o}: {why}; do `chmod 600 {path}`")
            refuse_writable(path)
            return file.read()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file whole or not at all; it is on the disk when this returns.

    Done by root for somebody else, it belongs to whom the file belonged before, or else the directory.

    :raises ConfigurationError: it cannot be written.
    """
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with open(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            if os.geteuid() == 0:
                owner = os.stat(path if path.exists() else path.parent)
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.flush()
            os.fsync(file.fileno())
        _rename(temporary, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from None


def move_file(source: Path, path: Path) -> None:
    """Put a file of the same directory in the place of another; it is there on the disk when this returns.

    What the source links to is not looked at, so that root gives nothing away to whom the directory belongs.

    :raises ConfigurationError: it cannot be moved.
    """
    try:
        _rename(source, path)
    except OSError as error:
        raise ConfigurationError(f"{source} cannot be moved to {path}: {error.strerror}") from None


def _rename(source: str | Path, path: Path) -> None:
    os.replace(source, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
