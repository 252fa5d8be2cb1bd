"""Tiers of tests: what runs by default, and what takes longer.

``python -m twisted.trial tests`` runs the default tier. Tests of other tiers are skipped there; the reason names the
tox environment that runs them. A test that goes through many places of one kind (the bytes of a conversation, the calls
to a store, the examples of a property) takes a sample of them in the default tier and all of them in the tier ``full``.

The environment variable ``TASKSUBMIT_REQUIRE`` lists the tiers that are to run besides the default one. The sample is
the same in each run, so that a failure can be repeated; a number in ``TASKSUBMIT_SEED`` chooses another one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

TIERS = {
    "full": "every place instead of a sample, every page, and the long runs",
    "package": "wheel, sdist and editable installation, as pip installs them",
}
REQUIRED = frozenset(os.environ.get("TASKSUBMIT_REQUIRE", "").split())
IS_FULL = "full" in REQUIRED
SEED = int(os.environ.get("TASKSUBMIT_SEED", "0"))

if unknown := REQUIRED - TIERS.keys():
    raise ValueError(f"TASKSUBMIT_REQUIRE: the tiers are {', '.join(TIERS)}, and not {' '.join(unknown)}")


def tier(name: str) -> Callable[[Any], Any]:
    """Decorate a test, or a class of tests, that belongs to another tier than the default one."""

    def mark(test: Any) -> Any:
        if name not in REQUIRED:
            test.skip = f"is in the tier '{name}': tox -e {name}"
        return test

    if name not in TIERS:
        raise ValueError(f"there is no tier '{name}'")
    return mark


def sampled(places: Iterable[T], one_in: int) -> Iterator[T]:
    """Give all places in the tier ``full``, and else one in so many, in their order."""
    chance = Random(SEED)
    return (place for place in places if chance.randrange(one_in) == 0 or IS_FULL)


def examples(count: int) -> int:
    """Give the number of examples of a property: this one in the tier ``full``, and else a fifth, at least 10."""
    return count if IS_FULL else min(count, max(10, count // 5))
