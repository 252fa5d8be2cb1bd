"""How Sphinx builds these pages; the reference of the Python code is pydoctor's, see ``setup.cfg``."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "tasksubmit"
author = "the tasksubmit developers"
copyright = "2026, " + author
version = release = version_of("tasksubmit")

extensions = ["sitegen"]
exclude_patterns = ["_build", "_ext"]
html_theme = "furo"
html_title = "tasksubmit"
html_static_path = ["_static"]
html_css_files = ["width.css"]
smartquotes = False  # it would make one dash of the two of an option
