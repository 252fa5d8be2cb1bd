"""A real node on the state of an older version; see ``docs/howto/upgrade.rst``."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing

from tasksubmit.stores.migrations import migrate, schema_steps
from tests.integration.test_twistd import ProcessCase
from tests.tiers import tier


@tier("full")
class UpgradeTests(ProcessCase):
    """``python -m tasksubmit run``."""

    def test_every_schema(self) -> None:
        """A database of any version is brought to this one's at the start, which says so once."""
        steps = schema_steps()
        for old in range(1, len(steps)):
            self.state = self.directory / f"state-{old}"
            self.state.mkdir()
            with closing(sqlite3.connect(self.state / "tasks.db", isolation_level=None)) as connection:
                migrate(connection, "tasks.db", steps[:old])
            for told in (1, 0):
                process = self.start(sys.executable, "-m", "tasksubmit", "run", *self.options())
                said = "".join(self.wait_until_up(process)) + self.stop(process)
                self.assertEqual(said.count(f"tasks.db from schema {old} to {len(steps)}"), told, said)
            with closing(sqlite3.connect(self.state / "tasks.db")) as connection:
                self.assertEqual(connection.execute("PRAGMA user_version").fetchone(), (len(steps),))
