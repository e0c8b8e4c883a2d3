"""A method of federated learning: a frozen dataclass of its options, with a site half and a server half.

Both halves are functions of what they are given, and know neither Flower nor Ray nor where they run. At a site `pull`
says what the training adds to its gradients, and `keep` what the site remembers until its next round. At the server
`counts` says how much each site counts, `admit` processes each update before it enters the mean, and `step` makes the
next weights from the mean; what it remembers is in a `Memory`, which is in every checkpoint, and `more` is what it
sends besides the weights. A method that must see the updates side by side has `combine` instead of the mean. A method
is personal if its sites end with models of their own: `private` names the arrays that each keeps for itself, and with
a `second_model` each site trains a whole network of its own besides the shared one, with `personal_pull`. What a method
sees are the trained parameters by name, without the running statistics of normalisation layers, which the server pools
whatever the method.

    @dataclass(frozen=True)
    class HalfWay(Method):
        "The server goes halfway to the mean."

        def step(self, given, mean, memory):
            return {name: (given.before[name] + mean[name]) / np.float32(2) for name in mean}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from amos_fl.errors import AmosError
from amos_fl.training.schedule import displacement
from amos_fl.training.settings import TrainingSettings
from amos_fl.weights import Arrays, blocks

if TYPE_CHECKING:  # it imports PyTorch, which a list of the methods does not need
    from amos_fl.methods.updates import Updates
    from amos_fl.networks.parts import Parts
    from amos_fl.training.pull import Pull

SHARES = "shares"
"""The name of the sites' shares in a server's memory."""
LEAST_SHARE = 0.01
"""The least share of a site, as a part of an equal one, so that a round in which only such sites answer has a mean."""


@dataclass(frozen=True)
class Work:
    """What a site does in a round: the steps first_step .. first_step + steps - 1 of `total_steps`."""

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

    `sent` is what came besides the weights, by the name in `Method.sends`; `kept` what `keep` returned after the site's
    last round, empty before the first.
    """

    work: Work
    sent: Mapping[str, Arrays] = field(default_factory=dict)
    kept: Arrays = field(default_factory=dict)


VAL_BEFORE, VAL_AFTER = "val_loss_before", "val_loss_after"
"""What a site can report: its loss on fixed patches of its validation cases before and after it trains."""


@dataclass(frozen=True)
class Done:
    """What a site says besides its update: the work that it actually did, and its mean training loss (NaN if none).

    `reports` are the numbers in `Method.reports`; empty if a site has no validation cases or does not share their
    scores.
    """

    work: Work
    loss: float
    reports: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerRound:
    """A round as the server half sees it. `before` are the weights sent to the sites, not to be written to.

    `work` is the most that a site is asked for, `done` what each site in the weights did. `shares` is how much these
    sites count, adding up to 1, and `share` how much they count together, of 1 for all training sites.
    """

    work: Work
    before: Mapping[str, np.ndarray]
    share: float = 1.0
    shares: Mapping[str, float] = field(default_factory=dict)
    done: Mapping[str, Done] = field(default_factory=dict)


@dataclass
class Memory:
    """A method's state between rounds at the server: arrays, and JSON values."""

    arrays: Arrays = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def array(self, kind: str, name: str, like: np.ndarray) -> np.ndarray:
        """The array stored as `kind` for the parameter `name`, to be changed in place; initially zeros.

        Raises:
            AmosError: it belongs to a network other than that of the parameter `like`.
        """
        kept = self.arrays.setdefault(f"{kind}/{name}", np.zeros_like(like))
        if kept.shape != like.shape or kept.dtype != like.dtype:
            raise AmosError(f"the method's state of {name} belongs to another network")
        return kept


