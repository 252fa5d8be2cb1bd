"""Every option of a node, from `Settings`."""

from __future__ import annotations

from enum import Enum
from typing import Any

from attrs import NOTHING, Attribute, Factory, fields

from sitegen.rst import first_paragraph, literal, prose, table
from tasksubmit.node.executors import executor_makers
from tasksubmit.settings import Settings, default_duration
from tasksubmit.tap import Options

ELSEWHERE = {
    "state_dir": "``~/.local/state/tasksubmit``; see :doc:`environment`",
    "control": "``control.sock`` in the state directory",
    "max_result_bytes": "no limit",
}
"""Defaults that the field itself does not say, in words."""


def options() -> str:
    """A table of the options that are settings, and one of those that are not."""
    header = ("option", "default", "what it is")
    settings = table(header, [_row(setting) for setting in fields(Settings)], "30 22 48")
    names = {setting.name.replace("_", "-") for setting in fields(Settings)}
    flags = [(name, text) for name, _, text in Options.optFlags]
    parameters = [(name, text) for name, _, _, text in Options.optParameters]
    methods = [
        (name[4:].replace("_", "-"), getattr(Options, name).__doc__) for name in dir(Options) if name[:4] == "opt_"
    ]
    rest = [(name, first_paragraph(text)) for name, text in (*parameters, *flags, *methods) if name not in names]
    return settings + table(("option", "what it is"), [(literal(f"--{name}"), text) for name, text in rest], "30 70")


def executors() -> str:
    """A table of the executors that come with the package."""
    rows = [
        (literal(f"{name}:{maker.usage}" if maker.usage else name), prose(maker.summary))
        for name, maker in executor_makers().items()
    ]
    return table(("executor", "what it does"), rows, "60 40")


def _row(setting: Attribute[Any]) -> tuple[str, str, str]:
    what = str(setting.metadata["help"]).partition("[default:")[0].strip()
    repeated = "; may be repeated" if setting.name in ("listen", "peer") else ""
    return literal("--" + setting.name.replace("_", "-")), _default(setting), prose(what) + repeated


def _default(setting: Attribute[Any]) -> str:
    if setting.name in ELSEWHERE:
        return ELSEWHERE[setting.name]
    default = setting.default
    if default is NOTHING:
        return "none: required"
    if duration := default_duration(setting):
        default = duration
    elif isinstance(default, Enum):
        default = default.value
    elif isinstance(default, tuple):
        default = ", ".join(default)
    elif isinstance(default, bool):
        default = "off" if not default else "on"
    elif isinstance(default, float):
        default = f"{default:g}"
    return "none" if default in ("", None) or default is Factory(dict) or default == Factory(dict) else literal(default)
