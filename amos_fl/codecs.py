"""Encode a site's update in fewer bytes: in half precision, as whole numbers of 8 bits, or only its largest changes.

What an encoding leaves out is not lost: the site keeps it and adds it to its next update (error feedback: Seide et al.,
Interspeech 2014; Karimireddy et al., ICML 2019, Algorithm 2). So the decoded updates of several rounds and what the
site still keeps add up to the updates themselves. Trained weights are encoded; running statistics of normalisation
layers and whole numbers are sent as they are.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from amos_fl.errors import AmosError
from amos_fl.weights import Arrays, is_statistic, is_trained

CodecName = Literal["none", "fp16", "int8", "top-k"]
ArrayForm = tuple[tuple[int, ...], str]
"""An array's shape and the name of its dtype."""

SCALES, VALUES, PLACES = "update/scales", "update/values", "update/places"
"""Arrays of an encoded update that are not the network's: no parameter of PyTorch has such a name."""
LARGEST_HALF = float(np.finfo(np.float16).max)
STEPS = 127
"""The steps of int8 on either side of 0."""


@dataclass(frozen=True)
class Codec:
    """An encoding of updates. `share` is the fraction of all trained numbers that `top-k` sends.

    - fp16: each change in half precision; beyond its range, the largest value that it has.
    - int8: each change as a whole number of steps, of which an array's largest change has 127.
    - top-k: the new values of the numbers that change most in the whole update, the first of equal ones; the others
      stay. They are identified by their positions or by a bit for each number, whichever is smaller.
    """

    name: CodecName = "none"
    share: float = 1.0

    def form(self, form: Mapping[str, ArrayForm]) -> dict[str, ArrayForm]:
        """The arrays of an encoded update for a network with arrays of this form."""
        if self.name == "none":
            return dict(form)
        floats = [name for name, (_, dtype) in form.items() if np.dtype(dtype).kind == "f"]
        trained = [name for name in floats if not is_statistic(name)]
        if self.name == "top-k":
            number = sum(math.prod(form[name][0]) for name in trained)
            kept = self._number_of(number)
            rest = {name: of for name, of in form.items() if name not in trained}
            return {**rest, VALUES: ((kept,), "float32"), PLACES: _form_of_places(kept, number)}
        narrow = {"fp16": "float16", "int8": "int8"}[self.name]
        found = {name: (shape, narrow if name in trained else dtype) for name, (shape, dtype) in form.items()}
        return {**found, SCALES: ((len(trained),), "float32")} if self.name == "int8" else found

    def size(self, form: Mapping[str, ArrayForm]) -> int:
        """The bytes of the values of an encoded update."""
        return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.form(form).values())

    def encode(
        self, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], residual: Mapping[str, np.ndarray]
    ) -> tuple[Arrays, Arrays]:
        """The arrays that are sent for weights that were `before` and are `after`, and the next residual.

        `residual` is that of the last encoded update, in single precision; empty before the first.

        Raises:
            AmosError: a change is not finite.
        """
        if self.name == "none":
            return dict(after), {}
        changes: Arrays = {}
        for name in _trained(after):
            change = changes[name] = np.subtract(after[name], before[name], dtype=np.float32)
            if name in residual:
                change += residual[name]
            if not np.isfinite(change).all():
                raise AmosError(f"its update of {name} holds NaN or infinite values")
        if self.name == "top-k":
            return self._largest_changes(after, changes, residual), changes
        encoded = dict(after)
        scales: list[np.float32] = []
        for name, change in changes.items():
            if self.name == "fp16":
                encoded[name] = np.clip(change, -LARGEST_HALF, LARGEST_HALF).astype(np.float16)
                change -= encoded[name]
            else:
                scales.append(np.abs(change).max(initial=np.float32(0)) / np.float32(STEPS))
                encoded[name] = _in_steps(change, scales[-1])
                change -= encoded[name] * scales[-1]
        if self.name == "int8":
            encoded[SCALES] = np.array(scales, np.float32)
        return encoded, changes

    def decode(self, before: Mapping[str, np.ndarray], encoded: Mapping[str, np.ndarray]) -> Arrays:
        """The weights that an encoded update, whose arrays have the right form, makes from those `before`.

        They may overflow if the update's values are too large.

        Raises:
            AmosError: it does not hold an update.
        """
        if self.name == "none":
            return dict(encoded)
        if self.name == "top-k":
            return self._with_changes(before, encoded)
        found = {name: encoded[name] for name in before}
        trained = _trained(before)
        scales = encoded[SCALES] if self.name == "int8" else np.ones(len(trained), np.float32)
        if (scales < 0).any():
            raise AmosError("a step of its encoded update is negative")
        with np.errstate(over="ignore"):
            for name, scale in zip(trained, scales, strict=True):
                found[name] = (before[name] + encoded[name] * scale).astype(before[name].dtype, copy=False)
        return found

    def _number_of(self, number: int) -> int:
        return math.ceil(self.share * number)

    def _largest_changes(
        self, after: Mapping[str, np.ndarray], changes: Arrays, residual: Mapping[str, np.ndarray]
    ) -> Arrays:
        """The arrays to send; `changes` become the residual in place."""
        sizes = np.concatenate([np.abs(change).reshape(-1) for change in changes.values()] or [np.zeros(0, np.float32)])
        places = _largest(sizes, self._number_of(sizes.size))
        values: list[np.ndarray] = []
        for name, _, inside in _by_array(changes, places):
            wanted = after[name].reshape(-1)[inside]
            if name in residual:
                wanted = wanted + residual[name].reshape(-1)[inside]
            values.append(wanted.astype(np.float32, copy=False))
            changes[name].reshape(-1)[inside] = -0.0  # adding it changes no number, not even -0.0
        shape, dtype = _form_of_places(places.size, sizes.size)
        if dtype == "uint8":
            bits = np.zeros(sizes.size, bool)
            bits[places] = True
            said = np.packbits(bits)
        else:
            said = places.astype(dtype)
        rest = {name: array for name, array in after.items() if name not in changes}
        return {**rest, VALUES: np.concatenate(values or [np.zeros(0, np.float32)]), PLACES: said.reshape(shape)}

    def _with_changes(self, before: Mapping[str, np.ndarray], encoded: Mapping[str, np.ndarray]) -> Arrays:
        trained = {name: before[name] for name in _trained(before)}
        places = _places_in(encoded[PLACES], encoded[VALUES].size, sum(old.size for old in trained.values()))
        found = {name: np.array(old, order="C") if name in trained else encoded[name] for name, old in before.items()}
        for name, chosen, inside in _by_array(trained, places):
            found[name].reshape(-1)[inside] = encoded[VALUES][chosen]
        return found


