"""Strategies by name: a method of ours, or any of Flower's strategies by import path."""

from collections.abc import Mapping
from typing import Any

from amos_fl.methods import method_named
from amos_fl_server.strategies.base import MethodStrategy, Strategy


def make_strategy(name: str, options: Mapping[str, Any]) -> Strategy:
    """The strategy that carries out the method of that name, or the Flower strategy at that import path.

    Raises:
        AmosError: no such method or strategy, or an option that it does not have.
    """
    if is_flowers(name):
        from amos_fl_server.strategies.flower import load_flower_strategy

        return load_flower_strategy(name, options)
    return MethodStrategy(method_named(name, options))


def is_flowers(name: str) -> bool:
    """Whether a strategy's name is an import path."""
    return ":" in name or "." in name