@dataclass(frozen=True)
class Method:
    """A federated method. The class's docstring says what it does; `paper` is its source.

    `sends` names what the server sends besides the weights, `reports` what a site sends besides its update
    (`VAL_BEFORE`, `VAL_AFTER`). `site_models` and `server_models` say how many times the network's parameters a site
    and the server remember between rounds. With `needs_reset`, each round must begin without the previous momentum:
    a change due to older gradients would be taken for the round's own.
    With a `second_model` each site trains, after the shared network, one of its own for as many steps.
    """

    paper: ClassVar[str] = ""
    sends: ClassVar[tuple[str, ...]] = ()
    reports: ClassVar[tuple[str, ...]] = ()
    site_models: ClassVar[int] = 0
    server_models: ClassVar[int] = 0
    keeps_values: ClassVar[bool] = False
    needs_reset: ClassVar[bool] = False
    second_model: ClassVar[bool] = False

    @property
    def has_private(self) -> bool:
        """Whether the method has a `private`, so that each site keeps arrays of its own."""
        return type(self).private is not Method.private

    @property
    def personal(self) -> bool:
        """Whether sites end with models of their own, which are scored at home besides the shared one."""
        return self.second_model or self.has_private

    @property
    def side_by_side(self) -> bool:
        """Whether the method has a `combine`, so that updates are kept on disk until all have arrived."""
        return type(self).combine is not Method.combine

    def check_sites(self, sites: Sequence[str]) -> None:
        """Check that the method can work with these training sites.

        Raises:
            AmosError: it needs more of them.
        """

    def private(self, parts: "Parts") -> frozenset[str]:
        """The arrays that each site trains and keeps for itself; shared arrays of these names do not overwrite them."""
        return frozenset()

    def withheld(self, parts: "Parts") -> frozenset[str]:
        """Those of the private arrays that no site sends; the shared network keeps its initial ones."""
        return frozenset()

    def pull(self, given: SiteRound) -> "Pull":
        """The terms to add to the gradients at a site."""
        from amos_fl.training.pull import Pull

        return Pull()

    def personal_pull(self, received: Mapping[str, np.ndarray]) -> "Pull":
        """The terms to add to the gradients of a site's second model, by the trained weights that it received."""
        from amos_fl.training.pull import Pull

        return Pull()

    def keep(self, given: SiteRound, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> Arrays:
        """The arrays that a site stores until its next round, from the weights it received and those it trained."""
        return {}

    def more(self, before: Mapping[str, np.ndarray], memory: Memory) -> dict[str, Arrays]:
        """The arrays to send besides the weights, by the names in `sends`."""
        return {}

    def counts(self, weights: Mapping[str, float], memory: Memory) -> Mapping[str, float]:
        """How much each training site's update counts relative to the others', from the sites' agreed weights."""
        return weights

    def admit(self, before: Mapping[str, np.ndarray], update: Arrays, done: Done, work: Work) -> Arrays:
        """A site's update as it enters the mean; `update` may be changed and returned.

        `work` is the most that a site is asked for, and `done` what this one did.
        """
        return update

    def combine(self, given: ServerRound, updates: "Updates") -> tuple[Arrays, Sequence[str]]:
        """The next weights from the updates, including running statistics, and the sites that they contain."""
        raise NotImplementedError

    def step(self, given: ServerRound, mean: Arrays, memory: Memory) -> Arrays:
        """The next weights, from the mean of the updates; `mean` may be changed and returned."""
        return mean


def kept_shares(weights: Mapping[str, float], memory: Memory) -> dict[str, float]:
    """Each site's share in a server's memory, which begins as that of its weight."""
    shares, total = memory.values.setdefault(SHARES, {}), sum(weights.values())
    return {site: shares.setdefault(site, weight / total) for site, weight in weights.items()}


def check_range(name: str, value: float, low: float, high: float = np.inf) -> None:
    """Check that a method's option lies in [low, high).

    Raises:
        AmosError: it does not.
    """
    if not low <= value < high:
        bound = f"{low:g} or more" if high == np.inf else f"{low:g} or more and less than {high:g}"
        raise AmosError(f"strategy_options.{name} is {value}; it must be {bound}")


def part_of_the_way(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], part: float) -> Arrays:
    """The weights at `part` of the way from `before` to `after`; beyond `after` if it is above 1."""
    factor, found = np.float32(part), Arrays()
    for name, array in after.items():
        found[name] = np.empty_like(array)
        for out, new, old in blocks(found[name], array, before[name]):
            out[...] = old + factor * (new - old)
    return found
