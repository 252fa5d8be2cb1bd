"""``python -m tasksubmit`` does not import from the current directory, which may be anybody's.

``python -m`` puts the current directory in front of all others, so that a ``click.py`` there, or a plugin of Twisted
below ``twisted/plugins``, would be executed. This is imported before anything else of the package, and takes it away
again. It imports only what every interpreter has loaded by then. Where the package itself is in the current directory,
as in a checkout, the directory stays: its code is executed in any case.
"""

from __future__ import annotations

import os
import sys


def ignore_current_directory(package: str) -> None:
    """Take the current directory from the front of ``sys.path``, if ``python -m tasksubmit`` put it there.

    :param package: the directory of the package.
    """
    arguments = getattr(sys, "argv", [])
    is_being_found = arguments[:1] == ["-m"]  # until Python has found the module that -m names
    if not is_being_found or not sys.orig_argv[-len(arguments)].endswith("tasksubmit"):
        return
    if sys.flags.isolated or getattr(sys.flags, "safe_path", False):
        return  # Python was told to put nothing there
    try:
        here = os.getcwd()
    except OSError:
        return  # it was removed, and Python did not put it there
    if sys.path[:1] == [here] and os.path.dirname(package) != here:
        del sys.path[0]


ignore_current_directory(os.path.dirname(os.path.abspath(__file__)))
