"""The test cases on which runs are compared: the same ones, with the same references, in every run."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from amos_fl.cohort.organ_names import difference_in_words, same_organs
from amos_fl.cohort.table import Modality
from amos_fl.comparison.comparison import Scope
from amos_fl.comparison.patients import patients_of, units_of
from amos_fl.errors import AmosError
from amos_fl.metrics.catalogue import MetricName
from amos_fl.metrics.scores import UNIT, OrganScore, OrganSums, Outcome, Scores, reported_organs
from amos_fl.metrics.table import CaseScores, sums_of
from amos_fl.runs.record import RunRecord
from amos_fl.wording import listed

MODALITIES: tuple[Modality, ...] = ("CT", "MR")


@dataclass(frozen=True)
class TableCase:
    """A row of the table: a case, or all `size` cases of a site that withholds their scores and sends sums."""

    case: str
    site: str
    modality: str
    size: int = 1
    withheld: bool = False


@dataclass(frozen=True)
class CaseTable:
    """The cases in a fixed order (by site, then name), and the cohort's organs in the order of their labels."""

    cases: tuple[TableCase, ...]
    organs: dict[int, str]
    patients: Mapping[str, str] = field(default_factory=dict)
    """The patient of each case, if the cohort names one."""

    @cached_property
    def labels(self) -> tuple[int, ...]:
        return tuple(sorted(self.organs))

    def units(self, rows: Sequence[int]) -> Int[np.ndarray, " case"] | None:
        """The patient number of each case (`patients.units_of`)."""
        return units_of([self.patients.get(self.cases[row].case, "") for row in rows])

    def reported(self, modality: str) -> list[int]:
        """The positions of the organs that are reported in a modality."""
        reported = reported_organs(self.organs, modality)
        return [position for position, label in enumerate(self.labels) if label in reported]

    @cached_property
    def sizes(self) -> Int[np.ndarray, " case"] | None:
        """The number of cases in each row; None if it is one each."""
        return np.array([case.size for case in self.cases]) if any(case.withheld for case in self.cases) else None

    def marks(
        self, record: RunRecord, metric: MetricName
    ) -> tuple[Float[np.ndarray, "case organ"], Float[np.ndarray, "case organ"]]:
        """The sums of a run's scores per row and organ, and how many scores went into each."""

        def of_sums(sums: OrganSums) -> tuple[float, float]:
            total, number = sums.of_metric(metric)
            return total / UNIT, float(number)

        def of_score(organ: OrganScore | None) -> tuple[float, float]:
            score = math.nan if organ is None else getattr(organ, metric)
            return (0.0, 0.0) if math.isnan(score) else (score, 1.0)

        both = self._values(record, of_score, of_sums)
        return both[..., 0], both[..., 1]

    def counts(self, record: RunRecord, outcome: Outcome) -> Float[np.ndarray, "case organ"]:
        """The number of cases in each row in which an organ had this outcome."""
        return self._values(
            record,
            lambda organ: (float(organ is not None and organ.outcome == outcome),),
            lambda sums: (float(getattr(sums, outcome)),),
        )[..., 0]

    def _values(
        self,
        record: RunRecord,
        of_score: Callable[[OrganScore | None], tuple[float, ...]],
        of_sums: Callable[[OrganSums], tuple[float, ...]],
    ) -> Float[np.ndarray, "case organ value"]:
        of_case = {case.case: case.scores for case in record.results.cases}
        values = []
        for row in self.cases:
            if row.withheld:
                sums = sums_at(record, row.site).organs
                values.append([of_sums(sums.get(label, OrganSums())) for label in self.labels])
            else:
                scores = of_case.get(row.case, {})  # a site's own model has no scores on other sites' cases
                values.append([of_score(scores.get(label)) for label in self.labels])
        return np.array(values, dtype=float)


def sums_at(record: RunRecord, site: str) -> Scores:
    """The sums over all test cases of a site in a run, whether it shared their scores or not."""
    total = sums_of([case for case in record.results.cases if case.site == site], record.cohort.organs)
    for part in record.results.withheld:
        if part.site == site:
            total.merge(part.scores)
    return total


