"""Text that comes from elsewhere, written so that it stays text where it lands; one module for each kind of place.

HTML is escaped by Jinja and ElementTree, LaTeX by `amos_fl.comparison.latex.escape`.
"""
