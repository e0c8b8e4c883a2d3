"""The interface of a strategy: the messages of a round, and the step from updates to the next weights.

Our methods (`amos_fl.methods`) are carried out by `MethodStrategy`; Flower's own come in through `flower.py`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from amos_fl.errors import AmosError
from amos_fl.methods.base import Arrays, Done, Memory, Method, ServerRound, Work
from amos_fl.methods.updates import Updates
from amos_fl.networks.parts import Parts
from amos_fl.weights import is_trained, trained_norm
from amos_fl_clients.federation.messages import ARRAYS, CONFIG, METRICS
from amos_fl_clients.federation.records import BadUpdate, record_of, views_of
from amos_fl_server.federation.aggregate import Form, WeightedMean, checked_update

Failed = dict[str, AmosError]
Replies = Iterable[tuple[str, Message]]
Accepted = Iterable[tuple[str, Arrays, Done]]
Shares = dict[str, float | None]
"""Each site's share of the mean, all of them 1; None where a strategy does not say."""


@dataclass(frozen=True)
class RoundInput:
    """A strategy's input in a round; mappings are by site, in sorted order, of the sites that are asked.

    `works` is the work that each is asked for, and `weights` are the agreed weights that their replies must name.
    `all_counts` are the weights of all training sites in a mean, asked or not. Strategies that need all updates at once
    keep them in `spool`.
    """

    arrays: ArrayRecord
    config: ConfigRecord
    nodes: Mapping[str, int]
    weights: Mapping[str, float]
    form: Form
    grid: Grid
    seed: int
    all_counts: Mapping[str, float]
    works: Mapping[str, Work]
    spool: Path
    max_update_norm: float | None = None

    @property
    def work(self) -> Work:
        """The most work that a site is asked for."""
        return max(self.works.values(), key=lambda work: work.steps)

    @property
    def number(self) -> int:
        return self.work.number

    def before(self) -> dict[str, np.ndarray]:
        """Those of the sent weights that sites send back, without a copy."""
        arrays = views_of(self.arrays)
        return {name: array for name, array in arrays.items() if name in self.form}

    def trained_before(self) -> dict[str, np.ndarray]:
        """The trained ones of them, without a copy."""
        return {name: array for name, array in self.before().items() if is_trained(name, array)}

    @cached_property
    def norm_before(self) -> float:
        return trained_norm(self.before())

    def update_in(self, reply: Message, site: str) -> dict[str, np.ndarray]:
        """The arrays of a site's update, without a copy.

        Raises:
            BadUpdate: it must not be aggregated.
        """
        if (limit := self.max_update_norm) is None:
            return checked_update(reply, self.form, self.weights[site])
        before, norm = self.before(), self.norm_before
        return checked_update(reply, self.form, self.weights[site], before=before, norm=norm, max_norm=limit)


class Strategy(ABC):
    """A rule by which a server turns updates into the next weights.

    A `personal` one leaves each site a model of its own, where it has a `second_model` a whole one that is trained for
    itself.
    """

    personal = False
    second_model = False

    def withheld(self, parts: Parts) -> frozenset[str]:
        """The arrays that no site sends."""
        return frozenset()

    def check_network(self, model: str, parts: Parts) -> None:  # noqa: B027 - most can do with any
        """Whether the strategy can do with this network.

        Raises:
            AmosError: it keeps arrays at the sites that the network does not have.
        """

    @property
    def reports(self) -> tuple[str, ...]:
        """What sites report beside their updates."""
        return ()

    def check_sites(self, sites: Sequence[str]) -> None:  # noqa: B027 - most can do with any
        """Whether the strategy can do with these training sites.

        Raises:
            AmosError: it needs more of them.
        """

    @abstractmethod
    def messages(self, given: RoundInput) -> dict[str, Message]:
        """A training request for each site that takes part in this round."""

    @abstractmethod
    def aggregate(self, given: RoundInput, replies: Replies, failed: Failed) -> tuple[Arrays, Shares]:
        """The next weights from replies in the order of the sites, and what each site that is in them counts.

        An unusable update is left out, and its site put into `failed` with the reason. Without a usable update the
        weights are empty.
        """

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The strategy's state between rounds: arrays, and JSON values."""
        return {}, {}

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        if arrays or values:
            raise AmosError(f"the checkpoint belongs to a strategy other than {type(self).__name__}")


