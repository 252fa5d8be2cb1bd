"""Bringing a database to the schema of this version: ``schema/`` holds one numbered SQL file a step."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from importlib import resources

from tasksubmit.errors import StoreDamaged, StoreError, StoreTooNew

APPLICATION_ID = 0x7461736B  # "task": tells our databases from other people's


def schema_steps() -> list[str]:
    """The text of every step, in order; a database's ``user_version`` counts the steps that it has."""
    files = sorted(
        (entry for entry in (resources.files(__package__) / "schema").iterdir() if entry.name.endswith(".sql")),
        key=lambda entry: entry.name,
    )
    return [entry.read_text("utf-8") for entry in files]


DATABASE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What reading a damaged database raises; the second where an error of SQLite's quotes what is no text any more."""


def damaged(name: str, found: object) -> str:
    """What to say when the database called ``name`` cannot be read as one."""
    return (
        f"{name} is damaged or no database ({found}): stop the node, see what `tasksubmit check` says, and restore it"
        " from a backup, or move it and results/ away to start empty"
    )


def migrate(connection: sqlite3.Connection, name: str, steps: Sequence[str]) -> int:
    """Apply the steps that the database called ``name`` lacks, each in a transaction of its own.

    :returns: how many it had.
    :raises StoreTooNew: when it has steps that this version does not know.
    :raises StoreDamaged: when it is no database, or not one of this package.
    :raises StoreError: when it cannot be read, or a step fails; the database stays at the step before.
    """
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        application = int(connection.execute("PRAGMA application_id").fetchone()[0])
        tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    except sqlite3.OperationalError as error:
        raise StoreError(f"{name} cannot be used: {error}") from error
    except DATABASE_ERRORS as error:
        raise StoreDamaged(damaged(name, error)) from error
    if application != APPLICATION_ID and (version or tables):
        raise StoreDamaged(f"{name} is a database of another program; choose another state directory")
    if version > len(steps):
        raise StoreTooNew(
            f"{name} has schema {version}, made by a newer version of tasksubmit; this one knows schemas up to "
            f"{len(steps)}: install the newer version again, or choose another state directory"
        )
    if not version and not tables:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # without a VACUUM, only before the first table
    for number, step in enumerate(steps[version:], version + 1):
        _apply(connection, name, number, step)
    return version


def _apply(connection: sqlite3.Connection, name: str, number: int, step: str) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _statements(step):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.rollback()
        raise StoreError(f"{name} could not be brought to schema {number}: {error}; it is unchanged") from error


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, one by one: sqlite3's own executescript would commit before them."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement
