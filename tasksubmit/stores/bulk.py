"""Statements on many rows at once, in the SQL that other databases know as well (SQLite since 3.33).

A statement lets go of the interpreter's lock while SQLite works, and has to wait for it afterwards; one for many rows
does that once. The numbers of rows are powers of two, so that few statements are ever prepared.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, TypeVar

T = TypeVar("T")
Row = Sequence[Any]

_MAX_PARAMETERS = 4096
"""In one statement; SQLite takes eight times as many, but what it prepares grows with them."""


def _chunks(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    start = 0
    while start < len(items):
        length = 1 << (min(len(items) - start, most).bit_length() - 1)
        yield items[start : start + length]
        start += length


def _row_chunks(rows: Sequence[Row]) -> Iterator[tuple[int, int, list[Any]]]:
    """How many rows, of how many values, and all those values."""
    width = len(rows[0]) if rows else 1
    for chunk in _chunks(rows, _MAX_PARAMETERS // width):
        yield len(chunk), width, list(chain.from_iterable(chunk))


@lru_cache(maxsize=256)
def _marks(count: int, width: int) -> str:
    return ", ".join([f"({', '.join('?' * width)})"] * count)


def insert(
    connection: sqlite3.Connection, table: str, columns: str, rows: Sequence[Row], on_conflict: str = ""
) -> tuple[int, int]:
    """Insert rows; how many that were, and the number of the last one."""
    inserted = last = 0
    for count, width, values in _row_chunks(rows):
        cursor = connection.execute(
            f"INSERT INTO {table} ({columns}) VALUES {_marks(count, width)} {on_conflict}", values
        )
        inserted += cursor.rowcount
        last = cursor.lastrowid or 0
    return inserted, last


@lru_cache(maxsize=64)
def _assignments(columns: str, keys: int) -> str:
    return ", ".join(f"{column} = new.column{place}" for place, column in enumerate(columns.split(", "), keys + 1))


def update(connection: sqlite3.Connection, table: str, keys: str, columns: str, rows: Sequence[Row]) -> int:
    """Set ``columns`` where ``keys`` are as in the rows, which have first the one and then the other; how many did."""
    names = keys.split(", ")
    where = " AND ".join(f"{table}.{column} = new.column{place}" for place, column in enumerate(names, 1))
    updated = 0
    for count, width, values in _row_chunks(rows):
        sql = (
            f"UPDATE {table} SET {_assignments(columns, len(names))}"
            f" FROM (VALUES {_marks(count, width)}) AS new WHERE {where}"
        )
        updated += connection.execute(sql, values).rowcount
    return updated


def execute(connection: sqlite3.Connection, sql: str, values: Iterable[Any]) -> list[Any]:
    """Carry out a statement with ``IN {}`` for the values; the rows that it gives."""
    rows: list[Any] = []
    for chunk in _chunks(list(values), _MAX_PARAMETERS):
        rows += connection.execute(sql.format(_marks(1, len(chunk))), chunk).fetchall()
    return rows
