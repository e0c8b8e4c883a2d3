"""The interface of a strategy: the messages of a round, and the step from updates to the next weights.

Our methods (`amos_fl.methods`) are carried out by `MethodStrategy`; Flower's own come in through `flower.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from amos_fl.errors import AmosError
from amos_fl.methods.base import Memory, Method, ServerRound, Work
from amos_fl.weights import is_trained
from amos_fl_clients.federation.messages import ARRAYS, CONFIG
from amos_fl_clients.federation.records import BadUpdate, record_of, views_of
from amos_fl_server.federation.aggregate import Form, WeightedMean, checked_update

Failed = dict[str, AmosError]
Replies = Iterable[tuple[str, Message]]


@dataclass(frozen=True)
class RoundInput:
    """The input of a strategy in a round.

    `work` is the task of every site; `weights` are the sites' agreed weights, by site in sorted order.
    """

    work: Work
    arrays: ArrayRecord
    config: ConfigRecord
    nodes: Mapping[str, int]
    weights: Mapping[str, float]
    form: Form
    grid: Grid
    seed: int
    max_update_norm: float | None = None

    @property
    def number(self) -> int:
        return self.work.number

    def trained_before(self) -> dict[str, np.ndarray]:
        """The trained weights sent to the sites, without a copy."""
        return {name: array for name, array in views_of(self.arrays).items() if is_trained(name, array)}

    def update_in(self, reply: Message, site: str) -> dict[str, np.ndarray]:
        """The arrays of a site's update, without a copy.

        Raises:
            BadUpdate: it must not be aggregated.
        """
        before, max_norm = self.arrays, self.max_update_norm
        return checked_update(reply, self.form, self.weights[site], before=before, max_norm=max_norm)


class Strategy(ABC):
    """A rule by which a server turns updates into the next weights."""

    @abstractmethod
    def messages(self, given: RoundInput) -> dict[str, Message]:
        """A training request for each site that takes part in this round."""

    @abstractmethod
    def aggregate(self, given: RoundInput, replies: Replies, failed: Failed) -> tuple[dict[str, np.ndarray], list[str]]:
        """The next weights from replies in site order, and the sites included in them.

        An unusable update is left out, and its site put into `failed` with the reason. Without a usable update the
        weights are empty.
        """

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The strategy's state between rounds: arrays, and JSON values."""
        return {}, {}

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        if arrays or values:
            raise AmosError(f"the checkpoint is of another strategy than {type(self).__name__}")


class MethodStrategy(Strategy):
    """Any of our methods: requests to all sites, a mean taken one update at a time, and the method's step."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.memory = Memory()

    def messages(self, given: RoundInput) -> dict[str, Message]:
        records: dict[str, Any] = {ARRAYS: given.arrays, CONFIG: given.config}
        if self.method.sends:
            more = self.method.more(given.trained_before(), self.memory)
            records |= {name: record_of(more[name].items()) for name in self.method.sends}
        content = RecordDict(records)
        return {site: Message(content, node, MessageType.TRAIN) for site, node in given.nodes.items()}

    def aggregate(self, given: RoundInput, replies: Replies, failed: Failed) -> tuple[dict[str, np.ndarray], list[str]]:
        mean, used = WeightedMean(given.weights, given.form), []
        for site, reply in replies:
            try:
                update = given.update_in(reply, site)
            except BadUpdate as error:
                failed[site] = AmosError(str(error), code="bad-reply")
                continue
            reply.content.array_records[ARRAYS].clear()  # only `update` keeps the weights, until they are in the sum
            mean.add(site, update)
            used.append(site)
            del reply, update
        if not used:
            return {}, used
        arrays, before = mean.result(), given.trained_before()
        trained = {name: arrays[name] for name in before}
        share = sum(given.weights[site] for site in used) / sum(given.weights.values())
        round_ = ServerRound(given.work, before, share)
        return {**arrays, **self.method.step(round_, trained, self.memory)}, used

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return self.memory.arrays, self.memory.values

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        if (arrays or values) and not self.method.server_models:
            raise AmosError(f"the checkpoint is of another strategy than {type(self.method).__name__}")
        self.memory = Memory({name: np.array(array) for name, array in arrays.items()}, dict(values))
