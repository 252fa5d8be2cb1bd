"""The polo score."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.lifecycle.polo import PoloScoreBreakdown, ScoreFormula, polo_score
from tasksubmit.wire.messages import TaskResultMessage
from tests.tiers import examples
from tests.wire.vectors import Row, check_rows, rows

PARTS = ("base", "cpu_bonus", "cpu_minutes", "idle_factor", "staged_factor", "efficiency_multiplier", "raw_reward")
ANY_MS = st.integers(-(2**63), 2**63 - 1)


def durations(idle_ms: int, staged_ms: int, cpu_ms: int) -> TaskResultMessage:
    """Make something that has the three durations."""
    return TaskResultMessage(time_idle_ms=idle_ms, time_staged_ms=staged_ms, time_cpu_ms=cpu_ms)


class ScoreTests(SynchronousTestCase):
    """Rewards."""

    def check(self, row: Row, key: str, formula: ScoreFormula) -> None:
        """Check one row of the vectors: the reward exactly, its parts closely."""
        found = polo_score(durations(row["time_idle_ms"], row["time_staged_ms"], row["time_cpu_ms"]), formula)
        expected = row[key]
        self.assertEqual(found.final_reward, expected["final_reward"])
        # The reference leaves a negative CPU time as it is; of such rows only the reward agrees.
        if row["time_cpu_ms"] >= 0:
            for part in PARTS:
                self.assertApproximates(getattr(found, part), expected[part], 1e-9 * abs(expected[part]), part)

    def test_documented(self) -> None:
        """By the documented formula each row of the vectors earns what the published description says."""
        check_rows(self, rows("polo"), lambda row: self.check(row, "breakdown_documented", ScoreFormula.DOCUMENTED))

    def test_linear(self) -> None:
        """By the linear formula each row of the vectors earns what deployed peers pay."""
        check_rows(self, rows("polo"), lambda row: self.check(row, "breakdown", ScoreFormula.LINEAR))

    def test_published_examples(self) -> None:
        """The default formula gives the rewards of the published examples."""
        examples = [
            durations(*(row[f"time_{part}_ms"] for part in ("idle", "staged", "cpu")))
            for row in rows("polo", case="published_example")
        ]
        self.assertEqual([polo_score(example).final_reward for example in examples], [2, 4, 2, 6])

    @settings(deadline=None, max_examples=examples(200))
    @given(ANY_MS, ANY_MS, ANY_MS, st.sampled_from(ScoreFormula))
    def test_any_durations(self, idle_ms: int, staged_ms: int, cpu_ms: int, formula: ScoreFormula) -> None:
        """Whatever a peer says, the reward is at least 1, and negative durations count as zero."""
        score = polo_score(durations(idle_ms, staged_ms, cpu_ms), formula)
        self.assertGreaterEqual(score.final_reward, 1)
        self.assertTrue(0.4 <= score.efficiency_multiplier <= 1.0)
        clamped = durations(max(idle_ms, 0), max(staged_ms, 0), max(cpu_ms, 0))
        self.assertEqual(polo_score(clamped, formula), score)


class BreakdownTests(SynchronousTestCase):
    """The breakdown as a record."""

    def test_json(self) -> None:
        """A breakdown is written like every record, and reads back."""
        score = polo_score(durations(30_000, 300_000, 60_000), ScoreFormula.LINEAR)
        self.assertEqual(
            score.to_json(),
            b'{"base":1,"cpu_bonus":1,"cpu_minutes":1,"idle_factor":0.15,"staged_factor":0.15,'
            b'"efficiency_multiplier":0.7,"raw_reward":1.4,"final_reward":1}',
        )
        self.assertEqual(PoloScoreBreakdown.from_json(score.to_json()), score)
