"""Compare runs: from records to a `Comparison`."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from amos_fl.comparison.arms import ArmScores, make_arms, with_reference
from amos_fl.comparison.cases import CaseTable, common_cases, make_scopes
from amos_fl.comparison.comparison import ALPHA, LEAST_SEEDS, Comparison, Difference, MeanScore, Scope, Worst
from amos_fl.comparison.costs import curves_of, site_curves_of
from amos_fl.comparison.gap import gaps_of
from amos_fl.comparison.means import Means
from amos_fl.comparison.notes import findings_of, notes_of
from amos_fl.comparison.published import published_beside
from amos_fl.comparison.statistics import Marks, estimates, holm, paired_p
from amos_fl.errors import AmosError
from amos_fl.metrics.catalogue import IN_RUNS, METRICS, MetricName
from amos_fl.metrics.rows import ScoreRow
from amos_fl.randomness import generator
from amos_fl.runs.record import RunRecord


def compare_runs(
    records: Sequence[RunRecord],
    *,
    metrics: Sequence[MetricName] = IN_RUNS,
    reference: str | None = None,
    names: Mapping[str, str] | None = None,
    seed: int = 0,
    resamples: int = 10_000,
    published: bool = False,
) -> Comparison:
    """Compare finished runs on the test cases that all of them scored.

    Args:
        metrics: those to compare.
        reference: the arm (or one of its runs) that the others are compared with; by default a federated one.
        names: what to call the arms of these runs, by name or folder of the run or of its group.
        seed: of the bootstrap and of the permutations.
        resamples: draws of the bootstrap, and permutations of a test that is not exact.
        published: include the paper's numbers even if no run has their setting.

    Raises:
        AmosError: fewer than two arms, no such reference, names that do not fit, or runs that scored other cases or
            with another tolerance.
    """
    records = sorted(records, key=lambda record: record.name)
    if len(records) < 2:
        raise AmosError("a comparison needs two runs or more; give their folders, or a group's folder")
    table = common_cases(records)
    arms, chosen = with_reference(make_arms(records, table, names), reference)
    seen = {site for record in records if record.name in chosen.arm.runs for site in record.seen_sites}
    scopes = make_scopes(table, sorted(seen))
    found = Means(table, scopes, arms, tuple(metrics), seed, resamples)
    synthetic = any(record.synthetic for record in records)
    comparison = Comparison(
        metrics=tuple(metrics),
        reference=chosen.arm.name,
        arms=tuple(arm.arm for arm in arms),
        scopes=scopes,
        organs={label: table.organs[label] for label in table.labels},
        tolerance_mm=records[0].config.evaluation.tolerance_mm,
        synthetic=synthetic,
        seed=seed,
        resamples=resamples,
        problems=tuple(f"{record.name}: {problem}" for record in records for problem in record.results.problems),
        notes=(),
        findings=(),
        cells=tuple(found.cells),
        differences=tuple(_differences(found, arms, chosen)),
        spreads=tuple(found.spreads()),
        worst=tuple(_worst(found, arms)),
        gaps=tuple(gaps_of(found, [arm.arm for arm in arms], chosen.arm, records)),
        curves=tuple(curves_of(records, [arm.arm for arm in arms])),
        site_curves=tuple(site_curves_of(records, [arm.arm for arm in arms])),
        published=tuple(published_beside(records, [a.arm for a in arms], scopes, table, everything=published)),
        case_rows=tuple(_case_rows(arms, table, seen)),
        records=tuple(records),
    )
    return replace(comparison, notes=tuple(notes_of(comparison)), findings=tuple(findings_of(comparison)))


def _differences(found: Means, arms: Sequence[ArmScores], chosen: ArmScores) -> list[Difference]:
    """Every other main arm minus the reference, tested, and corrected within its family of tests."""
    drafts: list[Difference] = []
    for arm in arms:
        if not arm.arm.main or arm is chosen:
            continue
        for scope in found.scopes:
            for metric in found.metrics:
                drafts += _in_scope(found, arm, chosen, scope, metric)
    families: dict[str, list[int]] = defaultdict(list)
    for i, draft in enumerate(drafts):
        families[draft.family].append(i)
    for members in families.values():
        for i, p_holm in zip(members, holm([drafts[i].p for i in members]), strict=True):
            drafts[i] = replace(drafts[i], p_holm=p_holm)
    by_name = {arm.arm.name: arm for arm in arms}
    withheld = {scope.name for scope in found.scopes if scope.withheld}
    seeds = {(s.arm, s.scope, s.metric): s.values for s in found.spreads()}
    return [
        replace(
            d,
            verdict=_verdict(
                d,
                [by_name[name].arm.seeds for name in (d.arm, d.reference)],
                [seeds.get((name, d.scope, d.metric), ()) for name in (d.arm, d.reference)],
                d.scope in withheld,
            ),
        )
        for d in drafts
    ]


def _in_scope(found: Means, arm: ArmScores, chosen: ArmScores, scope: Scope, metric: MetricName) -> list[Difference]:
    """The differences in one scope, not yet corrected: in groups also by organ, for one scanner only the mean."""
    a, b = (found.mean(x.arm.name, scope.name, metric) for x in (arm, chosen))
    if a is None or b is None:
        return []
    some = slice(None) if scope.kind == "group" else slice(-1, None)
    names = (*a.organs, "")[some]
    cases = [min(pair) for pair in zip(a.cases, b.cases, strict=True)]
    p = np.full(len(a.values), np.nan)
    x, y = (found.marks(arm_, scope, metric) for arm_ in (arm, chosen))
    if scope.kind != "sites" and x is not None and y is not None:
        cases = Marks(x.sums, np.minimum(x.counts, y.counts), x.sizes).cases_per_organ()
        if not scope.withheld:
            p = paired_p(x, y, found.resamples, generator(found.seed, "permutation", scope.name))
    draws = a.draws[:, some] - b.draws[:, some] if a.draws is not None and b.draws is not None else None
    patients = [min(three) for three in zip(a.patients, b.patients, cases, strict=True)][some]
    of_all = estimates((a.values - b.values)[some], draws, cases[some], a.strata, patients)
    made = []
    for organ, estimate, value in zip(names, of_all, p[some], strict=True):
        of = "groups" if scope.kind == "group" and not organ else f"{arm.arm.name}: {'organs' if organ else 'sites'}"
        names_ = (arm.arm.name, chosen.arm.name, scope.name, organ)
        made.append(Difference(*names_, metric, estimate, float(value), math.nan, f"{of}, {metric}", ""))
    return made


def _verdict(d: Difference, seeds: Sequence[Sequence[int]], of_seeds: Sequence[Sequence[float]], withheld: bool) -> str:
    if withheld:
        return "no scores per case"
    if math.isnan(d.p_holm):
        return "not tested" if d.estimate.has_interval else "too few cases"
    if d.p_holm >= ALPHA:
        return "open"
    higher = d.estimate.value > 0
    if min(map(len, seeds)) < LEAST_SEEDS or d.organ:
        return "higher" if higher else "lower"
    if all(of_seeds) and not (min(of_seeds[0]) > max(of_seeds[1]) or max(of_seeds[0]) < min(of_seeds[1])):
        return "open"  # the seeds of the two arms overlap
    return "better" if higher == METRICS[d.metric].higher_is_better else "worse"


def _worst(found: Means, arms: Sequence[ArmScores]) -> list[Worst]:
    """Each main arm's worst seen and worst unseen site, and its worst organ in each group."""
    cells = [c for c in found.cells if not math.isnan(c.estimate.value)]
    scopes = {scope.name: scope for scope in found.scopes}
    lists: dict[tuple[str, MetricName, str, str], list[MeanScore]] = defaultdict(list)
    for cell in cells:
        scope = scopes[cell.scope]
        if scope.kind == "site" and not cell.organ:
            lists[cell.arm, cell.metric, "site", "seen" if scope.seen else "unseen"].append(cell)
        elif scope.kind == "group" and cell.organ:
            lists[cell.arm, cell.metric, "organ", scope.name].append(cell)
    main = {arm.arm.name for arm in arms if arm.arm.main}
    worst = []
    for (arm, metric, what, among), mine in lists.items():
        if arm in main:
            low = (min if METRICS[metric].higher_is_better else max)(mine, key=lambda cell: cell.estimate.value)
            name = low.scope if what == "site" else low.organ
            kind = "site" if what == "site" else "organ"
            worst.append(Worst(arm, metric, kind, among, name, low.estimate.value, low.estimate.cases))
    return worst


def _case_rows(arms: Sequence[ArmScores], table: CaseTable, seen: set[str]) -> list[ScoreRow]:
    rows = []
    for arm in arms:
        values = {
            metric: np.divide(m.sums, m.counts, out=np.full_like(m.sums, np.nan), where=m.counts > 0)
            for metric, m in arm.marks.items()
        }
        for i, case in enumerate(table.cases):
            if not arm.available[i] or case.withheld:
                continue
            group = "seen" if case.site in seen else "unseen"
            for j in table.reported(case.modality):
                measured: dict[str, Any] = {metric: float(of_metric[i, j]) for metric, of_metric in values.items()}
                rows.append(
                    ScoreRow(
                        arm=arm.arm.name,
                        case=case.case,
                        site=case.site,
                        group=group,
                        modality=case.modality,
                        organ=table.organs[table.labels[j]],
                        **measured,
                    )
                )
    return rows
