"""What is measured: one table, from which scores, their sums, tables, comparisons and pages take their metrics.

A metric is a field of that name in `OrganScore` (of one organ in one case), in `ScoreRow` (its mean) and in the two
lists of what may leave a site (`amos_fl.runs.evaluation`); its sums are fields of `OrganSums`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool
from numpy import ndarray

from amos_fl.metrics.hausdorff import hd95_of_crops
from amos_fl.volumes.plan import Spacing

MetricName = str
"""A key of `METRICS`."""


@dataclass(frozen=True)
class Metric:
    """A metric by name.

    DSC and NSD are 0 where only one of the maps has the organ. Any other is of the cases in which both have it, there
    NaN or a number from 0 on, given by `measure` of the two masks, cropped to their joint box, and the spacing in mm;
    its sum and the number of its cases are kept as `<stem>_sum` and `<stem>_counted`.

    `title` is its name on pages and `about` says there what it is, where `{tolerance_mm}` stands for the tolerance.
    `high` is the most that it can be. Those `in_runs` are measured at sites, and compared; all are by `amos-fl score`.
    """

    title: str
    about: str
    measure: Callable[[Bool[ndarray, "x y z"], Bool[ndarray, "x y z"], Spacing], float] | None = None
    high: float = 1.0
    higher_is_better: bool = True
    in_runs: bool = True


METRICS: dict[MetricName, Metric] = {
    "dsc": Metric("DSC", "Dice similarity coefficient"),
    "nsd": Metric("NSD", "normalised surface Dice with a tolerance of {tolerance_mm} mm"),
    "hd95_mm": Metric(
        "HD95",
        "Hausdorff distance at 95 %, in mm",
        hd95_of_crops,
        high=math.inf,
        higher_is_better=False,
        in_runs=False,  # it takes as long as DSC and NSD together
    ),
}
IN_RUNS: tuple[MetricName, ...] = tuple(name for name, metric in METRICS.items() if metric.in_runs)
FURTHER: tuple[MetricName, ...] = tuple(name for name, metric in METRICS.items() if metric.measure)
"""Those of the cases in which both maps have the organ."""


def title_of(metric: MetricName) -> str:
    """The name of a metric as pages and tables print it.

    >>> title_of("dsc"), title_of("hd95_mm")
    ('DSC', 'HD95')
    """
    return METRICS[metric].title


def stem_of(metric: MetricName) -> str:
    """What the fields of its sums begin with: its name without the unit.

    >>> stem_of("dsc"), stem_of("hd95_mm")
    ('dsc', 'hd95')
    """
    return metric.removesuffix("_mm").removesuffix("_ml")
