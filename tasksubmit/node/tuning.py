"""What a process that does little else than running a node should set in its interpreter."""

from __future__ import annotations

import gc
import sys

SWITCH_INTERVAL_SECONDS = 0.0005
"""How long a thread that wants to go on waits for the one that runs: the store's threads want to often, for little."""

COLLECTION_THRESHOLDS = (20_000, 20, 50)
"""A node has thousands of messages under way, none of them garbage, that each collection would look at."""


def tune_interpreter() -> None:
    """Let the interpreter serve many messages at once; to be called by whoever owns the process, after its imports.

    What is there already counts no longer as possible garbage, younger objects are looked at less often, and threads
    get their turn sooner.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTION_THRESHOLDS)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
