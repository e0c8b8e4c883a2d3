"""How an expected DSC and the true one agree: correlations with intervals, and the failures that are flagged."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from amos_fl.randomness import generator
from amos_fl.runs.calibration import FAILURE, FALSE_ALARMS, Agreement, Interval
from amos_fl.runs.expected import Expected

LEAST_CORRELATED_CASES = 6
"""With fewer cases a correlation has no interval."""
RESAMPLES = 1000
Numbers = Float[np.ndarray, " number"]


def pearson(one: Numbers, other: Numbers) -> float:
    """Pearson's correlation; NaN if it is not defined."""
    one, other = one - one.mean(), other - other.mean()
    scale = math.sqrt(float(np.square(one).sum()) * float(np.square(other).sum()))
    return float((one * other).sum()) / scale if scale > 0 else math.nan


def spearman(one: Numbers, other: Numbers) -> float:
    """Spearman's rank correlation, ties by their mean rank; NaN if it is not defined."""
    return pearson(stats.rankdata(one), stats.rankdata(other))


def agreement(found: Sequence[Expected], flag_below: float) -> Agreement:
    """How expected and true DSC agree; an organ is flagged if the expected one is below `flag_below`."""
    by_case: dict[str, list[Expected]] = {}
    for one in found:
        by_case.setdefault(one.case, []).append(one)
    organs = [_columns(members) for members in by_case.values()]
    cases = [members.mean(axis=0, keepdims=True) for members in organs]
    failures, sound = ([one for one in found if (one.dsc < FAILURE) == failed] for failed in (True, False))
    off = [one.expected_dsc - one.dsc for one in found]
    return Agreement(
        cases=len(by_case),
        organs=len(found),
        pearson=_interval(organs, pearson),
        spearman=_interval(organs, spearman),
        pearson_of_cases=_interval(cases, pearson),
        error=math.fsum(map(abs, off)) / max(1, len(off)),
        bias=math.fsum(off) / max(1, len(off)),
        failures=len(failures),
        failures_flagged=sum(one.expected_dsc < flag_below for one in failures),
        sound=len(sound),
        sound_flagged=sum(one.expected_dsc < flag_below for one in sound),
    )


def flag_below(found: Sequence[Expected]) -> float:
    """The expected DSC below which one in ten of the organs that did not fail lie; 0 if all failed."""
    sound = sorted(one.expected_dsc for one in found if one.dsc >= FAILURE)
    return sound[math.floor(FALSE_ALARMS * len(sound))] if sound else 0.0


def _columns(members: Sequence[Expected]) -> Float[np.ndarray, "organ 2"]:
    return np.array([(one.expected_dsc, one.dsc) for one in members])


def _interval(
    cases: Sequence[Float[np.ndarray, "organ 2"]], measure: Callable[[Numbers, Numbers], float]
) -> Interval | None:
    """A measure of all organs, with the percentiles of its bootstrap over cases: the organs of a case stay together."""
    if not cases:
        return None
    value = measure(*np.concatenate(cases).T)
    if math.isnan(value):
        return None
    if len(cases) < LEAST_CORRELATED_CASES:
        return Interval(value=value)
    random = generator(0, "bootstrap of expected DSC", len(cases))
    draws = [
        measure(*np.concatenate([cases[i] for i in random.integers(0, len(cases), len(cases))]).T)
        for _ in range(RESAMPLES)
    ]
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return Interval(value=value, low=float(low), high=float(high))
