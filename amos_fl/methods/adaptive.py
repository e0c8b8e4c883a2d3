"""FedAdam, FedYogi and FedAdagrad: adaptive optimisers at the server (Reddi et al., ICLR 2021, Algorithm 2).

The mean's difference from the round's weights, d = mean - x, serves as the gradient: m <- beta_1 m + (1 - beta_1) d,
then v as the optimiser has it, then x <- x + eta m / (sqrt(v) + tau). Everything is computed in single precision by
sums, products, quotients and square roots, which every processor rounds alike.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amos_fl.methods.base import Arrays, Memory, Method, ServerRound, check_range
from amos_fl.weights import blocks


@dataclass(frozen=True)
class Adaptive(Method):
    """The common part of the three; `eta` is the server's learning rate, `tau` keeps its steps bounded."""

    paper: ClassVar[str] = "Reddi et al., ICLR 2021"
    server_models: ClassVar[int] = 2
    eta: float = 0.01
    beta_1: float = 0.9
    tau: float = 1e-3

    def __post_init__(self) -> None:
        check_range("eta", self.eta, 0)
        check_range("beta_1", self.beta_1, 0, 1)
        check_range("tau", self.tau, float(np.finfo(np.float32).tiny))

    @abstractmethod
    def second_moment(self, v: np.ndarray, squared: np.ndarray) -> None:
        """Update `v` in place with d squared."""

    def rate(self, number: int) -> float:
        """The learning rate of round `number`."""
        return self.eta

    def step(self, given: ServerRound, mean: Arrays, memory: Memory) -> Arrays:
        beta, rest, tau = np.float32(self.beta_1), np.float32(1 - self.beta_1), np.float32(self.tau)
        rate = np.float32(self.rate(given.work.number))
        for name, after in mean.items():
            kept = memory.array("m", name, after), memory.array("v", name, after)
            for new, old, m, v in blocks(after, given.before[name], *kept):
                d = new - old
                m *= beta
                m += rest * d
                self.second_moment(v, d * d)
                new[...] = old + rate * m / (np.sqrt(v) + tau)
        return mean


@dataclass(frozen=True)
class FedAdagrad(Adaptive):
    """Adagrad at the server: v <- v + d^2, so that its steps only shrink."""

    beta_1: float = 0.0
    eta: float = 0.1

    def second_moment(self, v: np.ndarray, squared: np.ndarray) -> None:
        v += squared


@dataclass(frozen=True)
class _Forgetting(Adaptive):
    beta_2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("beta_2", self.beta_2, 0, 1)


@dataclass(frozen=True)
class FedAdam(_Forgetting):
    """Adam at the server: v <- beta_2 v + (1 - beta_2) d^2; its learning rate corrects for m and v that begin at 0."""

    def second_moment(self, v: np.ndarray, squared: np.ndarray) -> None:
        v *= np.float32(self.beta_2)
        v += np.float32(1 - self.beta_2) * squared

    def rate(self, number: int) -> float:
        """As in Adam (Kingma and Ba, ICLR 2015, section 2), with Flower's counting, which is one round ahead."""
        left_1, left_2 = 1.0, 1.0
        for _ in range(number + 1):  # only products, because powers differ between processors
            left_1, left_2 = left_1 * self.beta_1, left_2 * self.beta_2
        return self.eta * float(np.sqrt(1 - left_2)) / (1 - left_1)


@dataclass(frozen=True)
class FedYogi(_Forgetting):
    """Yogi at the server: v <- v - (1 - beta_2) d^2 sign(v - d^2), which lets v fall no faster than it may rise."""

    def second_moment(self, v: np.ndarray, squared: np.ndarray) -> None:
        v -= np.float32(1 - self.beta_2) * squared * np.sign(v - squared)
