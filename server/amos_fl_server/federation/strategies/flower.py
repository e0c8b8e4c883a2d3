"""Any Flower strategy, given by its import path, behind our interface.

Flower's strategies sample nodes at random, wait for nodes, return other dtypes and treat the running
statistics of normalisation layers as weights; here they receive the round's sites in a fixed order and only the trained
weights, and their results are converted back to the original dtypes.
"""

import inspect
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedXgbBagging,
    FedXgbCyclic,
)
from flwr.serverapp.strategy import Strategy as FlowerBase

from amos_fl.errors import AmosError
from amos_fl.methods import subclass_method
from amos_fl.methods.base import Arrays
from amos_fl.own_code import load
from amos_fl.randomness import derived_seed
from amos_fl.weights import is_statistic
from amos_fl_clients.federation.messages import ARRAYS, CONFIG
from amos_fl_clients.federation.records import BadUpdate, is_packed, record_of, views_of
from amos_fl_clients.flower.strategies import StrategyError, used_of
from amos_fl_server.federation.aggregate import WeightedMean
from amos_fl_server.federation.strategies.base import Failed, Replies, RoundInput, Shares, Strategy
from amos_fl_server.federation.strategies.memory import memory_of, remember

_REFUSED: dict[tuple[type[FlowerBase], ...], str] = {
    (
        DifferentialPrivacyClientSideAdaptiveClipping,
        DifferentialPrivacyClientSideFixedClipping,
        DifferentialPrivacyServerSideAdaptiveClipping,
        DifferentialPrivacyServerSideFixedClipping,
    ): "its noise would be drawn from the run's seed, which every site knows, and would protect nobody; there is no "
    "differential privacy here. --strategy norm-bound bounds how far one site's update moves the weights",
    (FedXgbBagging, FedXgbCyclic): "it combines decision trees, not the weights of a network; choose another",
}
"""Strategies of Flower's that would run here and not do what they are for."""


class _SitesOfTheRound:
    """A grid that shows a strategy only the round's nodes, in the order of their sites."""

    def __init__(self, grid: Grid, node_ids: Iterable[int]) -> None:
        self._grid, self._node_ids = grid, list(node_ids)

    def get_node_ids(self) -> list[int]:
        return list(self._node_ids)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)


@contextmanager
def _seeded(seed: int, purpose: str, number: int) -> Iterator[None]:
    """Seed the process's generators, from which Flower's strategies draw, by the run's seed and the round alone."""
    before, numpy_before = random.getstate(), np.random.get_state()
    random.seed(derived_seed(seed, purpose, number))
    np.random.seed(derived_seed(seed, purpose, number, "numpy") % 2**32)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)


class FlowerStrategy(Strategy):
    """A `flwr.serverapp.strategy.Strategy` in our round loop."""

    def __init__(self, inner: FlowerBase) -> None:
        self.inner = inner

    def messages(self, given: RoundInput) -> dict[str, Message]:
        trained = ArrayRecord({n: a for n, a in given.arrays.items() if not is_statistic(n)})
        grid: Any = _SitesOfTheRound(given.grid, given.nodes.values())
        with _seeded(given.seed, "strategy", given.number):
            asked = list(self.inner.configure_train(given.number, trained, ConfigRecord(dict(given.config)), grid))
        sites = {node: site for site, node in given.nodes.items()}
        messages = {sites[message.metadata.dst_node_id]: message for message in asked}
        for message in messages.values():
            # The sites get all arrays; the strategy has seen only the trained ones.
            sent = next(iter(message.content.array_records.values()), trained)
            config = next(iter(message.content.config_records.values()), given.config)
            whole = ArrayRecord({name: sent.get(name, array) for name, array in given.arrays.items()})
            message.content = RecordDict({ARRAYS: whole, CONFIG: config})
        return {site: messages[site] for site in sorted(messages)}

    def aggregate(self, given: RoundInput, replies: Replies, failed: Failed) -> tuple[Arrays, Shares]:
        statistics = {name: form for name, form in given.form.items() if is_statistic(name)}
        pooled = WeightedMean({site: given.all_counts[site] for site in given.nodes}, statistics)
        kept: list[Message] = []
        used: Shares = {}
        for site, reply in replies:
            try:
                arrays = given.update_in(reply, site)
            except BadUpdate as error:
                failed[site] = AmosError(str(error), code="bad-reply")
                continue
            pooled.add(site, {name: arrays[name] for name in statistics})
            update = reply.content.array_records[ARRAYS]
            if is_packed(update):
                update = reply.content[ARRAYS] = record_of(views_of(update).items())
            for name in statistics:
                del update[name]
            kept.append(reply)
            used[site] = None
        if not used:
            return {}, {}
        try:
            with _seeded(given.seed, "strategy aggregates", given.number):
                record, _ = self.inner.aggregate_train(given.number, kept)
        except StrategyError as error:
            raise AmosError(f"strategy {type(self.inner).__name__}: {error}") from None
        if record is None:
            return {}, {}
        sites = list(used)
        used = {sites[number]: None for number in used_of(self.inner, [reply.content for reply in kept])}
        found = {**views_of(record), **(pooled.result() if statistics else {})}
        return {n: np.asarray(found[n]).astype(d, copy=False).reshape(s) for n, (d, s) in given.form.items()}, used

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return memory_of(self.inner)

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        remember(self.inner, arrays, values)


def load_flower_strategy(path: str, options: Mapping[str, Any]) -> FlowerStrategy:
    """The strategy `module:Class` (or `module.Class`) with these options.

    Raises:
        AmosError: no such class, not a Flower strategy, options that it does not take, or state that no checkpoint can
        hold.
    """
    found = load(path, "strategy")
    if not (inspect.isclass(found) and issubclass(found, FlowerBase)):
        raise AmosError(
            f"strategy {path}: is neither a method nor a strategy of Flower's (a flwr.serverapp.strategy.Strategy)",
            subclass_method(path),
        )
    for kinds, why in _REFUSED.items():
        if issubclass(found, kinds):
            raise AmosError(f"strategy {path}: {why}")
    accepted = inspect.signature(found).parameters
    minimum = {name: 1 for name in ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes") if name in accepted}
    try:
        strategy = FlowerStrategy(found(**{**minimum, **options}))
    except (TypeError, ValueError) as error:
        raise AmosError(f"strategy {path}: {error}") from None
    strategy.state()  # refuse unsupported state here, not at the first checkpoint
    return strategy
