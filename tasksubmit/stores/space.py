"""Free pages of a database: SQLite reuses them, and returns them to the file system only when it is told to.

A database that was created with ``auto_vacuum = INCREMENTAL`` returns them in steps, each a small transaction; in WAL
mode the file shrinks at the checkpoint behind it. A database of before has to be rewritten once, see
`tasksubmit.stores.compact`.
"""

from __future__ import annotations

import sqlite3

from tasksubmit.interfaces import ReturnedSpace

_INCREMENTAL = 2


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """The value of a setting that is a number."""
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def return_pages(connection: sqlite3.Connection, max_bytes: int) -> ReturnedSpace:
    """Take up to ``max_bytes`` of free pages off the end of a database; see `ITaskStore.return_space`."""
    page = pragma(connection, "page_size")
    can_shrink = pragma(connection, "auto_vacuum") == _INCREMENTAL
    before = pragma(connection, "freelist_count")
    for _ in range(min(before, max_bytes // page) if can_shrink else 0):
        # One by one: the statement for several pages pauses after each, and Python's cursor ends it there.
        connection.execute("PRAGMA incremental_vacuum(1)").fetchall()
    after = pragma(connection, "freelist_count")
    return ReturnedSpace(returned_bytes=(before - after) * page, free_bytes=after * page, can_shrink=can_shrink)


def checkpoint(connection: sqlite3.Connection) -> None:
    """Copy the log into the database file as far as no reader needs it, without waiting, so that the file shrinks."""
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
