"""What a method of federated learning is: a frozen dataclass of its parameters, with a site half and a server half.

Both halves are functions of what they are given, and know neither Flower nor Ray nor where they run: `pull` says what a
site's training adds to its gradients, `step` what the server makes of the mean of the updates. What `step` has to
remember from round to round is in a `Memory`, which is in every checkpoint.

    from dataclasses import dataclass
    from amos_fl.methods.base import Method, ServerRound, Memory

    @dataclass(frozen=True)
    class Half(Method):
        "The server goes half of the way to the mean."

        def step(self, given, mean, memory):
            return {name: (given.before[name] + mean[name]) / 2 for name in mean}
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from amos_fl.errors import AmosError

if TYPE_CHECKING:  # with it comes PyTorch, which a list of the methods does without
    from amos_fl.training.pull import Pull

Arrays = dict[str, np.ndarray]
"""Trained parameters by name. Running statistics of normalisation layers are pooled, and no method's business."""


@dataclass(frozen=True)
class ServerRound:
    """A round as the server half sees it. `before` are the weights that the sites were sent, not to be written to."""

    number: int
    before: Mapping[str, np.ndarray]


@dataclass
class Memory:
    """What a method remembers between rounds at the server: arrays, and values that JSON can hold."""

    arrays: Arrays = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def array(self, kind: str, name: str, like: np.ndarray) -> np.ndarray:
        """What is kept as `kind` beside the parameter `name`, to be changed in place; zeros at first.

        Raises:
            AmosError: it is of another network than the parameter `like`.
        """
        kept = self.arrays.setdefault(f"{kind}/{name}", np.zeros_like(like))
        if kept.shape != like.shape or kept.dtype != like.dtype:
            raise AmosError(f"what the method has kept of {name} is of another network")
        return kept


@dataclass(frozen=True)
class Method:
    """One way to federate. The class's docstring begins with what it does; `paper` is where it comes from."""

    paper: ClassVar[str] = ""
    server_models: ClassVar[int] = 0
    """How many times the network's parameters the server remembers between rounds."""

    def pull(self) -> "Pull":
        """What is added to the gradients at a site."""
        from amos_fl.training.pull import Pull

        return Pull()

    def step(self, given: ServerRound, mean: Arrays, memory: Memory) -> Arrays:
        """The next weights, from the mean of the updates; `mean` may be changed and given back."""
        return mean


def check_range(name: str, value: float, low: float, high: float = np.inf) -> None:
    """Whether a parameter of a method lies in [low, high), in the words of the setting.

    Raises:
        AmosError: it does not.
    """
    if not low <= value < high:
        bound = f"{low:g} or more" if high == np.inf else f"{low:g} or more and less than {high:g}"
        raise AmosError(f"strategy_options.{name} is {value}; it must be {bound}")
