"""The way from the Go package's names to ours."""

from __future__ import annotations

import re
from collections.abc import Iterator

from twisted.trial.unittest import SynchronousTestCase

import tasksubmit
from tests.docs import DOCS

GO = """
    StatusAccepted StatusRejected
    TaskStatusNew TaskStatusAccepted TaskStatusDeclined TaskStatusExecuting TaskStatusCompleted TaskStatusSucceeded
    TaskStatusCancelled TaskStatusExpired
    TaskAcceptTimeout TaskQueueHeadTimeout
    TypeSubmit TypeResult TypeStatusUpdate TypeSendResults
    AllowedResultExtensions ForbiddenResultExtensions
    GenerateTaskID MarshalTaskFile UnmarshalTaskFile ParseTime TypeName Frame WriteFrame ReadFrame
    MarshalSubmitRequest MarshalSubmitResponse MarshalTaskResult MarshalTaskStatusUpdate MarshalTaskResultMessage
    UnmarshalSubmitRequest UnmarshalSubmitResponse UnmarshalTaskResult UnmarshalTaskStatusUpdate
    UnmarshalTaskResultMessage
    SubmitRequest SubmitResponse TaskStatusUpdate TaskResultMessage TaskResult TaskFile PoloScoreBreakdown NewTaskFile
    tf.CalculateTimeIdle tf.CalculateTimeStaged tf.CalculateTimeCpu tf.IsExpiredForAccept tf.IsExpiredInQueue
    tf.TimeSinceCreation tf.TimeSinceStaged tf.PoloScoreReward tf.PoloScoreRewardDetailed
    Dial client.SubmitTask client.SendStatusUpdate client.SendResults client.Close
    Handler ResultSender NewServer server.ListenAndServe
"""
"""Every public name there."""

OWNERS = {"task": "TaskFile", "client": "Client", "frame": "Frame"}
"""Whose methods the page writes with which variable."""

ROW = re.compile(r"^   \* - ((?:.|\n(?!     -))+)\n     - ((?:.|\n(?!   \*|\n))+)", re.M)


class GoTests(SynchronousTestCase):
    """``docs/api.rst``."""

    def setUp(self) -> None:
        self.rows: list[tuple[str, str]] = ROW.findall((DOCS / "api.rst").read_text())

    def test_theirs(self) -> None:
        """Every name of the Go package is in the first column."""
        first = " ".join(there for there, _ in self.rows)
        told = set(re.findall(r"(?:``| )((?:tf\.|client\.|server\.)?[A-Z]\w+)", first))
        self.assertEqual(set(GO.split()) - told, set())

    def test_ours(self) -> None:
        """Every name of ours can be imported from ``tasksubmit``, and has the methods and members of the second."""
        found = {path for _, here in self.rows for path in self.paths(here)}
        self.assertGreater(len(found), 45, sorted(found))
        for path in sorted(found):
            owner, _, member = path.partition(".")
            self.assertIn(owner, tasksubmit.__all__)
            thing = getattr(tasksubmit, owner)
            if member:
                fields = {field.name for field in getattr(thing, "__attrs_attrs__", ())}
                self.assertTrue(member in fields or hasattr(thing, member), path)

    def paths(self, cell: str) -> Iterator[str]:
        """The names in a cell, such as ``TaskFile.new``; ``.ACCEPTED`` is a member of the class before it."""
        owner = ""
        for code in re.findall(r"``(\.?[A-Za-z_][\w.]*)", cell):
            name, _, member = code.partition(".")
            owner = OWNERS.get(name, name) or owner
            if owner in tasksubmit.__all__:
                yield f"{owner}.{member.partition('.')[0]}".rstrip(".")
