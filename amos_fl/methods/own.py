"""Check a user's own method before anything is trained: how it is written, and two rounds on made-up weights."""

import dataclasses
import inspect
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amos_fl.errors import AmosError
from amos_fl.methods.base import VAL_AFTER, VAL_BEFORE, Arrays, Done, Memory, Method, ServerRound, SiteRound, Work
from amos_fl.own_code import where_in
from amos_fl.randomness import generator
from amos_fl.training.settings import TrainingSettings
from amos_fl.weights import hash_of
from amos_fl.wording import first_line

if TYPE_CHECKING:  # it imports PyTorch, which a list of the methods does not need
    from amos_fl.training.pull import Pull

SITES = tuple(f"site {number:02d}" for number in range(12))
SHAPES = {"layer.weight": (4, 3), "layer.bias": (4,)}
ROUNDS, STEPS = 2, 3


def check_kind(path: str, kind: type[Method]) -> None:
    """Check the form of a method's class.

    Raises:
        AmosError: it is not a frozen dataclass, an option has no number as default, or a function of a method takes
        other arguments or is never called.
    """
    if "__dataclass_params__" not in vars(kind) or not kind.__dataclass_params__.frozen:  # pyright: ignore[reportAttributeAccessIssue]
        raise AmosError(f"strategy {path}: must be a frozen dataclass; put @dataclass(frozen=True) above its class")
    for field in dataclasses.fields(kind):
        if not isinstance(field.default, int | float):  # bool is a subclass of int
            raise AmosError(
                f"strategy {path}: its option {field.name} must have a number, true or false as its default"
            )
    for name, of_ours in vars(Method).items():
        written = inspect.getattr_static(kind, name)
        if name.startswith("_") or not inspect.isfunction(of_ours) or written is of_ours:
            continue
        takes = list(inspect.signature(of_ours).parameters)
        try:
            inspect.signature(written).bind(*takes)
        except (TypeError, ValueError):
            raise AmosError(f"strategy {path}: its {name} must take ({', '.join(takes)})") from None
    if kind.sends and kind.more is Method.more:
        raise AmosError(f"strategy {path}: sends {', '.join(kind.sends)} but has no 'more' to make it")
    if unknown := sorted(set(kind.reports) - {VAL_BEFORE, VAL_AFTER}):
        raise AmosError(f"strategy {path}: no site reports {unknown[0]!r}; it can report {VAL_BEFORE} and {VAL_AFTER}")
    if kind.keep is not Method.keep and not kind.site_models:
        raise AmosError(
            f"strategy {path}: has a 'keep', but site_models is 0, so that a site would keep nothing; say how many "
            "times the network's parameters it returns"
        )


def made(path: str, kind: type[Method], options: Mapping[str, Any]) -> Method:
    """The method with these options.

    Raises:
        AmosError: it refuses one of them.
    """
    with _said(path, "__post_init__"):
        return kind(**options)


def try_out(path: str, method: Method) -> None:
    """Carry out two rounds of a method, both halves, with made-up weights and twelve sites, and all that twice.

    Raises:
        AmosError: a function fails, changes what it is only given to look at, returns something other than a round
        needs, or differs between the two times; or memory is used that the class does not declare.
    """
    first, second = (_rounds(path, method) for _ in range(2))
    if first != second:
        raise AmosError(
            f"strategy {path}: gives different weights the second time; it must depend only on what it is given"
        )


def _rounds(path: str, method: Method) -> tuple[str, str]:
    """The hashes of the weights and of the memory after the last round."""
    method.check_sites(SITES)
    memory, kept = Memory(), {site: Arrays() for site in SITES}
    weights = {site: 1.0 + number for number, site in enumerate(SITES)}
    now = _drawn("weights")
    for number in range(1, ROUNDS + 1):
        work = Work(number, (number - 1) * STEPS, STEPS, ROUNDS * STEPS, TrainingSettings(momentum=0.9))
        before = _locked(now)
        with _said(path, "more"):
            more = method.more(before, memory)
        for name in method.sends:
            _check_form(path, f"more, under {name!r},", more.get(name), before)
        updates = {}
        for site in SITES:
            given = SiteRound(work, {name: _locked(more[name]) for name in method.sends}, _locked(kept[site]))
            with _said(path, "pull"):
                _check_pull(path, method.pull(given), before)
            with _said(path, "personal_pull"):
                _check_pull(path, method.personal_pull(before), before)
            after = {name: before[name] + change for name, change in _drawn("update", number, site).items()}
            with _said(path, "keep"):
                kept[site] = method.keep(given, before, _locked(after))
            if not all(isinstance(array, np.ndarray) for array in kept[site].values()):
                raise AmosError(f"strategy {path}: its keep must return arrays by name")
            updates[site] = after
        now = _server(path, method, work, before, updates, weights, memory)
    if memory.arrays and not method.server_models:
        raise AmosError(
            f"strategy {path}: has arrays in its memory, but server_models is 0; say how many times the network's "
            "parameters they hold"
        )
    if memory.values and not method.keeps_values:
        raise AmosError(f"strategy {path}: has values in its memory; set keeps_values to True")
    with _said(path, "memory.values, which must be JSON,"):
        values = json.dumps(memory.values, sort_keys=True)
    return hash_of(now), hash_of(memory.arrays) + values


