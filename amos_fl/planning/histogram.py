"""Histograms of whole numbers: they add up over sites exactly, with bounds on the effect of withheld counts."""

import math
from bisect import bisect_right
from collections.abc import Iterable
from fractions import Fraction
from itertools import accumulate
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator


class Histogram(BaseModel):
    """How often each whole number occurs. `withheld` is the number of values whose bins were withheld.

    >>> Histogram.of([3, 1, 3]).counts
    {1: 1, 3: 2}
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    counts: dict[int, int] = Field(default_factory=dict)
    withheld: int = Field(default=0, ge=0)

    @field_validator("counts")
    @classmethod
    def _in_order(cls, counts: dict[int, int]) -> dict[int, int]:
        if any(count < 1 for count in counts.values()):
            raise ValueError("every reported bin must hold at least one value")
        return dict(sorted(counts.items()))

    @classmethod
    def of(cls, values: Iterable[int] | np.ndarray) -> "Histogram":
        """The histogram of whole numbers."""
        bins, counts = np.unique(
            np.asarray(list(values) if not isinstance(values, np.ndarray) else values), return_counts=True
        )
        return cls(counts={int(value): int(count) for value, count in zip(bins, counts, strict=True)})

    @property
    def told(self) -> int:
        """The number of values in the reported bins."""
        return sum(self.counts.values())

    @property
    def total(self) -> int:
        """The number of all values, including those withheld."""
        return self.told + self.withheld

    def withholding(self, below: int) -> "Histogram":
        """The histogram without bins of fewer than `below` values; the number of values withheld is kept.

        >>> Histogram.of([1, 1, 1, 7]).withholding(2)
        Histogram(counts={1: 3}, withheld=1)
        """
        kept = {value: count for value, count in self.counts.items() if count >= below}
        return Histogram(counts=kept, withheld=self.total - sum(kept.values()))

    def quantile(self, share: float) -> float:
        """The value below which `share` of the reported values lie, interpolated linearly as in `numpy.percentile`.

        >>> Histogram.of([10, 20, 40]).quantile(0.75)
        30.0

        Raises:
            ValueError: no value was reported.
        """
        position = share * (self.told - 1)
        low, high = self._of_rank(math.floor(position)), self._of_rank(math.ceil(position))
        return low + (high - low) * (position - math.floor(position))

    def quantile_bounds(self, share: float) -> tuple[float, float]:
        """Bounds on the quantile of all values, wherever the withheld ones are.

        Of n values with w withheld, the one of rank r lies between the reported ones of ranks r - w and r, because
        between 0 and w withheld values lie before it. If there is no such rank, that side is unbounded.

        >>> Histogram(counts={1: 10, 5: 10}, withheld=2).quantile_bounds(0.5)
        (1.0, 5.0)
        """
        position = share * (self.total - 1)
        low, high = math.floor(position) - self.withheld, math.ceil(position)
        return (
            float(self._of_rank(low)) if low >= 0 else -math.inf,
            float(self._of_rank(high)) if high < self.told else math.inf,
        )

    def mean(self) -> float:
        """The mean of the reported values.

        Raises:
            ValueError: no value was reported.
        """
        return float(self._mean())

    def sd(self) -> float:
        """The standard deviation of the reported values (of the population, not a sample estimate).

        Raises:
            ValueError: no value was reported.
        """
        squares = sum(value * value * count for value, count in self.counts.items())
        return math.sqrt(Fraction(squares, self._some()) - self._mean() ** 2)

    def _mean(self) -> Fraction:
        # In whole numbers, so that the order in which sites are added does not change a single bit.
        return Fraction(sum(value * count for value, count in self.counts.items()), self._some())

    def _some(self) -> int:
        if not self.counts:
            raise ValueError("no value was reported")
        return self.told

    def _of_rank(self, rank: int) -> int:
        """The reported value of a rank, counted from 0 at the smallest."""
        self._some()
        return list(self.counts)[bisect_right(list(accumulate(self.counts.values())), rank)]


def added(histograms: Iterable[Histogram]) -> Histogram:
    """The histogram of all their values together.

    >>> added([Histogram.of([1, 2]), Histogram.of([2])]) == Histogram.of([1, 2, 2])
    True
    """
    counts: dict[int, int] = {}
    withheld = 0
    for histogram in histograms:
        withheld += histogram.withheld
        for value, count in histogram.counts.items():
            counts[value] = counts.get(value, 0) + count
    return Histogram(counts=counts, withheld=withheld)


def mean_bound(histogram: Histogram, low: int, high: int) -> float:
    """How far the mean of all values can be from that of the reported ones, if all lie between `low` and `high`.

    Withheld values are a share w/n of all and lie at most `high - low` from the reported ones' mean.
    """
    return (high - low) * histogram.withheld / histogram.total
