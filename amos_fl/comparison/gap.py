"""The gap taken apart: what federation costs against pooling, gives over training alone, loses on unseen scanners."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from amos_fl.comparison.arms import compared_settings, settings_but_seed, settings_of_start
from amos_fl.comparison.comparison import LEAST_SEEDS, WITHOUT_EFFECT, Arm, Gap, Scope
from amos_fl.comparison.means import Means, minus
from amos_fl.comparison.statistics import Estimate
from amos_fl.metrics.catalogue import MetricName, title_of
from amos_fl.runs.config import ALONE, has_strategy
from amos_fl.runs.record import RunRecord
from amos_fl.wording import counted


@dataclass(frozen=True)
class _Words:
    """The words for a positive gap, a negative gap, and one that is not shown; and what a gap says something about."""

    positive: str
    negative: str
    neither: str
    subject: str = ""


_WORDS: dict[str, _Words] = {
    "pooled - federated": _Words(
        "that is what federation costs there",
        "federation costs nothing there",
        "no cost of federation is shown",
        "the cost of federation",
    ),
    "federated - local": _Words(
        "that is what federation gives there over training alone",
        "training alone does better there",
        "neither a gain nor a loss from federation is shown",
        "the gain from federation",
    ),
    "pooled - local": _Words(
        "that is all there is to win over training alone",
        "training alone does better there",
        "nothing to win over training alone is shown",
        "the gain from pooling",
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
        "the benefit of having taken part",
    ),
    "fine-tuned - federated": _Words(
        "training the federated model further at each site gains that",
        "training the federated model further at each site loses that",
        "neither a gain nor a loss from training further is shown",
        "the gain from training further",
    ),
}


_OF_A_KIND = {"arm", "seed", "hold_out", "sites", "rounds", "local_steps", "local_seconds", "site_steps"}
"""Settings that an arm's kind decides, and those of the budget, which has notes of its own."""
_OF_FEDERATIONS = ALONE.keys() | {"max_update_norm"}
_OF_FINETUNING = {"start_from", "training.learning_rate"}
_NO_RECIPE = WITHOUT_EFFECT | {"training.threads", "plan.name"}


def gaps_of(found: Means, arms: Sequence[Arm], reference: Arm, records: Sequence[RunRecord]) -> list[Gap]:
    """All gaps between these arms, by kind, those of equal settings first within each, and then the reference's."""
    main = [arm for arm in arms if arm.main]
    by_name = {record.name: record for record in records}
    runs = {arm.name: by_name[arm.runs[0]] for arm in main}
    federated = sorted((arm for arm in main if arm.kind == "federated"), key=lambda arm: arm is not reference)
    pooled = [arm for arm in main if arm.kind == "centralized"]
    partners = {arm.name: _partners(arm, federated, runs) for arm in main if arm.kind != "federated"}
    gaps: list[Gap] = []
    for fed in federated:
        for kind, minuend, subtrahend in _pairs(fed, main):
            other = minuend if subtrahend is fed else subtrahend
            if fed.name in partners[other.name]:
                gaps += _on_the_same_cases(found, kind, minuend, subtrahend, partners[other.name][fed.name])
    of_locals = {arm.name: _partners(arm, pooled, runs) for arm in main if arm.kind == "local"}
    for one in pooled:
        for local in main:
            if one.name in of_locals.get(local.name, {}):
                gaps += _on_the_same_cases(found, "pooled - local", one, local, of_locals[local.name][one.name])
    for arm in main:
        if not arm.view:
            gaps += _seen_minus_unseen(found, arm)
    return sorted(gaps, key=lambda gap: (list(_WORDS).index(gap.kind), bool(gap.settings_differ)))


def _partners(arm: Arm, others: Sequence[Arm], runs: Mapping[str, RunRecord]) -> dict[str, tuple[str, ...]]:
    """The arms among the others that have an arm's settings; without any the first, with the settings that differ."""
    apart = [(other.name, settings_apart(runs[arm.name], runs[other.name])) for other in others]
    return dict([(name, differ) for name, differ in apart if not differ] or apart[:1])


def settings_apart(run: RunRecord, other: RunRecord) -> tuple[str, ...]:
    """The settings of network, plan, training and scoring that make more of two arms than two kinds.

    Between two federations (one of them without a site) those of the method are among them, otherwise not: one trainer
    has none. `run` may be a fine-tuned one, which has to begin from the other.
    """
    left_out, federations = _OF_A_KIND | _NO_RECIPE, has_strategy(run.arm) and has_strategy(other.arm)
    if not federations:
        left_out = left_out | _OF_FEDERATIONS
    if run.arm == "finetune":
        left_out = left_out | _OF_FINETUNING
    mine, theirs = (
        {
            key: str(value)
            for key, value in compared_settings(record).items()
            if key not in left_out and key.partition(".")[0] not in left_out
        }
        for record in (run, other)
    )
    differ = {key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)}
    if not federations and "group" not in (mine["norm_statistics"], theirs["norm_statistics"]):
        differ.discard("norm_statistics")  # whether a server averages them or not is nothing to one trainer
    if run.arm == "centralized" and other.arm == "federated" and run.seen_sites != other.seen_sites:
        differ.add("sites")
    start = settings_of_start(run) if run.arm == "finetune" else None
    if start is not None and start != settings_but_seed(other.config):
        differ.add("start_from")
    # A plan that is made and one that is given share no key.
    return tuple(sorted({"plan" if key.startswith(("plan.", "planning.")) else key for key in differ}))


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


def _on_the_same_cases(
    found: Means, kind: str, minuend: Arm, subtrahend: Arm, settings_differ: tuple[str, ...]
) -> list[Gap]:
    gaps = []
    for scope in found.scopes:
        for metric in found.metrics:
            if kind == "trained on - left out" and not scope.seen:
                continue
            estimate = gap_between(found, minuend, scope, subtrahend, scope, metric)
            if estimate is not None:
                sentence = _sentence(
                    kind, minuend, subtrahend, scope, metric, estimate, scope.withheld, settings_differ
                )
                names = (minuend.name, subtrahend.name, scope.name, scope.name)
                gaps.append(Gap(kind, *names, metric, estimate, sentence, settings_differ))
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
    kind: str,
    a: Arm,
    b: Arm,
    scope: Scope,
    metric: MetricName,
    estimate: Estimate,
    withheld: bool = False,
    settings_differ: Sequence[str] = (),
) -> str:
    words, much = _WORDS[kind], size(estimate.value, metric)
    if kind == "seen - unseen":
        said = f"On seen {scope.modality} scanners {a.name} scores {much} than on unseen ones"
    else:
        said = f"On {where(scope)} {_subject(a)} scores {much} than {_subject(b)}"
    said = f"{said} {evidence(estimate, withheld)}"
    if settings_differ:
        differ = ", ".join(settings_differ)
        return f"{said}; their settings differ ({differ}), so this says nothing about {words.subject}."
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
