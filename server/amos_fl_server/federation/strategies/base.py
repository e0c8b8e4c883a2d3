"""What a strategy is: the messages of a round, and the way from updates to the next weights.

A strategy of ours is a frozen dataclass of its parameters with one method overridden: `options` (what
sites are told) or `server_step` (what becomes of the mean). Flower's own come in through `flower.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from amos_fl.errors import AmosError
from amos_fl_clients.federation.messages import ARRAYS, CONFIG
from amos_fl_clients.federation.records import BadUpdate
from amos_fl_server.federation.aggregate import Form, WeightedMean, checked_update

Failed = dict[str, AmosError]
Replies = Iterable[tuple[str, Message]]


@dataclass(frozen=True)
class RoundInput:
    """What a strategy is given in a round. `weights` are the sites' agreed weights, by site in sorted order."""

    number: int
    arrays: ArrayRecord
    config: ConfigRecord
    nodes: Mapping[str, int]
    weights: Mapping[str, float]
    form: Form
    grid: Grid
    seed: int
    max_update_norm: float | None = None

    def update_in(self, reply: Message, site: str) -> dict[str, np.ndarray]:
        """The arrays of a site's update, without a copy.

        Raises:
            BadUpdate: it must not be aggregated.
        """
        before, max_norm = self.arrays, self.max_update_norm
        return checked_update(reply, self.form, self.weights[site], before=before, max_norm=max_norm)


class Strategy(ABC):
    """One rule by which a server turns updates into the next weights."""

    @abstractmethod
    def messages(self, given: RoundInput) -> dict[str, Message]:
        """A training request for each site that takes part in this round."""

    @abstractmethod
    def aggregate(self, given: RoundInput, replies: Replies, failed: Failed) -> tuple[dict[str, np.ndarray], list[str]]:
        """The next weights from replies in the order of the sites, and the sites that are in them.

        An update that must not be used is left out and its site put into `failed` with the reason.
        Without a usable update the weights are empty.
        """

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What the strategy must remember between rounds: arrays, and values that JSON can hold."""
        return {}, {}

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        if arrays or values:
            raise AmosError(f"the checkpoint is of another strategy than {type(self).__name__}")


@dataclass(frozen=True)
class AveragingStrategy(Strategy):
    """Requests to all sites, and a weighted mean of their updates, taken one update at a time."""

    def options(self) -> dict[str, float]:
        """What the sites are told beside the task."""
        return {}

    def server_step(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The next weights from the mean of the updates."""
        return arrays

    def messages(self, given: RoundInput) -> dict[str, Message]:
        config = ConfigRecord({**given.config, **self.options()})
        content = RecordDict({ARRAYS: given.arrays, CONFIG: config})
        return {site: Message(content, node, MessageType.TRAIN) for site, node in given.nodes.items()}

    def aggregate(self, given: RoundInput, replies: Replies, failed: Failed) -> tuple[dict[str, np.ndarray], list[str]]:
        mean, used = WeightedMean(given.weights, given.form), []
        for site, reply in replies:
            try:
                update = given.update_in(reply, site)
            except BadUpdate as error:
                failed[site] = AmosError(str(error), code="bad-reply")
                continue
            reply.content.array_records[ARRAYS].clear()  # `update` alone keeps the weights, until they are in the sum
            mean.add(site, update)
            used.append(site)
            del reply, update
        return (self.server_step(mean.result()) if used else {}), used
