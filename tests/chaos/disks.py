"""A small disk for each node, where this process may mount one: it can really be full, and really be read-only.

Elsewhere the node's own process refuses what a full disk refuses (`tests.chaos.child`).
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from contextlib import suppress
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_SIZE = "32m"
_FILLER = ".filler"
_CHUNKS = (1024 * 1024, 4096, 1)


def have_own_mounts() -> bool:
    """Give this process mounts of its own, which end with it and what it starts; gives whether it may mount.

    To be called before there are threads.
    """
    try:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
            return False
    except AttributeError:  # no Linux
        return False
    return _run("mount", "--make-rprivate", "/")


def _run(*command: str) -> bool:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    except OSError:
        return False


def mount(directory: Path) -> bool:
    """Mount a small disk on a directory; gives whether that was done."""
    return _run("mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=700", "tmpfs", str(directory))


def unmount(directory: Path) -> None:
    """Take the disk away, and what is on it."""
    _run("umount", "--lazy", str(directory))


def remount(directory: Path, is_read_only: bool) -> bool:
    """Make the disk read-only, which no process may have open for writing, or writable again."""
    return _run("mount", "-o", f"remount,{'ro' if is_read_only else 'rw'}", str(directory))


def fill(directory: Path) -> None:
    """Leave no space on the disk."""
    with (directory / _FILLER).open("wb", buffering=0) as filler:
        for size in _CHUNKS:
            with suppress(OSError):
                while filler.write(bytes(size)) == size:
                    pass


def make_space(directory: Path) -> None:
    """Undo `fill`."""
    with suppress(FileNotFoundError):
        os.unlink(directory / _FILLER)
