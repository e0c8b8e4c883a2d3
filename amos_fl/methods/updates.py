"""The updates of a round side by side, on disk, so that the server's memory does not grow with their number."""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from amos_fl.weights import BLOCK, is_statistic

_ALIGNED = 64
"""Each array starts at a multiple of so many bytes in its file."""

Combined = Callable[[np.ndarray], np.ndarray]
"""From (sites, numbers) to one value for each number."""


class Updates:
    """What sites sent in a round, one file per site in `folder`, read in blocks of one array at a time.

    `form` gives dtype and shape of each array. Use it as a context manager; at its end the folder is deleted.
    """

    def __init__(self, folder: Path, form: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> None:
        self.folder, self.form = folder, form
        self.sites: list[str] = []
        self._starts: dict[str, int] = {}
        end = 0
        for name, (dtype, shape) in form.items():
            self._starts[name] = end
            end += -(-dtype.itemsize * math.prod(shape) // _ALIGNED) * _ALIGNED
        self._size = end

    def __enter__(self) -> "Updates":
        shutil.rmtree(self.folder, ignore_errors=True)  # left by a server that was killed
        self.folder.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, site: str, arrays: dict[str, np.ndarray]) -> None:
        """Write a site's update; `arrays` is emptied on the way."""
        with self._file(site).open("wb") as file:
            for name, start in self._starts.items():
                file.seek(start)
                file.write(np.ascontiguousarray(arrays.pop(name)).data)
            file.truncate(self._size)
        self.sites.append(site)

    def blocks(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """One array of all sites piece by piece: the position of the piece, and its numbers as (sites, numbers)."""
        size = math.prod(self.form[name][1])
        for start in range(0, size, BLOCK):
            piece = slice(start, min(start + BLOCK, size))
            yield piece, np.stack([self._read(site, name, piece) for site in self.sites])

    def of_site(self, site: str) -> dict[str, np.ndarray]:
        """One site's update in memory."""
        return {name: self._read(site, name, slice(None)).reshape(shape) for name, (_, shape) in self.form.items()}

    def each_number(self, combined: Combined, statistics: Combined | None = None) -> dict[str, np.ndarray]:
        """All arrays, each number computed by `combined` from (sites, numbers); of whole numbers the largest.

        `statistics` does this for running statistics, if they need something else.
        """
        found = {}
        for name, (dtype, shape) in self.form.items():
            make = statistics if statistics is not None and is_statistic(name) else combined
            whole = np.empty(math.prod(shape), dtype)
            for piece, stack in self.blocks(name):
                whole[piece] = make(stack) if dtype.kind == "f" else stack.max(axis=0)
            found[name] = whole.reshape(shape)
        return found

    def squared_distances(self) -> np.ndarray:
        """The squares of the Euclidean distances between the sites' trained weights, (sites, sites)."""
        number = len(self.sites)
        parts: list[np.ndarray] = []
        for name, (dtype, _) in self.form.items():
            for _, stack in self.blocks(name) if dtype.kind == "f" and not is_statistic(name) else ():
                part = np.zeros((number, number))
                for i in range(number):
                    apart = np.subtract(stack[i + 1 :], stack[i], dtype=np.float64)
                    part[i, i + 1 :] = part[i + 1 :, i] = np.square(apart).sum(axis=1)
                parts.append(part)
        found = [[math.fsum(part[i, j] for part in parts) for j in range(number)] for i in range(number)]
        return np.array(found).reshape(number, number)

    def _read(self, site: str, name: str, piece: slice) -> np.ndarray:
        dtype, shape = self.form[name]
        size = math.prod(shape)
        mapped = np.memmap(self._file(site), dtype, mode="r", offset=self._starts[name], shape=(size,))
        return np.array(mapped[piece])

    def _file(self, site: str) -> Path:
        return self.folder / f"{site}.update"


def median(stack: np.ndarray) -> np.ndarray:
    """The median of (sites, numbers), for each number."""
    return np.median(stack, axis=0)


def weighted_sum(stack: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """The sum of (sites, numbers) weighted by the sites' shares, in their order, as FedAvg sums updates."""
    first, *others = zip(stack, shares, strict=True)
    total = first[0] * first[1]
    for row, share in others:
        total += row * share
    return total


def mean_of_rows(rows: np.ndarray) -> np.ndarray:
    """The mean of (rows, numbers), all rows equal."""
    return weighted_sum(rows, [1 / len(rows)] * len(rows))
