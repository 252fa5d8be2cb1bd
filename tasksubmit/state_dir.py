"""Where a node keeps its state, and what in there the command line looks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CONTROL_SOCKET = "control.sock"
CONTROL_TOKEN = "control.token"
MAX_SOCKET_PATH_BYTES = 107
"""The longest path of a Unix socket that Linux takes; others take a few bytes less."""


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """Where a node keeps its state unless told otherwise; the command line looks for it there, too."""
    if directory := environ.get("TASKSUBMIT_STATE_DIR"):
        return Path(directory)
    base = environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "tasksubmit"
