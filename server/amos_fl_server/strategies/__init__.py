"""Strategies by name: our own, and any of Flower's by import path."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from amos_fl.errors import AmosError
from amos_fl.wording import nearest
from amos_fl_server.strategies.base import AveragingStrategy, Strategy
from amos_fl_server.strategies.fedavg import FedAvg
from amos_fl_server.strategies.fedprox import FedProx

STRATEGIES: dict[str, type[AveragingStrategy]] = {"fedavg": FedAvg, "fedprox": FedProx}


def make_strategy(name: str, options: Mapping[str, Any]) -> Strategy:
    """The strategy of that name, or the Flower strategy at that import path.

    Raises:
        AmosError: no such strategy, or an option that it does not have.
    """
    if ":" in name or "." in name:
        from amos_fl_server.strategies.flower import load_flower_strategy

        return load_flower_strategy(name, options)
    if name not in STRATEGIES:
        hint = nearest(name, STRATEGIES)
        raise AmosError(f"no strategy {name!r}; {hint} (a Flower strategy is given as module:Class)")
    kind = STRATEGIES[name]
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(set(options) - known):
        hint = nearest(unknown[0], known) if known else "it has none"
        raise AmosError(f"strategy {name} has no option {unknown[0]!r}; {hint}")
    return kind(**options)
