"""The methods of federated learning by name: what a site does in a round, and how the server combines the updates."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from amos_fl.errors import AmosError
from amos_fl.methods.adaptive import FedAdagrad, FedAdam, FedYogi
from amos_fl.methods.agnostic import Agnostic
from amos_fl.methods.base import Method
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
from amos_fl.methods.scaffold import Scaffold
from amos_fl.methods.trimmed_mean import TrimmedMean
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
    "norm-bound": NormBound,
    "median": Median,
    "trimmed-mean": TrimmedMean,
    "geometric-median": GeometricMedian,
    "krum": Krum,
    "multi-krum": MultiKrum,
}


def method_named(name: str, options: Mapping[str, Any]) -> Method:
    """The method of that name with these options.

    Raises:
        AmosError: no such method, or an option that it does not have or that is out of range.
    """
    if name not in METHODS:
        raise AmosError(f"no strategy {name!r}; {nearest(name, METHODS)} (a Flower strategy is given as module:Class)")
    kind = METHODS[name]
    known = options_of(kind)
    if unknown := sorted(set(options) - set(known)):
        raise AmosError(f"strategy {name} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    for option, value in options.items():
        if isinstance(value, bool | str):
            raise AmosError(f"strategy_options.{option} is {value!r}; it must be a number")
    return kind(**options)


def options_of(kind: type[Method]) -> dict[str, float]:
    """The options of a method, with their defaults."""
    return {field.name: field.default for field in dataclasses.fields(kind)}  # pyright: ignore[reportReturnType]
