"""The Python face: what a command does, as a function that returns something to go on with.

`amos_fl.simulate`, `pooled`, `local`, `evaluate`, `predict`, `compare` and `open_run` are this package's.
"""
