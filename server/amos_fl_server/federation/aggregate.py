"""Aggregate updates: check each one, and take their weighted mean."""

import ctypes
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast

import numpy as np
from flwr.app import ArrayRecord, Message

from amos_fl.codecs import Codec
from amos_fl.errors import AmosError
from amos_fl.weights import COUNT, MEAN, VARIANCE, blocks, is_statistic, relative_distance, trained_norm
from amos_fl_clients.federation.messages import ARRAYS, METRICS, WEIGHT
from amos_fl_clients.federation.records import BadUpdate, record_holding, record_of, views_of

Form = dict[str, tuple[np.dtype, tuple[int, ...]]]
Reply = TypeVar("Reply")

MOST_BATCHES = 1 << 40
MOST_STATISTIC = 1e10
"""The largest running mean or variance: the square of the largest activation in half precision, 65504, is 4e9."""


def form_of(arrays: Mapping[str, np.ndarray]) -> Form:
    """Name, dtype and shape of every array, which an update must match."""
    return {name: (array.dtype, array.shape) for name, array in arrays.items()}


def checked_update(
    reply: Message,
    form: Form,
    weight: float,
    *,
    before: Mapping[str, np.ndarray] | None = None,
    norm: float | None = None,
    max_norm: float | None = None,
) -> dict[str, np.ndarray]:
    """The arrays of a training reply, without a copy.

    `before` are the weights sent to the site that are in `form`, and `norm` is their norm, if it is known. `max_norm`
    is the largest distance of an update from them, relative to that norm; None: no limit.

    Raises:
        BadUpdate: an array is missing, unknown, misshapen, of another dtype or not finite, a running statistic is
        impossible, the update is too far away, or the site claims a weight other than the agreed one.
    """
    arrays = _arrays_in(reply, form)
    for name, array in arrays.items():
        _check_statistic(name, array)
    if METRICS not in reply.content.metric_records or reply.content.metric_records[METRICS].get(WEIGHT) != weight:
        raise BadUpdate(f"its update claims a weight other than the agreed {weight:g}")
    if before is not None and max_norm is not None:
        _check_distance(arrays, before, norm, max_norm)
    return arrays


def decode_update(reply: Message, form: Form, codec: Codec, before: ArrayRecord) -> None:
    """Replace the encoded update in a training reply by the weights that it makes of those `before`.

    `form` are the arrays of the update once it is decoded.

    Raises:
        BadUpdate: it is not the encoding of an update of this network.
    """
    if codec.name == "none":
        return
    sent_down = views_of(before)
    old = {name: sent_down[name] for name in sent_down if name in form}
    sent = codec.form({name: (array.shape, str(array.dtype)) for name, array in old.items()})
    arrays = _arrays_in(reply, {name: (np.dtype(dtype), shape) for name, (shape, dtype) in sent.items()})
    try:
        decoded = codec.decode(old, arrays)
    except AmosError as error:
        raise BadUpdate(str(error)) from None
    del arrays
    reply.content[ARRAYS] = record_of(decoded.items())


def _arrays_in(reply: Message, form: Form) -> dict[str, np.ndarray]:
    """The arrays of a training reply, without a copy.

    Raises:
        BadUpdate: one is missing, unknown, misshapen, of another dtype or not finite.
    """
    if ARRAYS not in reply.content.array_records:
        raise BadUpdate("its update holds no weights")
    arrays = views_of(reply.content.array_records[ARRAYS])
    if missing := sorted(form.keys() - arrays.keys()):
        raise BadUpdate(f"its update lacks {len(missing)} arrays, the first is {missing[0]}")
    if unknown := arrays.keys() - form.keys():  # without their names, which are untrusted
        raise BadUpdate(f"its update holds {len(unknown)} arrays that the network does not have")
    for name, (dtype, shape) in form.items():
        array = arrays[name]
        if array.shape != shape:
            raise BadUpdate(f"{name} is {array.shape} in its update, and must be {shape}")
        if array.dtype != dtype:
            raise BadUpdate(f"{name} is {array.dtype} in its update, and must be {dtype}")
        if dtype.kind == "f" and not all(_is_finite(block) for (block,) in blocks(array)):
            raise BadUpdate(f"{name} holds NaN or infinite values in its update")
    return {name: arrays[name] for name in form}


