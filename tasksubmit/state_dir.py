"""Where a node keeps its state, and what in there the command line looks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tasksubmit.errors import ConfigurationError

CONTROL_SOCKET = "control.sock"
CONTROL_TOKEN = "control.token"
MAX_SOCKET_PATH_BYTES = 107
"""The longest path of a Unix socket that Linux takes; others take a few bytes less."""


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """Return the state directory of a node without --state-dir; the command line uses the same.

    :raises ConfigurationError: the process has no home directory.
    """
    if directory := environ.get("TASKSUBMIT_STATE_DIR"):
        return Path(directory)
    if base := environ.get("XDG_STATE_HOME"):
        return Path(base) / "tasksubmit"
    try:
        return Path.home() / ".local" / "state" / "tasksubmit"
    except RuntimeError:
        raise ConfigurationError(
            "no state directory: HOME is not set, and the user has no passwd entry; give --state-dir"
        ) from None


def absolute(path: Path, option: str = "--state-dir") -> Path:
    """Make the path of an option absolute; ``~`` at its beginning is a home directory.

    :raises ConfigurationError: there is no such user, or the working directory was removed.
    """
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ConfigurationError(f"{option} {path}: {error}; give an absolute path") from None
    except OSError as error:
        raise ConfigurationError(
            f"{option} {path}: the working directory cannot be used: {error.strerror}; give an absolute path"
        ) from None
