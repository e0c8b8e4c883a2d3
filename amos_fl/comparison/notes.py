"""Notes for the reader of a comparison, and its findings in words."""

import math
from collections.abc import Iterator, Mapping
from itertools import groupby

from amos_fl.comparison.arms import OF_ONE_MODEL, compared_settings
from amos_fl.comparison.comparison import ALPHA, LEAST_SEEDS, WITHOUT_EFFECT, Arm, Comparison, Difference, Gap
from amos_fl.comparison.costs import budget_notes
from amos_fl.comparison.gap import evidence, size, where
from amos_fl.comparison.patients import patients_in_words, patients_of
from amos_fl.comparison.statistics import LEAST_COMPARED_CASES, least_p
from amos_fl.metrics.catalogue import title_of
from amos_fl.runs.record import RunRecord
from amos_fl.wording import listed

_COMPARED_SETTINGS = ("model", "plan.", "training.", "evaluation.", "selection", "start_from")


def notes_of(comparison: Comparison) -> list[str]:
    """Notes for the reader: whether budgets are equal, seeds, and settings that differ."""
    reference = next(arm for arm in comparison.arms if arm.name == comparison.reference)
    notes = [*_not_trained_on(comparison), *_little_learned(comparison), *budget_notes(comparison.arms, reference)]
    notes += _differing_settings(comparison, reference)
    few = [arm for arm in comparison.main_arms if len(arm.seeds) < LEAST_SEEDS]
    if few:
        numbers = sorted({len(arm.seeds) for arm in few})
        names = "" if len(few) == len(comparison.main_arms) else f" of {', '.join(arm.name for arm in few)}"
        notes.append(
            f"No arm is called better on fewer than {LEAST_SEEDS} seeds, because another seed may reverse a "
            f"difference; here there {'is' if numbers == [1] else 'are'} {' or '.join(map(str, numbers))}{names}."
        )
    for arm in comparison.arms:
        if not arm.view and not arm.site and len(arm.runs) > len(arm.seeds):
            notes.append(f"{arm.name}: has one seed in several of its runs ({', '.join(arm.runs)}); it counts once.")
    notes.append(
        "Intervals (95 %) are from a bootstrap over cases within sites, the same cases in every arm; they do not cover "
        "the choice of the seed. p is from a paired permutation test, with Holm's correction over each table's tests. "
        + patients_in_words(
            sorted({row.case for row in comparison.case_rows}), patients_of(comparison.records), LEAST_COMPARED_CASES
        )
    )
    notes += [sentence for sentence in (powerless_in_words(comparison), withheld_in_words(comparison)) if sentence]
    if any(row.scope for row in comparison.published):
        notes.append(
            "Numbers marked 'published, real AMOS' are the AMOS paper's, of a network trained on the pooled scans for "
            "1000 epochs. The paper gives neither the tolerance of its NSD nor the organs of its MR means."
        )
    elif comparison.published and comparison.synthetic:
        notes.append(
            "Numbers marked 'published, real AMOS' are of patients' scans. The scans compared here are synthetic, so "
            "nothing follows from comparing the two."
        )
    elif comparison.published:
        notes.append("Numbers marked 'published, real AMOS' were measured on other cases or in another setting.")
    return notes


def _not_trained_on(comparison: Comparison) -> Iterator[str]:
    """One sentence per arm of one model that did not train on sites on which another such arm did."""
    by_name = {record.name: record for record in comparison.records}
    of_one = [arm for arm in comparison.main_arms if arm.kind in OF_ONE_MODEL and not arm.view]
    trained = {arm.name: set(by_name[arm.runs[0]].seen_sites) for arm in of_one}
    every = set().union(*trained.values())
    for name, sites in trained.items():
        if without := sorted(every - sites):
            yield (
                f"{name}: did not train on {listed(without)}, as others here did; its scores there are those of an "
                "unseen scanner."
            )


def _little_learned(comparison: Comparison) -> Iterator[str]:
    for record in comparison.records:
        if said := record.results.little_learned:
            yield f"{record.name}: {said[0].lower()}{said[1:]}"


def powerless_in_words(comparison: Comparison) -> str:
    """Which groups have too few cases for any difference to pass the correction; empty if none has."""
    metric, few = comparison.metrics[0], []
    tested = [d for d in comparison.differences if d.family == f"groups, {metric}" and not math.isnan(d.p)]
    for scope in comparison.scopes_of("group"):
        cases = [d.estimate.cases for d in tested if d.scope == scope.name]
        if cases and len(tested) * least_p(min(cases), comparison.resamples) >= ALPHA:
            few.append(f"{scope.name} ({min(cases)} cases)")
    if not few:
        return ""
    return (
        f"Too few cases to show that any arm differs: {', '.join(few)}. Not even the smallest p that they can give "
        f"stays below {ALPHA:g} after the correction for {len(tested)} tests, so only their intervals count."
    )


