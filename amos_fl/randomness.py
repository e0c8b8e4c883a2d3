"""Randomness as a function of (seed, round, site, step) and of nothing else.

No generator outlives its purpose, so neither the order of the sites, nor the process, nor an interruption changes the
draws.
"""

import hashlib

import numpy as np


def derived_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. `derived_seed(seed, "patch", round, site, step)`.

    >>> derived_seed(0, "patch", 1, "A", 5) == derived_seed(0, "patch", 1, "A", 5)
    True
    >>> derived_seed(0, "patch", 1, "A", 5) == derived_seed(0, "patch", 1, "B", 5)
    False
    """
    text = "\x1f".join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A fresh NumPy generator for one purpose, seeded by `derived_seed`."""
    return np.random.Generator(np.random.PCG64(derived_seed(seed, *names)))