def _trained(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The arrays to encode, always in the same order: a checkpoint's differs from a network's."""
    return sorted(name for name, array in arrays.items() if is_trained(name, array))


def _in_steps(change: np.ndarray, scale: np.float32) -> np.ndarray:
    """The change in whole steps, rounded half to even; 0 if the step is too small to be represented."""
    if scale < np.finfo(np.float32).tiny:
        return np.zeros(change.shape, np.int8)
    return np.clip(np.rint(change / scale), -STEPS, STEPS).astype(np.int8)


def _form_of_places(kept: int, number: int) -> ArrayForm:
    """The form of the positions of so many numbers, or of one bit for each number."""
    dtype = "int32" if number <= 1 << 31 else "int64"
    bits = -(-number // 8)
    return ((bits,), "uint8") if bits < kept * np.dtype(dtype).itemsize else ((kept,), dtype)


def _largest(sizes: np.ndarray, kept: int) -> np.ndarray:
    """The positions of the largest numbers, ascending; of equal ones the first.

    >>> _largest(np.array([1.0, 3.0, 1.0, 2.0, 1.0]), 3)
    array([0, 1, 3])
    """
    if kept == sizes.size:
        return np.arange(kept)
    level = np.partition(sizes, sizes.size - kept)[sizes.size - kept]
    above, equal = np.flatnonzero(sizes > level), np.flatnonzero(sizes == level)
    return np.sort(np.concatenate([above, equal[: kept - above.size]]))


def _by_array(arrays: Mapping[str, np.ndarray], places: np.ndarray) -> Iterator[tuple[str, slice, np.ndarray]]:
    """For each array the slice of the ascending overall positions that lie in it, and its positions within it."""
    start = 0
    for name, array in arrays.items():
        first, end = np.searchsorted(places, (start, start + array.size))
        yield name, slice(first, end), places[first:end] - start
        start += array.size


def _places_in(said: np.ndarray, kept: int, number: int) -> np.ndarray:
    """The positions of the numbers that an update changes, ascending.

    Raises:
        AmosError: they are invalid.
    """
    if said.dtype == np.uint8:
        bits = np.unpackbits(said)
        if bits[number:].any() or np.count_nonzero(bits) != kept:
            raise AmosError("its encoded update does not have one value for each weight that it changes")
        return np.flatnonzero(bits)
    places = said.astype(np.int64)
    if places.size and (places[0] < 0 or places[-1] >= number or (np.diff(places) <= 0).any()):
        raise AmosError("its encoded update changes weights that the network does not have, or the same one twice")
    return places
