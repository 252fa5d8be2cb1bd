"""How Sphinx builds these pages; the reference of the Python API is pydoctor's, see ``setup.cfg``."""

from importlib.metadata import version as version_of

project = "tasksubmit"
author = "the tasksubmit developers"
copyright = "2026, " + author
version = release = version_of("tasksubmit")

exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "Tasks handed from agent to agent", "page_width": "1100px"}
