"""The Python interface: each command as a function that returns its results.

`amos_fl.simulate`, `pooled`, `local`, `evaluate`, `predict`, `compare` and `open_run` are this package's.
"""
