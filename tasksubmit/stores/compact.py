"""Rewriting the database of a stopped node without free pages, so that it can shrink in small steps from then on."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from attrs import frozen

from tasksubmit.errors import StoreDamaged, StoreError
from tasksubmit.stores import disk
from tasksubmit.stores.migrations import APPLICATION_ID, DATABASE_ERRORS, damaged
from tasksubmit.stores.space import pragma
from tasksubmit.stores.sqlite import DATABASE, LOCK, refuse_losses

BUSY_SECONDS = 5.0
"""For how long other programs that use the database are waited for."""


@frozen
class Compacted:
    """The size of a database file before it was rewritten and after, in bytes."""

    before_bytes: int
    after_bytes: int


def compact_state(directory: Path) -> Compacted:
    """Rewrite the database of a state directory, and have it return free space in small steps from then on.

    It takes as long as copying the database, and as much free space as twice what the records take. When it fails the
    database is as before.

    :raises StoreLocked: when a node is using it.
    :raises StoreError: when there is none, or it cannot be rewritten.
    """
    path = directory / DATABASE
    if not path.exists():
        raise StoreError(f"there is no database {path}; name the node's own directory with --state-dir")
    try:
        lock = disk.lock(directory / LOCK)
        try:
            refuse_losses(path)
            disk.sync_log(path)
            before = path.stat().st_size
            with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
                _rewrite(connection, path)
            disk.sync_directory(directory)
            return Compacted(before, path.stat().st_size)
        finally:
            os.close(lock)
    except OSError as error:
        raise StoreError(f"{error.filename or directory} cannot be used: {error.strerror}") from error
    except sqlite3.OperationalError as error:
        raise StoreError(f"{path} could not be rewritten: {error}; it is unchanged") from error
    except DATABASE_ERRORS as error:
        raise StoreDamaged(damaged(str(path), error)) from error


def _rewrite(connection: sqlite3.Connection, path: Path) -> None:
    if pragma(connection, "application_id") != APPLICATION_ID:
        raise StoreError(f"{path} is a database of another program; name the node's own directory with --state-dir")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # takes effect with the VACUUM
    connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