def _withheld_sites(records: Sequence[RunRecord]) -> dict[str, str]:
    """The sites that withheld the scores of their cases in any of the runs, with their modalities."""
    found: dict[str, set[str]] = {part.site: set() for record in records for part in record.results.withheld}
    for record in records:
        for part in (*record.results.cases, *record.results.withheld):
            if part.site in found:
                found[part.site] |= set(part.modality.split(" and "))
    return {site: " and ".join(sorted(modalities)) for site, modalities in sorted(found.items())}


def common_cases(records: Sequence[RunRecord]) -> CaseTable:
    """The cases that every run scored.

    Raises:
        AmosError: runs scored other cases, other organs of them, against other references or with another tolerance.
    """
    records = sorted(records, key=lambda record: record.name)
    for record in records:
        if not record.results.cases and not record.results.withheld:
            raise AmosError(
                f"{record.name}: has no test scores (no test case has a label), so it cannot be compared; leave it out"
            )
    withheld = _withheld_sites(records)
    first = _most_usual(records, withheld)
    for record in records:
        _check_settings(first, record)
        _check_cases(first, record, withheld)
    cases = {
        TableCase(c.case, c.site, "MR" if c.modality == "MR" else "CT")
        for c in first.results.cases
        if c.site not in withheld
    }
    for site, modality in withheld.items():
        cases.add(TableCase(f"all of {site}", site, modality, sums_at(first, site).cases, withheld=True))
    in_order = sorted(cases, key=lambda case: (case.site, case.modality, case.case))
    return CaseTable(tuple(in_order), dict(first.cohort.organs), patients_of(records))


def _most_usual(records: Sequence[RunRecord], withheld: Collection[str]) -> RunRecord:
    """A run with the cases that most runs have, so that an error names the odd one out."""
    of_run = [
        frozenset(
            [
                *(case.case for case in record.results.cases if case.site not in withheld),
                *(f"{site} {sums_at(record, site).cases}" for site in withheld),
            ]
        )
        for record in records
    ]
    usual = Counter(of_run).most_common(1)[0][0]
    return records[of_run.index(usual)]


def _check_settings(first: RunRecord, record: RunRecord) -> None:
    tolerances = [r.config.evaluation.tolerance_mm for r in (first, record)]
    if tolerances[0] != tolerances[1]:
        raise AmosError(
            f"{record.name}: its NSD has a tolerance of {tolerances[1]:g} mm, that of {first.name} "
            f"{tolerances[0]:g} mm, and NSD at different tolerances cannot be compared; run one of them again with "
            f"--set evaluation.tolerance_mm={tolerances[0]:g}"
        )
    if not same_organs(first.cohort.organs, record.cohort.organs):
        differ = difference_in_words(record.cohort.organs, first.cohort.organs, ("there", f"in {first.name}"))
        raise AmosError(
            f"{record.name}: its cohort has other organs than that of {first.name}{f': {differ}' if differ else ''}; "
            "compare runs on one"
        )


_REMEDY = (
    "compare runs that scored the same test cases: run it again on the same cohort (--hold-out keeps a site's test "
    "cases, --sites drops them), or leave it out"
)


def _check_cases(first: RunRecord, record: RunRecord, withheld: Collection[str]) -> None:
    for site in withheld:
        if what := _difference_of_sums(sums_at(first, site), sums_at(record, site), first.cohort.organs):
            raise AmosError(f"{record.name}: site {site} {what} in {first.name}; {_REMEDY}")
    theirs, mine = ({case.case: case for case in r.results.cases if case.site not in withheld} for r in (first, record))
    if len(mine) < sum(case.site not in withheld for case in record.results.cases):
        raise AmosError(f"{record.name}: a case is listed twice in its scores; case names must be unique")
    parts = [("lacks", sorted(set(theirs) - set(mine))), ("also has", sorted(set(mine) - set(theirs)))]
    if odd := [f"{verb} {listed(names, 5)}" for verb, names in parts if names]:
        raise AmosError(f"{record.name}: scored other cases than {first.name}: it {' and '.join(odd)}; {_REMEDY}")
    for name in sorted(theirs):
        if what := _difference(theirs[name], mine[name]):
            raise AmosError(f"{record.name}: case {name} {what} in {first.name}; {_REMEDY}")


