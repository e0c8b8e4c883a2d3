"""The documentation site: `make docs` builds it, offline, with warnings as errors."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "amos-fl"
author = "the amos-fl developers"
version = release = installed("amos-fl")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "amos_fl_docs",
]
exclude_patterns = ["_build"]

# Pages are Markdown. The anchors of headings are GitHub's, so that a link works there and here.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

# Docstrings are Google's style with prose in single backticks, which is code here and no cross-reference.
default_role = "code"
napoleon_numpy_docstring = False
napoleon_preprocess_types = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

# A reference to a name of ours that no page documents is a fault. Other projects' inventories are on the network.
nitpicky = True
# What lies behind the attributes of a run, a comparison and an evaluation is the program's own affair.
nitpick_ignore = [
    ("py:class", "amos_fl.comparison.comparison.Comparison"),
    ("py:class", "amos_fl.inference.evaluate_model.ModelScores"),
    ("py:class", "amos_fl.inference.scans.Scan"),
    ("py:class", "amos_fl.runs.folder.RunFolder"),
    ("py:class", "amos_fl.runs.record.RunRecord"),
]
nitpick_ignore_regex = [("py:.*", r"(?!amos_fl).*")]

html_theme = "furo"
html_title = "amos-fl"
html_static_path = ["_static"]
html_css_files = ["amos-fl.css"]
html_show_sphinx = False
html_show_copyright = False
html_show_search_summary = False  # it fetches the pages that were found, which a browser refuses from a folder
html_copy_source = False
html_theme_options = {"sidebar_hide_name": False, "navigation_with_keys": True}
highlight_language = "text"
pygments_style = "friendly"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
