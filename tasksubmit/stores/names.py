"""File names that a directory accepts: a probe of what its disk cannot do, made once, at the start of a node.

The probe makes small files in a directory of its caller and removes them. It finds out what cannot be known otherwise:
the encoding of names depends on the locale of the process, forbidden characters and hard links on the file system, and
a network file system answers for a disk of another machine. When the probe itself fails, as on a full disk, nothing is
known, and the disk is taken for one that can do everything. Each write then finds out for itself.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from attrs import frozen

PROBE = "probe"
"""How the names of all files of a probe begin."""

NAME_ERRORS = frozenset({errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG, errno.EPROTO})
"""What file systems say of a name that they do not accept."""

LINK_ERRORS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL})
"""What file systems say that have no hard links."""

_CHARACTERS = ':*?"<>|&% '
_UNICODE = "\u00e9\u20ac\u4e2d\U0001f600"
_LONGEST = 255


@frozen
class DiskLimits:
    """What a disk cannot do with names.

    :ivar has_links: True if a file can have two names.
    :ivar keeps_unicode: True if a name of non-ASCII characters can be given, and is listed as it was given.
    :ivar forbidden: the ASCII characters that may stand in the name of a result, and not in a name on this disk.
    :ivar longest_bytes: the length of the longest name that was accepted.
    """

    has_links: bool = True
    keeps_unicode: bool = True
    forbidden: str = ""
    longest_bytes: int = _LONGEST

    def suit(self, name: str) -> bool:
        """Return True if nothing that is known speaks against a name."""
        return self.keeps_unicode or name.isascii()

    def __str__(self) -> str:
        """Describe the limits; empty if there are none."""
        limits = []
        if not self.has_links:
            limits.append("no hard links")
        if not self.keeps_unicode:
            limits.append("only ASCII in names")
        if self.forbidden:
            limits.append(f"no {' '.join(map(repr, self.forbidden))} in names")
        if self.longest_bytes < _LONGEST:
            limits.append(f"names of at most {self.longest_bytes} bytes")
        return ", ".join(limits)


def probe(directory: Path) -> DiskLimits:
    """Find out what the disk of a directory cannot do; files of an earlier probe may be there."""
    limits = DiskLimits()
    with suppress(OSError):
        _remove_all(directory)
        if not _can_make(directory, PROBE):
            return limits
        limits = DiskLimits(
            has_links=_has_links(directory),
            keeps_unicode=_can_make(directory, PROBE + _UNICODE) and _is_listed(directory, PROBE + _UNICODE),
            forbidden="".join(one for one in _CHARACTERS if not _can_make(directory, f"{PROBE}{one}x")),
            longest_bytes=_longest(directory),
        )
    with suppress(OSError):
        _remove_all(directory)
    return limits


def _can_make(directory: Path, name: str) -> bool:
    """Return True if a file can have this name.

    :raises OSError: for another reason than the name.
    """
    try:
        os.close(os.open(directory / name, os.O_WRONLY | os.O_CREAT, 0o600))
    except UnicodeError:
        return False
    except OSError as error:
        if error.errno in NAME_ERRORS:
            return False
        raise
    return True


def _has_links(directory: Path) -> bool:
    try:
        os.link(directory / PROBE, directory / f"{PROBE}-link")
    except OSError as error:
        if error.errno in LINK_ERRORS:
            return False
        raise
    return True


def _is_listed(directory: Path, name: str) -> bool:
    return name in os.listdir(directory)


def _longest(directory: Path) -> int:
    """Return the length of the longest ASCII name, found by halving."""
    if _can_make(directory, PROBE.ljust(_LONGEST, "x")):
        return _LONGEST
    fine, too_long = len(PROBE), _LONGEST
    while too_long - fine > 1:
        length = (fine + too_long) // 2
        if _can_make(directory, PROBE.ljust(length, "x")):
            fine = length
        else:
            too_long = length
    return fine


def _remove_all(directory: Path) -> None:
    for path in directory.iterdir():
        if path.name.startswith(PROBE):
            path.unlink(missing_ok=True)
