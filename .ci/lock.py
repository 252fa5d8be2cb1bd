#!/usr/bin/env python3
"""Renew the locks in ``.ci/locks``, which name every package to install, its version, and the hashes of its files.

Versions that still fit stay as they are. Options such as ``--upgrade`` and ``--upgrade-package NAME`` are passed on to
``uv pip compile``, which a temporary environment provides. Needs nothing but Python and PyPI.
"""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / ".ci" / "locks"
KINDS = {"-dev": ("dev", "bench"), "-test": ("test",), "": ()}
"""Extras that a lock is for, by the end of its name. The first lock has all packages, and the others its versions."""

# Only versions with a wheel are taken: installing a lock executes nothing of a package. The hashes are those of all
# files of a version. Extras of packages are kept for the test that compares the locks with setup.cfg.
OPTIONS = (
    *("--quiet", "--no-config", "--generate-hashes", "--no-strip-extras"),
    *("--only-binary", ":all:", "--python-platform", "linux"),
    *("--custom-compile-command", "python3 .ci/lock.py"),
)


def read_setup() -> configparser.ConfigParser:
    """Return the project's setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    return setup


def supported_pythons() -> list[str]:
    """Return the supported versions of Python, such as ``3.10``, in ascending order."""
    return re.findall(r"(?m)^Programming Language :: Python :: (3\.\d+)$", read_setup()["metadata"]["classifiers"])


def requirements(extras: tuple[str, ...]) -> list[str]:
    """Return what a build of the project, and an installation with these extras, need."""
    [build] = re.findall(r"(?m)^requires = (\[.*\])$", (ROOT / "pyproject.toml").read_text("utf-8"))
    setup = read_setup()
    found = [*json.loads(build), *setup["options"]["install_requires"].strip().splitlines()]
    todo = list(extras)
    for extra in todo:
        for line in setup["options.extras_require"][extra].strip().splitlines():
            if own := re.fullmatch(r"tasksubmit\[(.*)\]", line):
                todo += own[1].split(",")
            else:
                found.append(line)
    return found


def main(options: list[str]) -> None:
    """Renew all locks, or none if one of them fails."""
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        venv.create(work / "venv", with_pip=True)
        subprocess.run([work / "venv/bin/pip", "install", "--quiet", "uv"], check=True)

        made = work / "locks"
        made.mkdir()
        needed = made / "tasksubmit.in"
        for python in supported_pythons():
            constraints: tuple[str, ...] = ()
            for kind, extras in KINDS.items():
                needed.write_text("\n".join(requirements(extras)), "utf-8")
                lock = f"{python}{kind}.txt"
                if (LOCKS / lock).exists():
                    shutil.copy(LOCKS / lock, made)
                subprocess.run(
                    [
                        *(work / "venv/bin/uv", "pip", "compile", *OPTIONS, "--python-version", python),
                        *(*options, *constraints, needed.name, "--output-file", lock),
                    ],
                    cwd=made,
                    check=True,
                )
                constraints = constraints or ("--constraints", lock)
        needed.unlink()
        shutil.rmtree(LOCKS, ignore_errors=True)
        shutil.copytree(made, LOCKS)


if __name__ == "__main__":
    main(sys.argv[1:])
