"""The executors that come with ``tasksubmit``; apart from what ``twistd`` reads, so that it need not load this."""

from tasksubmit.node.executors.makers import ExecutorMaker

manual = ExecutorMaker(
    "manual",
    "tasksubmit.node.executors.manual",
    "",
    "Whoever calls `execute` does the tasks.",
)
process = ExecutorMaker(
    "process",
    "tasksubmit.node.executors.process",
    "COMMAND[:timeout=3600][:directory=DIR][:grace=5][:limit=BYTES][:attempts=1]",
    "A command does each task: its standard input is the description, what it prints are the results.",
)
python = ExecutorMaker(
    "python",
    "tasksubmit.node.executors.python",
    "MODULE:FUNCTION[:timeout=SECONDS][:thread=no][:attempts=1]",
    "A Python function does each task.",
)
