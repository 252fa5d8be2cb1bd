"""What is set in the interpreter of a process that runs a node."""

from __future__ import annotations

import gc
import resource
import sys

from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.node.tuning import COLLECTION_THRESHOLDS, SWITCH_INTERVAL_SECONDS, allow_files, tune_interpreter


class TuningTests(SynchronousTestCase):
    """The interpreter, which is as it was afterwards."""

    def setUp(self) -> None:
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        self.addCleanup(gc.unfreeze)

    def test_tuned(self) -> None:
        """What is there counts no longer as garbage, collections are rarer, and threads get their turn sooner."""
        gc.unfreeze()
        gc.set_threshold(700, 10, 10)
        sys.setswitchinterval(0.005)
        tune_interpreter()
        self.assertGreater(gc.get_freeze_count(), 1000)
        self.assertEqual(gc.get_threshold(), COLLECTION_THRESHOLDS)
        self.assertGreater(COLLECTION_THRESHOLDS[0], 700)
        self.assertAlmostEqual(sys.getswitchinterval(), SWITCH_INTERVAL_SECONDS)
        self.assertLess(SWITCH_INTERVAL_SECONDS, 0.005)

    def test_files(self) -> None:
        """A process that may open few files and raise that itself does; no further than it may, and never down."""
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, limits[1]))
        self.assertEqual(allow_files(600), 600)
        self.assertEqual(resource.getrlimit(resource.RLIMIT_NOFILE), (600, limits[1]))
        self.assertEqual(allow_files(550), 600)
        if limits[1] != resource.RLIM_INFINITY:
            self.assertEqual(allow_files(limits[1] + 1), limits[1])

    def test_still_collects(self) -> None:
        """What becomes garbage later is collected all the same."""
        tune_interpreter()
        self.assertTrue(gc.isenabled())
        loop: list[object] = []
        loop.append(loop)
        del loop
        self.assertGreaterEqual(gc.collect(), 1)