def _difference(theirs: CaseScores, mine: CaseScores) -> str:
    if (theirs.site, theirs.modality) != (mine.site, mine.modality):
        return f"is {mine.modality} of site {mine.site}, and {theirs.modality} of site {theirs.site}"
    if set(theirs.scores) != set(mine.scores):
        return f"was scored on {len(mine.scores)} organs, and on {len(theirs.scores)} or others"
    for organ, score in mine.scores.items():
        volumes_ml = theirs.scores[organ].reference_ml, score.reference_ml
        if not math.isclose(*volumes_ml, rel_tol=1e-6, abs_tol=1e-9):
            return f"has {volumes_ml[1]:.6g} ml of organ {organ} in its label map, and {volumes_ml[0]:.6g} ml"
    return ""


def _difference_of_sums(theirs: Scores, mine: Scores, organs: Mapping[int, str]) -> str:
    """Evidence that a site that withholds its cases scored others: their number, their organs, the labels' volumes."""
    if theirs.cases != mine.cases:
        return f"scored {mine.cases} test cases, and {theirs.cases}"
    if set(theirs.organs) != set(mine.organs):
        return f"scored {len(mine.organs)} organs, and {len(theirs.organs)} or others"
    for organ, sums in mine.organs.items():
        volumes_ml = [part.reference_ml_sum / UNIT for part in (theirs.organs[organ], sums)]
        if not math.isclose(*volumes_ml, rel_tol=1e-6, abs_tol=1e-9):
            return f"has {volumes_ml[1]:.6g} ml of {organs[organ]} in its label maps, and {volumes_ml[0]:.6g} ml"
    return ""


def make_scopes(table: CaseTable, seen_sites: Sequence[str]) -> tuple[Scope, ...]:
    """Groups of seen and unseen scanners by modality, the means over seen and over unseen sites, and the sites.

    A site with cases of two modalities gives two scopes, `A CT` and `A MR`, because each has its own organs.
    """
    places = sorted({(case.site, case.modality) for case in table.cases})
    kept = {case.site for case in table.cases if case.withheld}
    modalities = Counter(site for site, _ in places)
    sites: list[Scope] = []
    groups: list[Scope] = []
    for site, modality in places:
        number = sum(case.size for case in table.cases if (case.site, case.modality) == (site, modality))
        name = site if modalities[site] == 1 else f"{site} {modality}"
        sites.append(Scope(name, "site", site in seen_sites, modality, (site,), number, site in kept))
    for seen in (True, False):
        word = "seen" if seen else "unseen"
        for modality in dict.fromkeys([*MODALITIES, *sorted({modality for _, modality in places})]):
            mine = [scope for scope in sites if scope.seen == seen and scope.modality == modality]
            if mine:
                names, number = tuple(scope.sites[0] for scope in mine), sum(scope.cases for scope in mine)
                few = any(scope.withheld for scope in mine)
                groups.append(Scope(f"{word} {modality}", "group", seen, modality, names, number, few))
    for seen in (True, False):
        mine = [scope for scope in sites if scope.seen == seen]
        if len(mine) > 1:
            names, number = tuple(scope.sites[0] for scope in mine), sum(scope.cases for scope in mine)
            few = any(scope.withheld for scope in mine)
            groups.append(Scope("seen sites" if seen else "unseen sites", "sites", seen, "", names, number, few))
    sites.sort(key=lambda scope: (not scope.seen, scope.modality, scope.name))
    return (*groups, *sites)


def rows_of(table: CaseTable, scope: Scope) -> list[int]:
    """The positions of a scope's cases in the table."""
    return [
        row
        for row, case in enumerate(table.cases)
        if case.site in scope.sites and scope.modality in ("", case.modality)
    ]
