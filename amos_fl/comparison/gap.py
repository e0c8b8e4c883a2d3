"""The gap taken apart: what federation costs against pooling, gives over training alone, loses on unseen scanners."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from amos_fl.comparison.comparison import LEAST_SEEDS, Arm, Gap, Scope
from amos_fl.comparison.means import Means, minus
from amos_fl.comparison.statistics import Estimate
from amos_fl.metrics.catalogue import MetricName, title_of
from amos_fl.wording import counted


@dataclass(frozen=True)
class _Words:
    """The words for a positive gap, a negative gap, and one that is not shown."""

    positive: str
    negative: str
    neither: str


_WORDS: dict[str, _Words] = {
    "pooled - federated": _Words(
        "that is what federation costs there",
        "federation costs nothing there",
        "no cost of federation is shown",
    ),
    "federated - local": _Words(
        "that is what federation gives there over training alone",
        "training alone does better there",
        "neither a gain nor a loss from federation is shown",
    ),
    "pooled - local": _Words(
        "that is all there is to win over training alone",
        "training alone does better there",
        "nothing to win over training alone is shown",
    ),
    "seen - unseen": _Words(
        "that is what it loses on scanners that it has not seen",
        "unseen scanners are no harder for it",
        "no loss on unseen scanners is shown",
    ),
    "trained on - left out": _Words(
        "that is what it is worth to a scanner to have taken part",
        "a scanner that was left out is scored no worse",
        "no benefit of having taken part is shown",
    ),
    "fine-tuned - federated": _Words(
        "training the federated model further at each site gains that",
        "training the federated model further at each site loses that",
        "neither a gain nor a loss from training further is shown",
    ),
}


def gaps_of(found: Means, arms: Sequence[Arm], reference: Arm) -> list[Gap]:
    """All gaps between these arms, by kind, the reference's first within each."""
    main = [arm for arm in arms if arm.main]
    federated = sorted((arm for arm in main if arm.kind == "federated"), key=lambda arm: arm is not reference)
    gaps: list[Gap] = []
    for fed in federated:
        for kind, minuend, subtrahend in _pairs(fed, main):
            gaps += _on_the_same_cases(found, kind, minuend, subtrahend)
    for pooled in main:
        for local in main:
            if pooled.kind == "centralized" and local.kind == "local":
                gaps += _on_the_same_cases(found, "pooled - local", pooled, local)
    for arm in main:
        if not arm.view:
            gaps += _seen_minus_unseen(found, arm)
    return sorted(gaps, key=lambda gap: list(_WORDS).index(gap.kind))


def _pairs(fed: Arm, main: Sequence[Arm]) -> Iterator[tuple[str, Arm, Arm]]:
    for arm in main:
        if arm.kind == "centralized":
            yield "pooled - federated", arm, fed
        elif arm.kind == "local":
            yield "federated - local", fed, arm
        elif arm.kind == "leave-one-out":
            yield "trained on - left out", fed, arm
        elif arm.kind == "finetune":
            yield "fine-tuned - federated", arm, fed


def _on_the_same_cases(found: Means, kind: str, minuend: Arm, subtrahend: Arm) -> list[Gap]:
    gaps = []
    for scope in found.scopes:
        for metric in found.metrics:
            if kind == "trained on - left out" and not scope.seen:
                continue
            estimate = gap_between(found, minuend, scope, subtrahend, scope, metric)
            if estimate is not None:
                sentence = _sentence(kind, minuend, subtrahend, scope, metric, estimate, scope.withheld)
                gaps.append(
                    Gap(kind, minuend.name, subtrahend.name, scope.name, scope.name, metric, estimate, sentence)
                )
    return gaps


