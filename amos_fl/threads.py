"""How the threads of PyTorch wait for one another."""

import os


def sleep_while_waiting() -> None:
    """Have OpenMP's threads sleep while they wait, unless the environment says how they wait.

    They would spin, which costs two trainings on the same cores most of their time (`benchmarks/two_at_once.py`). It
    must be called before PyTorch is imported, which reads it once, and holds for the processes that are started then.
    """
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
