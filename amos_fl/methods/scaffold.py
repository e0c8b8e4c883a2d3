"""SCAFFOLD (Karimireddy et al., ICML 2020, Algorithm 1, option II), without a second upload.

With option II a site's control variate becomes c_i+ = c_i - c + (x - y_i) / W, where W is how far its steps move the
parameters against a gradient of 1 (in the paper, whose sites have no momentum, the steps times the rate). So
c_i+ - c_i does not depend on c_i, and the server can compute its mean from the mean of the updates alone: c+ = c + P
((x - mean) / W - c), where P is the share of the sites that took part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from amos_fl.methods.base import Arrays, Memory, Method, ServerRound, SiteRound
from amos_fl.weights import blocks

if TYPE_CHECKING:
    from amos_fl.training.pull import Pull

CONTROL = "control"


@dataclass(frozen=True)
class Scaffold(Method):
    """Control variates: each site corrects its gradients for their difference from those of all sites together."""

    paper: ClassVar[str] = "Karimireddy et al., ICML 2020"
    sends: ClassVar[tuple[str, ...]] = (CONTROL,)
    site_models: ClassVar[int] = 1
    server_models: ClassVar[int] = 1
    needs_reset: ClassVar[bool] = True

    def pull(self, given: SiteRound) -> "Pull":
        from amos_fl.training.pull import Pull

        everyone = given.sent[CONTROL]
        return Pull(drift={name: c - given.kept[name] if given.kept else c.copy() for name, c in everyone.items()})

    def keep(self, given: SiteRound, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> Arrays:
        moved = np.float32(given.work.displacement)
        if not moved:
            return dict(given.kept)
        found = {}
        for name, c in given.sent[CONTROL].items():
            found[name] = (before[name] - after[name]) / moved
            found[name] -= c
            if given.kept:
                found[name] += given.kept[name]
        return found

    def more(self, before: Mapping[str, np.ndarray], memory: Memory) -> dict[str, Arrays]:
        return {CONTROL: {name: memory.array(CONTROL, name, array) for name, array in before.items()}}

    def step(self, given: ServerRound, mean: Arrays, memory: Memory) -> Arrays:
        moved, share = np.float32(given.work.displacement), np.float32(given.share)
        for name, after in mean.items() if moved else ():
            kept = memory.array(CONTROL, name, after)
            for new, old, c in blocks(after, given.before[name], kept):
                c += share * ((old - new) / moved - c)
        return mean
