"""Load a run's initial weights from another run: matching layers are copied, the head is adapted.

The head is what depends on the organs (`amos_fl.networks.head`). Organs that both know by name, and background, keep
their weights in it; those of other organs are newly initialised from the run's seed alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from amos_fl.cohort.organ_names import organ_key
from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_file, write_json
from amos_fl.networks.head import class_axes
from amos_fl.networks.registry import build_network
from amos_fl.runs.config import RunConfig
from amos_fl.runs.folder import START, RunFolder
from amos_fl.runs.origin import Origin, start_of
from amos_fl.weights import Arrays, arrays_of, hash_of, is_statistic, load_arrays, read_arrays
from amos_fl.wording import listed

LEAST_SHARED = 0.5
"""Below this fraction of matching weights outside the head, it is another network."""


@dataclass(frozen=True)
class Begun:
    """Report of loading the weights of another run: what was reused, and what was newly initialised.

    `kept` and `fresh_organs` are organs of this run whose part of the head was loaded or is fresh, `dropped` those of
    the other run that this run lacks; all three are empty if the head was loaded as it is. `fresh` are arrays outside
    the head that did not fit. Weights are counted as scalars. `learned` are the labels, in this run, of loaded organs
    that the other run had learned.
    """

    origin: str
    loaded: int
    weights: int
    head: tuple[str, ...]
    kept: tuple[str, ...]
    fresh_organs: tuple[str, ...]
    dropped: tuple[str, ...]
    fresh: tuple[str, ...]
    unnamed: bool
    learned: tuple[int, ...] = ()
    unlearned: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What was loaded and what is fresh, for a terminal and a summary."""
        parts = [f"begins with the weights of {self.origin}: {self.loaded:,} of {self.weights:,} are taken over"]
        if self.kept or self.fresh_organs or self.dropped:
            parts.append(f"the head keeps background{''.join(f', {organ}' for organ in self.kept)}")
            if self.fresh_organs:
                parts.append(f"fresh in the head: {', '.join(self.fresh_organs)}")
            if self.dropped:
                parts.append(f"without a place here: {', '.join(self.dropped)}")
        else:
            parts.append("the head as it is")
        if self.unlearned:
            parts.append(f"not learned there either: {', '.join(self.unlearned)}")
        if self.unnamed:
            parts.append("the file does not say which organs it knows")
        if self.fresh:
            parts.append(f"fresh, because they have another shape: {listed(self.fresh, 3)}")
        return "; ".join(parts)


def start_weights(config: RunConfig, organs: Mapping[int, str]) -> tuple[nn.Module, Begun | None]:
    """A run's initial network: fresh, or with the weights of `config.start_from`.

    Raises:
        AmosError: the weights are missing, damaged, or of another network.
    """
    network = build_network(
        config.model, config.plan, len(organs), seed=config.seed, norm_statistics=config.norm_statistics
    )
    origin = start_of(config)
    if origin is None:
        return network, None
    return network, take_over(network, read_arrays(origin.file), origin, config, organs)


def take_over(
    network: nn.Module, arrays: Arrays, origin: Origin, config: RunConfig, organs: Mapping[int, str]
) -> Begun:
    """Load `arrays` into a fresh network, whose head keeps its own values for organs without a counterpart.

    Raises:
        AmosError: the arrays are of another network.
    """
    state = arrays_of(network)
    if set(state) != set(arrays):
        odd = sorted(set(state) ^ set(arrays))
        if all(map(is_statistic, odd)):
            has, remedy = ("has", "average or local") if odd[0] in arrays else ("lacks", "group")
            raise AmosError(
                f"{origin.file}: {has} the running statistics of batch normalisation, unlike this run's network; "
                f"set norm_statistics to {remedy}"
            )
        raise _another(origin, f"{len(odd)} arrays differ, the first is {odd[0]}")
    head = class_axes(config.model, config.plan, len(organs))
    axes = {name: mine for name, mine in head.items() if name in state}  # a group norm keeps no statistics
    theirs = _organs_in(arrays, axes, origin)
    places = _places(
        origin, list(organs.values()), theirs, all(arrays[name].shape == state[name].shape for name in axes)
    )
    as_it_is = places == list(range(theirs + 1))
    fresh = tuple(sorted(n for n in state if n not in axes and state[n].shape != arrays[n].shape))
    outside = sum(state[name].size for name in state if name not in axes)
    if sum(state[name].size for name in fresh) > (1 - LEAST_SHARED) * outside:
        name = fresh[0]
        raise _another(origin, f"{name} is {arrays[name].shape}, not {state[name].shape}")
    begun: Arrays = {}
    loaded = 0
    for name, own in state.items():
        if name in fresh:
            begun[name] = own
        elif name not in axes or (as_it_is and own.shape == arrays[name].shape):
            begun[name], loaded = arrays[name], loaded + own.size
        else:
            begun[name], count = _joined(own, arrays[name], axes[name], places, theirs, origin)
            loaded += count
    load_arrays(network, begun)
    names = list(organs.values())
    kept = () if as_it_is else tuple(n for n, place in zip(names, places[1:], strict=True) if place >= 0)
    known = list((origin.organs or {}).values())
    labels = list(origin.organs or {})
    taken = {organ: place for organ, place in zip(organs, places[1:], strict=True) if place >= 0}
    # In a file without names, or of an older version, everything that is loaded counts as learned.
    learned = [o for o, place in taken.items() if origin.learned is None or labels[place - 1] in origin.learned]
    return Begun(
        origin=origin.name,
        loaded=loaded,
        weights=sum(array.size for array in state.values()),
        head=tuple(sorted(axes)),
        kept=kept,
        fresh_organs=() if as_it_is else tuple(n for n in names if n not in kept),
        dropped=tuple(n for i, n in enumerate(known, start=1) if i not in places),
        fresh=fresh,
        unnamed=origin.organs is None,
        learned=tuple(sorted(learned)),
        unlearned=tuple(organs[organ] for organ in taken if organ not in learned),
    )


