"""Statements on many rows at once.

A statement lets go of the interpreter's lock while SQLite works, and has to wait for it afterwards; one for many rows
does that once. The numbers of rows are small, or powers of two, so that not too many statements are ever prepared.

It is the SQL that other databases know as well (SQLite since 3.33), but for ``OR FAIL``: whoever calls undoes all when
a statement fails, and without these words SQLite would keep a journal for each, from which to undo that one alone.
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

_MOST_ROWS = 64
_MOST_VALUES = 1024


_SMALL = 16


def _chunks(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Cut into pieces of few lengths."""
    start = 0
    while start < len(items):
        left = min(len(items) - start, most)
        length = left if left <= _SMALL else 1 << (left.bit_length() - 1)
        yield items[start : start + length]
        start += length


def _padded(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Cut into pieces of few lengths; where it makes no difference that the last item comes several times."""
    for start in range(0, len(items), most):
        yield _lengthened(items[start : start + most])


def _lengthened(items: Sequence[T]) -> Sequence[T]:
    length = len(items) if len(items) <= _SMALL else 1 << (len(items) - 1).bit_length()
    return [*items, *[items[-1]] * (length - len(items))]


def _flat(rows: Sequence[Row]) -> list[Any]:
    return list(chain.from_iterable(rows))


def _marks(count: int, width: int) -> str:
    return ", ".join([f"({', '.join('?' * width)})"] * count)


@lru_cache(maxsize=256)
def _insert_sql(table: str, columns: str, count: int, width: int, source: str) -> str:
    new = f"VALUES {_marks(count, width)}"
    return f"INSERT OR FAIL INTO {table} ({columns}) " + (source.format(f"({new}) AS new") if source else new)


def insert(
    connection: sqlite3.Connection, table: str, columns: str, rows: Sequence[Row], source: str = ""
) -> tuple[int, int]:
    """Insert rows; how many that were, and the number of the last one.

    :param source: a ``SELECT ... FROM {} ...`` from the rows, which it knows as ``new``, if it is not all of them.
    """
    inserted = last = 0
    width = len(rows[0]) if rows else 1
    for chunk in _chunks(rows, _MAX_PARAMETERS // width):
        cursor = connection.execute(_insert_sql(table, columns, len(chunk), width, source), _flat(chunk))
        inserted += cursor.rowcount
        last = cursor.lastrowid or 0
    return inserted, last


@lru_cache(maxsize=256)
def _update_sql(table: str, keys: str, columns: str, count: int, width: int) -> str:
    names, changing = keys.split(", "), columns.split(", ")
    where = " AND ".join(f"{table}.{name} = new.column{place}" for place, name in enumerate(names, 1))
    assignments = ", ".join(f"{name} = new.column{place}" for place, name in enumerate(changing, len(names) + 1))
    return f"UPDATE OR FAIL {table} SET {assignments} FROM (VALUES {_marks(count, width)}) AS new WHERE {where}"


def update(connection: sqlite3.Connection, table: str, keys: str, columns: str, rows: Sequence[Row]) -> None:
    """Set ``columns`` where ``keys`` are as in the rows, which have first the one and then the other."""
    width = len(rows[0]) if rows else 1
    for chunk in _padded(rows, _MOST_ROWS):
        connection.execute(_update_sql(table, keys, columns, len(chunk), width), _flat(chunk))


def among(values: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """The values, at least one, as they stand after ``IN``, and what to execute the statement with."""
    values = _lengthened(values)
    return _marks(1, len(values)), values


def execute(connection: sqlite3.Connection, sql: str, values: Iterable[Any]) -> list[Any]:
    """Carry out a statement with ``IN {}`` for the values; the rows that it gives, each once."""
    rows: list[Any] = []
    for chunk in _padded(list(dict.fromkeys(values)), _MOST_VALUES):
        rows += connection.execute(sql.format(_marks(1, len(chunk))), chunk).fetchall()
    return rows


def of_each(connection: sqlite3.Connection, sql: str, values: Iterable[Any]) -> list[Any]:
    """Carry out a ``SELECT ... FROM {}`` that gives a row for each value, which it knows as ``column1``."""
    rows: list[Any] = []
    for chunk in _padded(list(values), _MOST_VALUES):
        rows += connection.execute(sql.format(f"(VALUES {_marks(len(chunk), 1)})"), chunk).fetchall()
    return rows