def _server(
    path: str,
    method: Method,
    work: Work,
    before: Arrays,
    updates: Mapping[str, Arrays],
    weights: Mapping[str, float],
    memory: Memory,
) -> Arrays:
    names = method.reports
    done = {site: Done(work, 1.0 + n, dict.fromkeys(names, 1.0 + n)) for n, site in enumerate(updates)}
    if method.side_by_side:
        from amos_fl.methods.updates import Updates

        form = {name: (array.dtype, array.shape) for name, array in before.items()}
        alike = ServerRound(work, before, 1.0, {}, done)
        with tempfile.TemporaryDirectory() as folder, Updates(Path(folder) / "updates", form) as lying:
            for site, update in updates.items():
                lying.add(site, dict(update))
            with _said(path, "combine"):
                mean, used = method.combine(alike, lying)
                shares = {site: 1 / len(used) for site in used}
        _check_form(path, "combine", mean, before)
        if not set(shares) <= set(SITES):
            raise AmosError(f"strategy {path}: its combine must return the sites that are in the weights")
    else:
        with _said(path, "counts"):
            counts = {site: float(method.counts(weights, memory)[site]) for site in updates}
            shares = {site: count / sum(counts.values()) for site, count in counts.items()}
        if not all(share >= 0 for share in shares.values()):
            raise AmosError(f"strategy {path}: its counts must be 0 or more, and at least one above 0")
        mean = {name: np.zeros_like(array) for name, array in before.items()}
        for site, update in updates.items():
            with _said(path, "admit"):
                admitted = method.admit(before, dict(update), done[site], work)
            _check_form(path, "admit", admitted, before)
            mean = {name: array + np.float32(shares[site]) * admitted[name] for name, array in mean.items()}
    with _said(path, "step"):
        after = method.step(ServerRound(work, before, 1.0, shares, done), mean, memory)
    _check_form(path, "step", after, before)
    return after


def _drawn(*names: str | int) -> Arrays:
    return {n: generator(0, "own method", *names, n).standard_normal(s, np.float32) for n, s in SHAPES.items()}


def _locked(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Views that cannot be written to."""
    views = {name: array.view() for name, array in arrays.items()}
    for view in views.values():
        view.flags.writeable = False
    return views


def _check_pull(path: str, pull: "Pull", before: Arrays) -> None:
    from amos_fl.training.pull import Pull

    if not isinstance(pull, Pull):
        raise AmosError(f"strategy {path}: its pull must return an amos_fl.training.pull.Pull")
    for name, array in (*pull.drift.items(), *(pull.anchor or {}).items()):
        if name not in before or getattr(array, "shape", None) != before[name].shape:
            raise AmosError(f"strategy {path}: its pull has {name!r}, which is not a parameter of that name and shape")
    if pull.mu > 0 and pull.anchor is not None and (missing := sorted(before.keys() - pull.anchor.keys())):
        raise AmosError(f"strategy {path}: its pull has an anchor without {missing[0]!r}")


def _check_form(path: str, where: str, found: object, like: Arrays) -> None:
    """Check that a function returned finite arrays of the names, shapes and dtypes of `like`."""
    if not isinstance(found, Mapping) or found.keys() != like.keys():
        raise AmosError(f"strategy {path}: its {where} must return an array for each parameter, by name")
    for name, array in like.items():
        new = found[name]
        if not isinstance(new, np.ndarray) or (new.shape, new.dtype) != (array.shape, array.dtype):
            what = f"{new.dtype} {new.shape}" if isinstance(new, np.ndarray) else type(new).__name__
            raise AmosError(
                f"strategy {path}: its {where} returns {what} for a parameter of {array.dtype} {array.shape}; keep "
                "dtype and shape (np.float32(0.5) instead of np.float64)"
            )
        if not np.isfinite(new).all():
            raise AmosError(f"strategy {path}: its {where} returns numbers that are not finite")


@contextmanager
def _said(path: str, function: str) -> Iterator[None]:
    """A failure in a user's function, in a sentence."""
    try:
        yield
    except AmosError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {first_line(error)}{where_in(error, path)}"
        raise AmosError(f"strategy {path}: its {function} fails ({said})") from None
