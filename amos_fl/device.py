"""Choose the device that a network runs on, and report when its memory is exhausted."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from amos_fl.errors import AmosError


def device_named(name: str) -> str:
    """A device of this machine by name; `auto` is a GPU if there is one.

    Raises:
        AmosError: no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise AmosError(f"unknown device {name!r}", "choose cpu, cuda, cuda:1, mps or auto")
    if kind == "cuda" and (not torch.cuda.is_available() or int(index or 0) >= torch.cuda.device_count()):
        raise AmosError(f"device {name}: this machine has no such GPU", "use the device cpu")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise AmosError("device mps: this machine has none", "use the device cpu")
    return name


@contextmanager
def memory_said(what: str, remedy: str) -> Iterator[None]:
    """Turn a GPU's out-of-memory error into one sentence: `what` did not fit, and `remedy` is what to do.

    Raises:
        AmosError: the device ran out of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        # Free torch's cached memory, so that it is available for the next, smaller case.
        torch.cuda.empty_cache()
        raise AmosError(f"{what} does not fit into the GPU's memory", remedy, code="out-of-memory") from None
