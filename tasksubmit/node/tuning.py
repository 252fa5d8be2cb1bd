"""What a process that does little else than running a node should set in its interpreter."""

from __future__ import annotations

import gc
import resource
import sys

from tasksubmit.validation import COUNT, checked

SWITCH_INTERVAL_SECONDS = 0.0005
"""How long a thread that wants to go on waits for the one that runs: the store's threads want to often, for little."""

COLLECTION_THRESHOLDS = (100_000, 20, 50)
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


@checked(wanted=COUNT)
def allow_files(wanted: int) -> int:
    """Let this process open so many files and connections, as far as it may decide that; returns how many it then may.

    Commonly it may open 1024, and raise that to much more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft
