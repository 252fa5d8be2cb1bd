"""The picture of the lifecycle: all that the tables say is on it, and nothing else."""

from __future__ import annotations

import re
from collections import Counter
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.lifecycle.diagram import COLORS, COLUMNS, rows, svg
from tasksubmit.lifecycle.table import DEADLINES, DECIDED_BY, TRANSITIONS, Event, Side, TaskStatus

SVG = "{http://www.w3.org/2000/svg}"


class RowTests(SynchronousTestCase):
    """`rows`."""

    def test_every_transition(self) -> None:
        """Each step of the table is in one row, which has its consequences."""
        for side in Side:
            drawn = {
                (side, source, row.event): (target, row.transition.stamps, row.transition.effects)
                for row in rows(side)
                for source, target in row.steps
            }
            table = {
                key: (transition.target, transition.stamps, transition.effects)
                for key, transition in TRANSITIONS.items()
                if key[0] is side
            }
            self.assertEqual(drawn, table)
            self.assertEqual(sum(len(row.steps) for row in rows(side)), len(table))

    def test_every_deadline(self) -> None:
        """Each deadline is told at what it brings about, its limit and its column with it."""
        for side in Side:
            told = {deadline: row for row in rows(side) for deadline in row.deadlines}
            self.assertEqual(set(told), {deadline for deadline in DEADLINES if deadline.side is side})
            for deadline, row in told.items():
                self.assertIn(deadline.since, row.limits)
        limits = {row.event: row.limits for row in rows(Side.RECEIVER)}
        self.assertEqual(limits[Event.TIME_OUT_ACCEPT], "1 min after created_at")
        self.assertEqual(limits[Event.RUN_AGAIN], "once lease_expires_at has passed, if it has attempts left")
        self.assertEqual(
            limits[Event.TIME_OUT_LEASE],
            "once lease_expires_at has passed, or 1 h after put_back_at and after any start, unless held_at",
        )
        limits = {row.event: row.limits for row in rows(Side.SUBMITTER)}
        self.assertEqual(
            limits[Event.TIME_OUT_ANSWER],
            "90 s after undecided_since and after any start, unless cancel_requested_at",
        )

    def test_time_has_a_limit(self) -> None:
        """What time does by itself has a limit, and nothing else has."""
        for side in Side:
            for row in rows(side):
                self.assertEqual(bool(row.limits), DECIDED_BY[row.event] == "time", row.event)


class SvgTests(SynchronousTestCase):
    """`svg`."""

    def test_drawn(self) -> None:
        """There is a column for each status, and a dot in the right one for each step, in the color of whose it is."""
        for side in Side:
            picture = ElementTree.fromstring(svg(side))
            statuses = {
                text.text: text.get("x") for text in picture.iter(f"{SVG}text") if text.get("class") == "status"
            }
            self.assertEqual(set(statuses), {str(status) for status in TaskStatus})
            dots = Counter(
                (dot.get("cx"), dot.get("fill")) for dot in picture.iter(f"{SVG}circle") if dot.get("r") == "3.5"
            )
            [start] = [dot.get("cx") for dot in picture.iter(f"{SVG}circle") if dot.get("r") == "7"]
            table = Counter(
                (statuses[str(source)] if source else start, COLORS[DECIDED_BY[event]])
                for of, source, event in TRANSITIONS
                if of is side
            )
            self.assertEqual(dots, table)

    def test_words(self) -> None:
        """Each thing that can happen is named."""
        for side in Side:
            text = svg(side)
            for row in rows(side):
                self.assertIn(f">{row.event.value}", text)

    def test_same_bytes(self) -> None:
        """It is the same each time, fits its frame, and needs nothing from elsewhere."""
        for side in Side:
            text = svg(side)
            self.assertEqual(text, svg(side))
            found = re.search(r'viewBox="0 0 (\d+) (\d+)"', text)
            assert found is not None
            width, height = map(int, found.groups())
            picture = ElementTree.fromstring(text)
            for element in picture.iter():
                for name, limit in (("x", width), ("x2", width), ("cx", width), ("y", height), ("cy", height)):
                    self.assertTrue(0 <= float(element.get(name, "0")) <= limit, ElementTree.tostring(element))
            self.assertNotIn("href", text)

    def test_columns(self) -> None:
        """The columns go from what is not there yet to what is final."""
        self.assertIsNone(COLUMNS[0])
        finals = [status.is_final for status in COLUMNS[1:] if status]
        self.assertEqual(finals, sorted(finals))
