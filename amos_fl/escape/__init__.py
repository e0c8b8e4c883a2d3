"""Escape foreign text so that it stays text wherever it is written; one module per format.

HTML is escaped by Jinja and ElementTree, LaTeX by `amos_fl.comparison.latex.escape`.
"""
