"""What ``twistd`` and ``twist`` read to offer ``tasksubmit``.

Every command of Twisted in this environment imports this file, so it imports next to nothing itself: the module with
the options is named by a string. This directory and the one above it must never have an ``__init__.py``.
"""

from twisted.application.service import ServiceMaker

tasksubmit = ServiceMaker(
    "tasksubmit",
    "tasksubmit.tap",
    "A node that gives tasks to other agents, and takes tasks from them.",
    "tasksubmit",
)
