"""The test cases that runs are compared on: the same ones, with the same references, in every run."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from amos_fl.cohort.table import Modality
from amos_fl.comparison.comparison import Scope
from amos_fl.comparison.patients import patients_of, units_of
from amos_fl.errors import AmosError
from amos_fl.metrics.scores import OrganScore, reported_organs
from amos_fl.metrics.table import CaseScores
from amos_fl.runs.record import RunRecord

MODALITIES: tuple[Modality, ...] = ("CT", "MR")


@dataclass(frozen=True)
class TableCase:
    case: str
    site: str
    modality: Modality


@dataclass(frozen=True)
class CaseTable:
    """The cases in a fixed order (by site, then name), and the cohort's organs in the order of their labels."""

    cases: tuple[TableCase, ...]
    organs: dict[int, str]
    patients: Mapping[str, str] = field(default_factory=dict)
    """The patient of each case, where the cohort names one."""

    @cached_property
    def labels(self) -> tuple[int, ...]:
        return tuple(sorted(self.organs))

    def units(self, rows: Sequence[int]) -> Int[np.ndarray, " case"] | None:
        """Which of these cases are of one patient (`patients.units_of`)."""
        return units_of([self.patients.get(self.cases[row].case, "") for row in rows])

    def reported(self, modality: str) -> list[int]:
        """The positions of the organs that are reported in a modality."""
        reported = reported_organs(self.organs, modality)
        return [position for position, label in enumerate(self.labels) if label in reported]

    def matrix(self, record: RunRecord, value: Callable[[OrganScore | None], float]) -> Float[np.ndarray, "case organ"]:
        """A number per case and organ of a run; `value` gets None for an organ that was not annotated."""
        of_case = {case.case: case.scores for case in record.results.cases}
        return np.array(
            [[value(of_case[case.case].get(label)) for label in self.labels] for case in self.cases], dtype=float
        )


def common_cases(records: Sequence[RunRecord]) -> CaseTable:
    """The cases that every run scored.

    Raises:
        AmosError: runs scored other cases, other organs of them, against other references or with another tolerance.
    """
    records = sorted(records, key=lambda record: record.name)
    for record in records:
        if not record.results.cases:
            raise AmosError(
                f"{record.name}: has no scores per case (no test case has a label, or the sites kept them to "
                "themselves), so it cannot be compared; leave it out"
            )
    first = _most_usual(records)
    for record in records:
        _check_settings(first, record)
        _check_cases(first, record)
    cases = {TableCase(c.case, c.site, "MR" if c.modality == "MR" else "CT") for c in first.results.cases}
    in_order = sorted(cases, key=lambda case: (case.site, case.modality, case.case))
    return CaseTable(tuple(in_order), dict(first.cohort.organs), patients_of(records))


def _most_usual(records: Sequence[RunRecord]) -> RunRecord:
    """A run with the cases that most runs have, so that it is the odd one that is named."""
    of_run = [frozenset(case.case for case in record.results.cases) for record in records]
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
    if first.cohort.organs != record.cohort.organs:
        raise AmosError(f"{record.name}: its cohort has other organs than that of {first.name}; compare runs on one")


_REMEDY = (
    "compare runs that scored the same test cases: run it again on the same cohort (--hold-out keeps a site's test "
    "cases, --sites drops them), or leave it out"
)


def _check_cases(first: RunRecord, record: RunRecord) -> None:
    theirs, mine = ({case.case: case for case in r.results.cases} for r in (first, record))
    if len(mine) < len(record.results.cases):
        raise AmosError(f"{record.name}: a case stands in its scores twice; every case needs a name of its own")
    parts = [("lacks", sorted(set(theirs) - set(mine))), ("also has", sorted(set(mine) - set(theirs)))]
    if odd := [f"{verb} {_some(names)}" for verb, names in parts if names]:
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


def _some(names: Sequence[str], most: int = 5) -> str:
    """
    >>> _some(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def make_scopes(table: CaseTable, seen_sites: Sequence[str]) -> tuple[Scope, ...]:
    """Groups of seen and unseen scanners by modality, all seen and all unseen sites alike, and the sites.

    A site with cases of two modalities gives two scopes, `A CT` and `A MR`, because each has its own organs.
    """
    places: list[tuple[str, Modality]] = sorted({(case.site, case.modality) for case in table.cases})
    modalities = Counter(site for site, _ in places)
    sites: list[Scope] = []
    groups: list[Scope] = []
    for site, modality in places:
        number = sum((case.site, case.modality) == (site, modality) for case in table.cases)
        name = site if modalities[site] == 1 else f"{site} {modality}"
        sites.append(Scope(name, "site", site in seen_sites, modality, (site,), number))
    for seen in (True, False):
        word = "seen" if seen else "unseen"
        for modality in MODALITIES:
            mine = [scope for scope in sites if scope.seen == seen and scope.modality == modality]
            if mine:
                names, number = tuple(scope.sites[0] for scope in mine), sum(scope.cases for scope in mine)
                groups.append(Scope(f"{word} {modality}", "group", seen, modality, names, number))
    for seen in (True, False):
        mine = [scope for scope in sites if scope.seen == seen]
        if len(mine) > 1:
            names, number = tuple(scope.sites[0] for scope in mine), sum(scope.cases for scope in mine)
            groups.append(Scope("seen sites" if seen else "unseen sites", "sites", seen, "", names, number))
    sites.sort(key=lambda scope: (not scope.seen, scope.modality, scope.name))
    return (*groups, *sites)


def rows_of(table: CaseTable, scope: Scope) -> list[int]:
    """The positions of a scope's cases in the table."""
    return [
        row
        for row, case in enumerate(table.cases)
        if case.site in scope.sites and scope.modality in ("", case.modality)
    ]