def _is_finite(block: np.ndarray) -> bool:
    """Whether all numbers (n,) are finite, by the sum of their squares where that suffices, which is faster."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.dot(block, block)) or np.isfinite(block).all())


def _check_statistic(name: str, array: np.ndarray) -> None:
    """Check a running statistic, for which distance means nothing, against its own bounds.

    Raises:
        BadUpdate: the array is a running statistic that no activations could have.
    """
    kind = name.rpartition(".")[2]
    if kind == COUNT and array.size and not (array.min() >= 0 and array.max() <= MOST_BATCHES):
        raise BadUpdate(f"{name} counts an impossible number of batches in its update")
    if kind == VARIANCE and array.size and array.min() < 0:
        raise BadUpdate(f"{name} is negative in its update")
    if kind in (MEAN, VARIANCE) and any(np.abs(block).max() > MOST_STATISTIC for (block,) in blocks(array)):
        raise BadUpdate(f"{name} is beyond {MOST_STATISTIC:g} in its update")


def _check_distance(
    arrays: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray], norm: float | None, max_norm: float
) -> None:
    norm = trained_norm(before) if norm is None else norm
    with np.errstate(over="ignore", invalid="ignore"):  # of double precision, the square may be infinite
        # The distance is at most the sum of the norms, which is quick to check.
        if _rough_norm(arrays) + norm <= max_norm * max(norm, 1.0):
            return
        distance = relative_distance(arrays, before, norm)
    if not distance <= max_norm:
        raise BadUpdate(
            f"its update lies {distance:.3g} times the norm of the round's weights away from them, "
            f"and max_update_norm allows {max_norm:g}"
        )


def _rough_norm(arrays: Mapping[str, np.ndarray]) -> float:
    """An upper bound of the norm of the trained weights, summed in their own precision; not finite if it overflows."""
    squares = sum(
        float(np.dot(block, block))
        for name, array in arrays.items()
        if not is_statistic(name) and array.dtype.kind == "f"
        for (block,) in blocks(array)
    )
    return 1.1 * math.sqrt(squares)


def in_order(replies: Iterable[tuple[str, Reply | None]], sites: Iterable[str]) -> Iterator[tuple[str, Reply]]:
    """Yield the replies in the order of `sites`, each as soon as all before it have arrived or failed (None)."""
    waiting: dict[str, Reply | None] = {}
    queue = list(sites)
    for site, reply in replies:
        waiting[site] = reply
        # A local name would keep the last reply, and with it its weights, alive.
        del reply
        while queue and queue[0] in waiting:
            site = queue.pop(0)
            if waiting[site] is not None:
                yield site, cast(Reply, waiting.pop(site))
    for site in queue:
        if waiting.get(site) is not None:
            yield site, cast(Reply, waiting.pop(site))


@dataclass
class WeightedMean:
    """The mean of updates by weights known beforehand (McMahan et al. 2017, FedAvg), one update at a time.

    The weights are normalised before they multiply and the sums are taken in the order of `add`, in the
    arrays' own precision, as in Flower's FedAvg: the same updates give the same bits. If an expected site's update does
    not arrive, the sum is rescaled to the weights of those that did. Running variances are pooled: the variance of a
    mixture includes the spread of its means. Counts take the largest. Running means and variances are summed in double
    precision, because a small variance would be lost beside the square of a large mean.
    """

    weights: Mapping[str, float]
    form: Form
    _sums: dict[str, np.ndarray] = field(default_factory=dict)
    _added: float = 0.0

    def add(self, site: str, arrays: dict[str, np.ndarray]) -> None:
        """Add a site's update; empties `arrays` in the process, so that its memory is free for the sum."""
        share = self.weights[site] / sum(self.weights.values())
        self._added += self.weights[site]
        for name in sorted(arrays, key=lambda name: name.endswith(MEAN)):  # a variance needs its mean
            self._add_array(name, arrays, share)

    def _add_array(self, name: str, arrays: dict[str, np.ndarray], share: float) -> None:
        array = arrays.pop(name)
        kind = name.rpartition(".")[2]
        if kind == COUNT:
            self._sums[name] = np.maximum(self._sums.get(name, array), array)
            return
        if kind in (MEAN, VARIANCE):
            array = array.astype(np.float64)
        if kind == VARIANCE:
            array += np.square(arrays[name.removesuffix(VARIANCE) + MEAN], dtype=np.float64)
        if name in self._sums:
            for total, block in blocks(self._sums[name], array):
                total += block * share
        else:
            self._sums[name] = np.asarray(array * share)

    def result(self) -> dict[str, np.ndarray]:
        """The mean, with the dtypes and shapes of `form`; the sums are discarded."""
        scale = sum(self.weights.values()) / self._added if self._added else 0.0
        if abs(scale - 1.0) > 1e-12:
            for name, total in self._sums.items():
                if not name.endswith(COUNT):
                    total *= scale
        for name in self._sums:
            if name.endswith(VARIANCE):
                mean = self._sums[name.removesuffix(VARIANCE) + MEAN]
                self._sums[name] = np.maximum(self._sums[name] - np.square(mean), 0)
        sums, self._sums = self._sums, {}
        return {
            name: np.asarray(sums.pop(name), dtype=dtype).reshape(shape) for name, (dtype, shape) in self.form.items()
        }


def _give_back_freed_memory() -> None:
    """Ask the C library to release free memory: an update's is fragmented, and other weights do not fit into it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def record_of_sums(arrays: dict[str, np.ndarray]) -> ArrayRecord:
    """Weights as Flower's arrays, without a copy; empties `arrays`, so that nothing else changes them."""
    _give_back_freed_memory()
    return record_holding((name, arrays.pop(name)) for name in list(arrays))
