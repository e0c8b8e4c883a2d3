"""Strategies by name: a method of ours, or any of Flower's strategies by import path."""

from collections.abc import Mapping
from typing import Any

from amos_fl.errors import AmosError
from amos_fl.methods import kind_of, method_named
from amos_fl.networks.parts import parts_of
from amos_fl.own_code import is_path
from amos_fl.runs.config import RunConfig
from amos_fl_server.federation.strategies.base import MethodStrategy, Strategy


def make_strategy(name: str, options: Mapping[str, Any]) -> Strategy:
    """The strategy that carries out the method of that name or import path, or the Flower strategy at that path.

    Raises:
        AmosError: no such method or strategy, or an option that it does not have.
    """
    if is_flowers(name):
        from amos_fl_server.federation.strategies.flower import load_flower_strategy

        return load_flower_strategy(name, options)
    return MethodStrategy(method_named(name, options))


def strategy_of(config: RunConfig) -> Strategy:
    """The strategy that a run's settings name.

    Raises:
        AmosError: as `make_strategy`, or incompatible settings.
    """
    strategy = make_strategy(config.strategy, config.strategy_options)
    needs_reset = isinstance(strategy, MethodStrategy) and strategy.method.needs_reset
    if needs_reset and config.optimizer_state != "reset":
        raise AmosError(
            f"strategy {config.strategy} needs optimizer_state reset: with kept momentum, gradients of earlier "
            "rounds also move a site's weights, and it would count them as this round's"
        )
    strategy.check_network(config.model, parts_of(config.model, config.plan, 1, config.norm_statistics))
    return strategy


def is_flowers(name: str) -> bool:
    """Whether a strategy's name is the import path of something other than a method of ours.

    Raises:
        AmosError: there is nothing at that path.
    """
    return is_path(name) and kind_of(name) is None
