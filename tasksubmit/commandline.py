"""Commands of the command line as text, to be pasted into a shell."""

from __future__ import annotations

import shlex


def command_line(words: str, task_id: str, more: str = "") -> str:
    """Write a command about a task.

    :param words: the verb and its arguments; the word ``ID`` stands for the id, and options follow it or come first.
    :param task_id: the id; one that begins with a dash gets ``--`` before it, behind every option.
    :param more: an option to tell tasks with the same id apart, such as ``--from 0:0000.0000.0002``.
    :returns: such as ``tasksubmit decline t1 --justification WHY``.
    """
    before, has_id, after = words.partition(" ID")
    if not has_id:
        return f"tasksubmit {words}"
    if more:
        before = f"{before} {more}"
    if not task_id.startswith("-"):
        return f"tasksubmit {before} {shlex.quote(task_id)}{after}"
    arguments, is_followed, options = after.partition(" --")
    return f"tasksubmit {before}{is_followed}{options} -- {shlex.quote(task_id)}{arguments}"
