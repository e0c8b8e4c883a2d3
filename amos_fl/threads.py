"""How the threads of PyTorch wait for one another."""

import os

SPINS = "1000"


def spin_briefly() -> None:
    """Have OpenMP's threads (GCC's) sleep soon when they wait for one another, unless the environment says how.

    By itself a thread spins for milliseconds, on a core that the other may need: two trainings on the same cores then
    lose most of their time. A thousand turns cost a training alone nothing (`benchmarks/two_at_once.py`). It must be
    called before PyTorch is imported, which reads it once, and holds for the processes that are started then.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