def withheld_in_words(comparison: Comparison) -> str:
    """Which sites withheld the scores of single cases, and what the comparison lacks as a result; empty if none did."""
    sites = sorted({scope.sites[0] for scope in comparison.scopes_of("site") if scope.withheld})
    if not sites:
        return ""
    return (
        f"For {listed(sites)} only sums and counts are known, because the scores of single cases stayed there "
        "(share_case_scores: none, in one of the runs at least). Means, counts and differences are as exact as with "
        "them. These sites, and the groups that they belong to, have no intervals, tests and distributions. That all "
        "runs scored the same cases there is known from their number and from the volumes of their labels."
    )


def _differing_settings(comparison: Comparison, reference: Arm) -> Iterator[str]:
    """One sentence per arm whose network, plan, training or scoring differs from the reference's."""
    by_name = {record.name: record for record in comparison.records}
    theirs = _compared(by_name[reference.runs[0]])
    for arm in comparison.main_arms:
        if arm is reference or arm.view == "elsewhere":
            continue
        mine = _compared(by_name[arm.runs[0]])
        differ = [key for key in sorted(theirs.keys() | mine.keys()) if theirs.get(key) != mine.get(key)]
        if differ:
            shown = "; ".join(f"{key} is {mine.get(key)}, not {theirs.get(key)}" for key in differ)
            yield f"Settings differ: in {arm.name}, {shown}."


def _compared(record: RunRecord) -> dict[str, str]:
    return {
        key: str(value)
        for key, value in compared_settings(record).items()
        if key.startswith(_COMPARED_SETTINGS) and key not in WITHOUT_EFFECT
    }


def findings_of(comparison: Comparison) -> list[str]:
    """The findings in words: each part of the gap over equally weighted sites (or in groups), then the tests.

    Parts between arms of different settings, from which nothing follows, come after the others.
    """
    metric = comparison.metrics[0]
    arms = {arm.name: arm for arm in comparison.main_arms}
    gaps = sorted(_gaps_to_say(comparison, arms), key=lambda gap: bool(gap.settings_differ))
    found: list[str] = []
    for _, family in groupby(gaps, key=lambda gap: (gap.kind, gap.minuend, gap.subtrahend)):
        found += [gap.sentence for gap in _headline(comparison, list(family))]
    for difference in comparison.differences:
        in_group = difference.metric == metric and difference.family.startswith("groups")
        if in_group and arms[difference.arm].kind == "federated":
            found.append(_tested(comparison, difference))
    for worst in comparison.worst:
        if worst.arm == comparison.reference and worst.metric == metric and worst.what == "site":
            found.append(
                f"The worst {worst.among} site of {worst.arm} is {worst.name}: {worst.value:.3f} {title_of(metric)} "
                f"over {worst.cases} case{'' if worst.cases == 1 else 's'}."
            )
    return found


def _gaps_to_say(comparison: Comparison, arms: Mapping[str, Arm]) -> Iterator[Gap]:
    """The gaps of the reference, and for arms that are paired with another federated arm theirs with the first such."""
    reference, metric = comparison.reference, comparison.metrics[0]
    partner: dict[tuple[str, str], str] = {}
    for gap in comparison.gaps:
        pair = (gap.minuend, gap.subtrahend)
        of_federated = [name for name in pair if arms[name].kind == "federated"]
        if arms[reference].kind == "federated" and len(of_federated) == 1:
            # Gaps with the reference come first within a kind and among those of equal settings.
            other = pair[1] if pair[0] in of_federated else pair[0]
            said = partner.setdefault((gap.kind, other), of_federated[0]) in of_federated
        else:
            said = reference in pair
        if gap.metric == metric and said:
            yield gap


def _headline(comparison: Comparison, gaps: list[Gap]) -> list[Gap]:
    kinds = {scope.name: scope.kind for scope in comparison.scopes}
    alike = [gap for gap in gaps if kinds[gap.scope] == "sites"]
    return alike or [gap for gap in gaps if kinds[gap.scope] == "group"]


def _tested(comparison: Comparison, d: Difference) -> str:
    scope = next(scope for scope in comparison.scopes if scope.name == d.scope)
    much = size(d.estimate.value, d.metric)
    said = f"On {where(scope)} {d.arm} scores {much} than {d.reference} {evidence(d.estimate, scope.withheld)}"
    verdicts = {
        "better": f"it is better there (p = {d.p_holm:.3f} after Holm's correction; all its seeds above all others)",
        "worse": f"it is worse there (p = {d.p_holm:.3f} after Holm's correction; all its seeds below all others)",
        "higher": f"these cases show a difference (p = {d.p_holm:.3f}), but with so few seeds neither is called better",
        "lower": f"these cases show a difference (p = {d.p_holm:.3f}), but with so few seeds neither is called better",
        "open": f"neither is shown to be better (p = {d.p_holm:.3f} after Holm's correction)",
    }
    return f"{said}: {verdicts[d.verdict]}." if d.verdict in verdicts else f"{said}."
