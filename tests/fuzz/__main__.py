"""``python -m tests.fuzz NAME [--seconds N] [--runs N]``: fuzz one target for long, led by the code that it reaches.

Needs atheris (``pip install tasksubmit[fuzz]``). Prints libFuzzer's account, whose last line has the executions; a
finding ends the run with its traceback and leaves the input in a file ``crash-...``, of which ``--replay FILE`` is the
proof. Without a name it lists the targets.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("--seconds", type=int, default=0, help="how long; 0 for no limit")
    parser.add_argument("--runs", type=int, default=-1, help="how many executions; -1 for no limit")
    parser.add_argument("--corpus", default="", help="directory in which inputs that reach new code are kept")
    parser.add_argument("--replay", default="", help="run the input in this file, and nothing else")
    given = parser.parse_args()
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: pip install 'tasksubmit[fuzz]'", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["tasksubmit"]):
        from tests.fuzz.targets import TARGETS
    from tests.fuzz.seeds import seeds

    if given.name not in TARGETS:
        print("\n".join(TARGETS))
        return 0 if not given.name else 2
    target = TARGETS[given.name]
    if given.replay:
        target(Path(given.replay).read_bytes())
        return 0
    logging.disable()
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(given.corpus or scratch)
        corpus.mkdir(exist_ok=True)
        for number, seed in enumerate(seeds()[given.name]):
            (corpus / f"seed-{number}").write_bytes(seed)
        limits = [f"-max_total_time={given.seconds}", f"-runs={given.runs}", "-max_len=4096", "-rss_limit_mb=4096"]
        atheris.Setup([sys.argv[0], str(corpus), *limits], target)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