class MethodStrategy(Strategy):
    """A method of ours, whichever: requests to the sites, a mean taken one update at a time, and the method's step."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.memory = Memory()
        self.personal, self.second_model = method.personal, method.second_model

    def withheld(self, parts: Parts) -> frozenset[str]:
        return self.method.withheld(parts)

    def check_network(self, model: str, parts: Parts) -> None:
        if not self.method.has_private:
            return
        name, private = type(self.method).__name__, self.method.private(parts)
        if not isinstance(private, set | frozenset):
            raise AmosError(f"strategy {name}: its private must return a frozenset of names")
        if not private:
            raise AmosError(
                f"strategy {name} leaves a part of the network at each site that the network {model} does not have",
                "choose another model or strategy",
            )
        if unknown := sorted((private | self.withheld(parts)) - parts.everything):
            raise AmosError(
                f"strategy {name} leaves {unknown[0]!r} at each site, and the network {model} has no such array"
            )

    @property
    def reports(self) -> tuple[str, ...]:
        return self.method.reports

    def check_sites(self, sites: Sequence[str]) -> None:
        self.method.check_sites(sites)

    def messages(self, given: RoundInput) -> dict[str, Message]:
        records: dict[str, Any] = {ARRAYS: given.arrays, CONFIG: given.config}
        if self.method.sends:
            more = self.method.more(given.trained_before(), self.memory)
            records |= {name: record_of(more[name].items()) for name in self.method.sends}
        content = RecordDict(records)
        return {site: Message(content, node, MessageType.TRAIN) for site, node in given.nodes.items()}

    def aggregate(self, given: RoundInput, replies: Replies, failed: Failed) -> tuple[Arrays, Shares]:
        accepted = self._accepted(given, replies, failed)
        take = self._side_by_side if self.method.side_by_side else self._mean
        arrays, round_ = take(given, accepted)
        if not round_.shares:
            return {}, {}
        trained = {name: arrays[name] for name in round_.before}
        return {**arrays, **self.method.step(round_, trained, self.memory)}, dict(round_.shares)

    def _accepted(self, given: RoundInput, replies: Replies, failed: Failed) -> Iterator[tuple[str, Arrays, Done]]:
        for site, reply in replies:
            try:
                update = given.update_in(reply, site)
            except BadUpdate as error:
                failed[site] = AmosError(str(error), code="bad-reply")
                continue
            done = _done_in(reply, given.works[site], self.method.reports)
            reply.content.array_records[ARRAYS].clear()  # `update` alone keeps the weights, until they are taken
            del reply
            yield site, update, done

    def _mean(self, given: RoundInput, accepted: Accepted) -> tuple[Arrays, ServerRound]:
        before, counts = given.trained_before(), self.method.counts(given.all_counts, self.memory)
        mean, done = WeightedMean({site: counts[site] for site in given.nodes}, given.form), dict[str, Done]()
        for site, update, done[site] in accepted:
            trained = {name: update[name] for name in before}
            update |= self.method.admit(before, trained, done[site], given.work)
            trained.clear()  # so that `update` alone keeps the weights
            mean.add(site, update)
        if not done:
            return {}, ServerRound(given.work, before)
        total = sum(counts[site] for site in done)
        shares = {site: counts[site] / total for site in done}
        return mean.result(), ServerRound(given.work, before, total / sum(counts.values()), shares, done)

    def _side_by_side(self, given: RoundInput, accepted: Accepted) -> tuple[Arrays, ServerRound]:
        before, done, arrays, used = given.trained_before(), dict[str, Done](), Arrays(), list[str]()
        with Updates(given.spool, given.form) as updates:
            for site, update, done[site] in accepted:
                updates.add(site, update)
            alike = ServerRound(given.work, before, len(done) / len(given.all_counts), {}, done)
            if done:
                arrays, used = self.method.combine(alike, updates)
        shares, did = {site: 1 / len(used) for site in used}, {site: done[site] for site in used}
        return arrays, replace(alike, share=len(used) / len(given.all_counts), shares=shares, done=did)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return self.memory.arrays, self.memory.values

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        if (arrays and not self.method.server_models) or (values and not self.method.keeps_values):
            raise AmosError(f"the checkpoint belongs to a strategy other than {type(self.method).__name__}")
        self.memory = Memory({name: np.array(array) for name, array in arrays.items()}, dict(values))


def _done_in(reply: Message, work: Work, reports: Sequence[str]) -> Done:
    """What a site says that it did, of what it was asked for."""
    said = reply.content.metric_records[METRICS]
    steps, loss = int(cast(int, said.get("steps", work.steps))), float(cast(float, said.get("train_loss", math.nan)))
    told = {name: float(cast(float, said[name])) for name in reports if name in said}
    return Done(replace(work, steps=steps), loss, told)
