"""A method of federated learning: a frozen dataclass of its options, with a site half and a server half.

Both halves are functions of their arguments, independent of Flower, Ray and where they run. At a site `pull` defines
what training adds to its gradients, and `keep` what the site stores until its next round. At the server `step`
computes the next weights from the mean of the updates; its state is in a `Memory`, which is in every checkpoint, and
`more` is what it sends beside the weights.

    @dataclass(frozen=True)
    class HalfWay(Method):
        "The server goes halfway to the mean."

        def step(self, given, mean, memory):
            return {name: (given.before[name] + mean[name]) / np.float32(2) for name in mean}
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from amos_fl.errors import AmosError
from amos_fl.training.schedule import displacement
from amos_fl.training.settings import TrainingSettings

if TYPE_CHECKING:  # it imports PyTorch, which a list of the methods does not need
    from amos_fl.training.pull import Pull

Arrays = dict[str, np.ndarray]
"""Trained parameters by name, without running statistics of normalisation layers, which are pooled by every method."""


@dataclass(frozen=True)
class Work:
    """The work of every site in a round: the steps first_step .. first_step + steps - 1 of `total_steps`."""

    number: int
    first_step: int
    steps: int
    total_steps: int
    training: TrainingSettings

    @property
    def displacement(self) -> float:
        """By how much parameters move for a constant gradient of 1: see `amos_fl.training.schedule.displacement`."""
        return displacement(self.training, self.first_step, self.steps, self.total_steps)


@dataclass(frozen=True)
class SiteRound:
    """A round as the site half sees it.

    `sent` is what came beside the weights, by the name in `Method.sends`; `kept` what `keep` returned after the site's
    last round, empty before the first.
    """

    work: Work
    sent: Mapping[str, Arrays] = field(default_factory=dict)
    kept: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class ServerRound:
    """A round as the server half sees it. `before` are the weights sent to the sites, not to be written to.

    `share` is the weight of the sites whose updates are in the mean, as a fraction of all training sites.
    """

    work: Work
    before: Mapping[str, np.ndarray]
    share: float = 1.0


@dataclass
class Memory:
    """A method's state between rounds at the server: arrays, and JSON values."""

    arrays: Arrays = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def array(self, kind: str, name: str, like: np.ndarray) -> np.ndarray:
        """The array stored as `kind` for the parameter `name`, to be changed in place; initially zeros.

        Raises:
            AmosError: it belongs to another network than the parameter `like`.
        """
        kept = self.arrays.setdefault(f"{kind}/{name}", np.zeros_like(like))
        if kept.shape != like.shape or kept.dtype != like.dtype:
            raise AmosError(f"the method's state of {name} belongs to another network")
        return kept


@dataclass(frozen=True)
class Method:
    """A federated method. The class's docstring says what it does; `paper` is its source.

    `sends` names what the server sends beside the weights. `site_models` and `server_models` are the state kept between
    rounds by a site and the server, in multiples of the network's parameters. If `needs_reset`, each round must begin
    without the momentum of the one before, because changes due to older gradients would count as the round's own.
    """

    paper: ClassVar[str] = ""
    sends: ClassVar[tuple[str, ...]] = ()
    site_models: ClassVar[int] = 0
    server_models: ClassVar[int] = 0
    needs_reset: ClassVar[bool] = False

    def pull(self, given: SiteRound) -> "Pull":
        """The terms to add to the gradients at a site."""
        from amos_fl.training.pull import Pull

        return Pull()

    def keep(self, given: SiteRound, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> Arrays:
        """The arrays that a site stores until its next round, from the weights it received and those it trained."""
        return {}

    def more(self, before: Mapping[str, np.ndarray], memory: Memory) -> dict[str, Arrays]:
        """The arrays to send beside the weights, by the names in `sends`."""
        return {}

    def step(self, given: ServerRound, mean: Arrays, memory: Memory) -> Arrays:
        """The next weights, from the mean of the updates; `mean` may be changed and returned."""
        return mean


def check_range(name: str, value: float, low: float, high: float = np.inf) -> None:
    """Check that a method's option lies in [low, high).

    Raises:
        AmosError: it does not.
    """
    if not low <= value < high:
        bound = f"{low:g} or more" if high == np.inf else f"{low:g} or more and less than {high:g}"
        raise AmosError(f"strategy_options.{name} is {value}; it must be {bound}")
