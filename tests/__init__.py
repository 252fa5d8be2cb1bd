"""The tests. Python processes that they start import this checkout, from any directory and without an installation.

``trial -j`` sets ``PYTHONPATH`` for its workers; without ``-j`` nobody else does.
"""

import os
from pathlib import Path

from hypothesis import HealthCheck, settings

_CHECKOUT = str(Path(__file__).resolve().parents[1])
_PATH = os.environ.get("PYTHONPATH", "").split(os.pathsep)
if _CHECKOUT not in _PATH:
    os.environ["PYTHONPATH"] = os.pathsep.join([_CHECKOUT, *filter(None, _PATH)])

# How fast examples are made says something of the machine alone, which may be busy.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