def _another(origin: Origin, why: str) -> AmosError:
    return AmosError(
        f"{origin.file}: these weights are of another network ({why}); give the run the model and the plan that they "
        "were trained with, or name the run folder and omit --model and --plan"
    )


def _organs_in(arrays: Arrays, axes: Mapping[str, Sequence[int]], origin: Origin) -> int:
    """The number of organs of the weights, from their shapes.

    Raises:
        AmosError: they disagree among themselves, or with what is known of their run.
    """
    counts = {
        arrays[name].shape[axis] - 1 if axis < arrays[name].ndim else -1 for name, mine in axes.items() for axis in mine
    }
    if len(counts) != 1 or (origin.organs is not None and counts != {len(origin.organs)}):
        raise _another(origin, f"its head is for {' or '.join(map(str, sorted(counts)))} organs")
    return counts.pop()


def _places(origin: Origin, organs: list[str], theirs: int, same_shapes: bool) -> list[int]:
    """For background and each organ the channel of the weights to load; -1 if it is fresh."""
    if origin.organs is None:
        # Without names, a head of the same size is assumed to have the same organs, any other to have unknown ones.
        return list(range(theirs + 1)) if same_shapes else [0, *[-1] * len(organs)]
    channels = {organ_key(name): i for i, name in enumerate(origin.organs.values(), start=1)}
    return [0, *(channels.get(organ_key(name), -1) for name in organs)]


def _joined(
    own: np.ndarray, other: np.ndarray, axes: Sequence[int], places: list[int], theirs: int, origin: Origin
) -> tuple[np.ndarray, int]:
    """A fresh array of the head with the other's values for the organs that both have, and the number of those values.

    Raises:
        AmosError: the arrays differ in more than the organs.
    """
    if not axes:
        return own, 0
    wanted = tuple(theirs + 1 if axis in axes else side for axis, side in enumerate(own.shape))
    if other.shape != wanted:
        raise _another(origin, f"an array of its head is {other.shape}, not {wanted}")
    here = [i for i, place in enumerate(places) if place >= 0]
    there = [place for place in places if place >= 0]
    target = np.ix_(*(here if axis in axes else range(side) for axis, side in enumerate(own.shape)))
    source = np.ix_(*(there if axis in axes else range(side) for axis, side in enumerate(own.shape)))
    joined = own.copy()
    joined[target] = other[source]
    return joined, joined[target].size


def check_start(config: RunConfig, organs: Mapping[int, str]) -> str | None:
    """Check that a run's initial weights fit, and return their SHA-256; None if they are fresh.

    Raises:
        AmosError: as `start_weights`.
    """
    origin = start_of(config)
    if origin is None:
        return None
    # A plan that is yet to be made is compared once it exists.
    if not config.lacks_plan and not origin.is_like(config, dict(organs)):
        start_weights(config, organs)
    return sha256_of_file(origin.file)


def begin(folder: RunFolder, config: RunConfig, organs: Mapping[int, str]) -> tuple[nn.Module, Begun | None]:
    """`start_weights` for a run folder, recording what was loaded and what is fresh in `start.json`.

    Raises:
        AmosError: as `start_weights`, or the weights are no longer those that the run was made with.
    """
    origin = start_of(config)
    if origin is not None and sha256_of_file(origin.file) != folder.about().start_sha256:
        raise AmosError(f"{origin.file}: has changed since {folder.path} was made; put it back, or start a new run")
    network, begun = start_weights(config, organs)
    if origin is not None and begun is not None:
        write_json(
            folder.path / START,
            {
                "start_from": str(origin.file),
                "sha256": folder.about().start_sha256,
                "first_weights_sha256": hash_of(arrays_of(network)),
                "weights": begun.weights,
                "loaded": begun.loaded,
                "head": {
                    "arrays": begun.head,
                    "kept": begun.kept,
                    "fresh": begun.fresh_organs,
                    "dropped": begun.dropped,
                },
                "fresh_arrays": begun.fresh,
                "learned": begun.learned,
                "sentence": begun.sentence,
            },
        )
    return network, begun
