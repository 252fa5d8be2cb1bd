"""The ledger in the database: each booking once, the sums, and what a score book is still to be told."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable

from tasksubmit.lifecycle.change import Change, OwedBooking
from tasksubmit.lifecycle.task import to_milliseconds
from tasksubmit.stores import bulk
from tasksubmit.stores.rows import OWED_BOOKING_COLUMNS, key_values, owed_booking_from_row
from tasksubmit.wire.address import Address


def book(connection: sqlite3.Connection, changes: Iterable[Change]) -> None:
    """Add points to the ledger, unless this side of the task has booked for this party before."""
    wanted: dict[tuple[str, ...], tuple[int, str, int]] = {}
    told: set[tuple[str, ...]] = set()
    for one in changes:
        for booking in one.bookings:
            whose = (*key_values(one.before.key), str(booking.party))
            wanted.setdefault(whose, (booking.points, booking.reason, to_milliseconds(one.at)))
            if one.tells_bookings:
                told.add(whose)
    for booked in bulk.execute(connection, _BOOKED, [task_id for task_id, *_ in wanted]):
        wanted.pop(booked, None)
    points: Counter[str] = Counter()
    for (*_, party), (earned, *_) in wanted.items():
        points[party] += earned
    bulk.insert(
        connection,
        "bookings",
        "task_id, side, peer, party, points, reason, booked_at",
        [(*whose, *booked) for whose, booked in wanted.items()],
    )
    bulk.insert(
        connection,
        "owed_bookings",
        "task_id, side, peer, party, points, reason",
        [(*whose, points_of, reason) for whose, (points_of, reason, _) in wanted.items() if whose in told],
    )
    bulk.insert(
        connection,
        "scores",
        "party, points",
        list(points.items()),
        "SELECT * FROM {} WHERE TRUE ON CONFLICT (party) DO UPDATE SET points = scores.points + excluded.points",
    )


_BOOKED = "SELECT task_id, side, peer, party FROM bookings WHERE task_id IN {}"


def scores(connection: sqlite3.Connection) -> list[tuple[Address, int]]:
    """The score of every address that has one, by address."""
    rows = connection.execute("SELECT party, points FROM scores ORDER BY party")
    return [(Address.parse(party), points) for party, points in rows]


def score(connection: sqlite3.Connection, address: Address) -> int:
    """The score of an address, 0 if it has none."""
    row = connection.execute("SELECT points FROM scores WHERE party = ?", (str(address),)).fetchone()
    return int(row[0]) if row else 0


def owed_bookings(connection: sqlite3.Connection, limit: int) -> list[OwedBooking]:
    """Up to ``limit`` bookings that the score book is still to be told, in the order of booking."""
    rows = connection.execute(f"SELECT {OWED_BOOKING_COLUMNS} FROM owed_bookings ORDER BY id LIMIT ?", (limit,))
    return [owed_booking_from_row(row) for row in rows]


def settle_bookings(connection: sqlite3.Connection, ids: Collection[int]) -> None:
    """The score book has been told these."""
    connection.executemany("DELETE FROM owed_bookings WHERE id = ?", [(number,) for number in ids])
