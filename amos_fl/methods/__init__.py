"""The methods of federated learning by name: what a site does in a round, and how the server combines the updates."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from amos_fl.errors import AmosError
from amos_fl.methods.adaptive import FedAdagrad, FedAdam, FedYogi
from amos_fl.methods.agnostic import Agnostic
from amos_fl.methods.base import Method
from amos_fl.methods.ditto import Ditto
from amos_fl.methods.fedavg import FedAvg
from amos_fl.methods.fedavgm import FedAvgM
from amos_fl.methods.feddg_ga import FedDgGa
from amos_fl.methods.feddyn import FedDyn
from amos_fl.methods.fednova import FedNova
from amos_fl.methods.fedprox import FedProx
from amos_fl.methods.geometric_median import GeometricMedian
from amos_fl.methods.krum import Krum, MultiKrum
from amos_fl.methods.median import Median
from amos_fl.methods.norm_bound import NormBound
from amos_fl.methods.own import check_kind, made
from amos_fl.methods.private import FedBN, FedPer
from amos_fl.methods.scaffold import Scaffold
from amos_fl.methods.trimmed_mean import TrimmedMean
from amos_fl.own_code import is_path, load
from amos_fl.wording import nearest

METHODS: dict[str, type[Method]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "feddyn": FedDyn,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedadagrad": FedAdagrad,
    "fednova": FedNova,
    "agnostic": Agnostic,
    "feddg-ga": FedDgGa,
    "fedbn": FedBN,
    "fedper": FedPer,
    "ditto": Ditto,
    "norm-bound": NormBound,
    "median": Median,
    "trimmed-mean": TrimmedMean,
    "geometric-median": GeometricMedian,
    "krum": Krum,
    "multi-krum": MultiKrum,
}


def kind_of(name: str) -> type[Method] | None:
    """The method of that name, or the one at that import path; None: neither, but perhaps a strategy of Flower's.

    Raises:
        AmosError: an import path with nothing there.
    """
    if not is_path(name):
        return METHODS.get(name)
    found = load(name, "strategy")
    return found if inspect.isclass(found) and issubclass(found, Method) else None


def method_named(name: str, options: Mapping[str, Any]) -> Method:
    """The method of that name, or the one at that import path, with these options.

    Raises:
        AmosError: no such method, one that is not written as methods are, or an option that it does not have or that is
        out of range.
    """
    kind = kind_of(name)
    if kind is None:
        if is_path(name):
            raise AmosError(f"strategy {name}: is not a method", subclass_method(name))
        raise AmosError(f"no strategy {name!r}; {nearest(name, METHODS)} (one of your own is given as module:Class)")
    if is_path(name):
        check_kind(name, kind)
    known = options_of(kind)
    if unknown := sorted(set(options) - set(known)):
        raise AmosError(f"strategy {name} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    for option, value in options.items():
        if isinstance(value, str) or isinstance(value, bool) != isinstance(known[option], bool):
            words = "true or false" if isinstance(known[option], bool) else "a number"
            raise AmosError(f"strategy_options.{option} is {value!r}; it must be {words}")
    return made(name, kind, options)


def subclass_method(path: str) -> str:
    """The remedy for a class at an import path that is no method.

    >>> subclass_method("my_lab.methods:FedCM")
    "write class FedCM(Method), with 'from amos_fl.methods.base import Method'"
    """
    name = path.replace(":", ".").rpartition(".")[2]
    return f"write class {name}(Method), with 'from amos_fl.methods.base import Method'"


def options_of(kind: type[Method]) -> dict[str, float | bool]:
    """The options of a method, with their defaults."""
    return {field.name: field.default for field in dataclasses.fields(kind)}  # pyright: ignore[reportReturnType]