def _seen_minus_unseen(found: Means, arm: Arm) -> list[Gap]:
    """One arm on seen and on unseen scanners of a modality: different patients, so the draws are independent."""
    gaps = []
    groups = [scope for scope in found.scopes if scope.kind == "group"]
    for seen in groups:
        for unseen in groups:
            if not seen.seen or unseen.seen or seen.modality != unseen.modality:
                continue
            for metric in found.metrics:
                estimate = gap_between(found, arm, seen, arm, unseen, metric)
                if estimate is not None:
                    withheld = seen.withheld or unseen.withheld
                    sentence = _sentence("seen - unseen", arm, arm, seen, metric, estimate, withheld)
                    gaps.append(
                        Gap("seen - unseen", arm.name, arm.name, seen.name, unseen.name, metric, estimate, sentence)
                    )
    return gaps


def gap_between(found: Means, a: Arm, a_scope: Scope, b: Arm, b_scope: Scope, metric: MetricName) -> Estimate | None:
    """The mean over organs of one arm minus that of another, with its interval; None if one has no score.

    In one scope both use the same draws of cases, in two scopes independent ones.
    """
    one, other = found.mean(a.name, a_scope.name, metric), found.mean(b.name, b_scope.name, metric)
    if one is None or other is None or math.isnan(one.values[-1]) or math.isnan(other.values[-1]):
        return None
    return minus(one, other, min(one, other, key=lambda mean: mean.patients[-1] - mean.strata))


def evidence(estimate: Estimate, withheld: bool = False) -> str:
    """The interval and the number of cases, in brackets; with `withheld`, a site withholds the scores of its cases.

    >>> evidence(Estimate(0.031, 0.012, 0.05, 27)), evidence(Estimate(0.031, math.nan, math.nan, 4))
    ('(95 % interval 0.012 to 0.050; 27 cases)', '(4 cases, too few for an interval)')
    """
    if not estimate.has_interval:
        cases = counted(estimate.cases, "case")
        return f"({cases}; no interval without scores per case)" if withheld else f"({cases}, too few for an interval)"
    return f"(95 % interval {estimate.low:.3f} to {estimate.high:.3f}; {estimate.cases} cases)"


def where(scope: Scope) -> str:
    """A scope in a sentence.

    >>> where(Scope("seen sites", "sites", True, "", ("A", "B"), 9)), where(Scope("A", "site", True, "CT", ("A",), 4))
    ('the seen sites (with equal weight)', 'site A')
    """
    if scope.kind == "sites":
        return f"the {scope.name} (with equal weight)"
    return f"site {scope.name}" if scope.kind == "site" else f"{scope.name} scanners"


def size(value: float, metric: MetricName) -> str:
    """How much more or less, in words to be followed by "than".

    >>> size(-0.0312, "dsc"), size(0.0001, "nsd")
    ('0.031 DSC lower', 'hardly more or less (+0.0001 NSD)')
    """
    if abs(value) < 0.0005:
        return f"hardly more or less ({value:+.4f} {title_of(metric)})"
    return f"{abs(value):.3f} {title_of(metric)} {'higher' if value > 0 else 'lower'}"


def _sentence(
    kind: str, a: Arm, b: Arm, scope: Scope, metric: MetricName, estimate: Estimate, withheld: bool = False
) -> str:
    words, much = _WORDS[kind], size(estimate.value, metric)
    if kind == "seen - unseen":
        said = f"On seen {scope.modality} scanners {a.name} scores {much} than on unseen ones"
    else:
        said = f"On {where(scope)} {_subject(a)} scores {much} than {_subject(b)}"
    said = f"{said} {evidence(estimate, withheld)}"
    if not estimate.has_interval:
        return f"{said}."
    meaning = words.neither
    if estimate.excludes_zero:
        meaning = words.positive if estimate.value > 0 else words.negative
    few = min(len(a.seeds), len(b.seeds)) < LEAST_SEEDS
    return f"{said}: {'in these runs ' if few else ''}{meaning}."


def _subject(arm: Arm) -> str:
    """The subject of a sentence about an arm, if its name alone is not clear."""
    subjects = {
        "at home": {"local": "the site's own local model", "finetune": "the model trained further at the site"},
        "elsewhere": {"local": "a local model of another site", "finetune": "a model trained further at another site"},
        "left out": {"leave-one-out": "the federation without it"},
    }
    return subjects.get(arm.view, {}).get(arm.kind, arm.name)
