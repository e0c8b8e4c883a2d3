"""Scores of many cases as tables: over all, by modality, by site, by seen and unseen scanners, by organ, by case."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from amos_fl.escape.csv_cells import DictWriter
from amos_fl.files import whole_file
from amos_fl.metrics.scores import Scores, reported_organs
from amos_fl.metrics.table import MEN_AND_WOMEN, CaseScores, sums_of


@dataclass(frozen=True)
class Line:
    """One line of a table: `name` over the cases `over`. Means are NaN where no case counts.

    `dsc_present` is over the cases whose reference has the organ; `hd95_mm` over those in which both maps have it;
    the volume errors over those in which either has it, signed and absolute.
    """

    name: str
    over: str
    cases: int
    dsc: float
    nsd: float
    hd95_mm: float
    dsc_present: float
    volume_error_ml: float
    absolute_volume_error_ml: float
    scored: int
    missed: int
    hallucinated: int
    absent: int

    @classmethod
    def of(cls, name: str, over: str, scores: Scores) -> "Line":
        return cls(
            name=name,
            over=over,
            cases=scores.cases,
            dsc=scores.mean_dsc(),
            nsd=scores.mean_nsd(),
            hd95_mm=scores.mean_hd95_mm(),
            dsc_present=scores.mean_dsc(present_only=True),
            volume_error_ml=scores.mean_volume_error_ml(),
            absolute_volume_error_ml=scores.mean_volume_error_ml(absolute=True),
            **scores.outcomes(),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: what no case counts for is null."""
        return {name: None if _nan(value) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class ScoreTables:
    """All lines of a scoring. `groups` and `sites` are empty where nobody said where the cases come from."""

    overall: Line
    groups: list[Line]
    sites: list[Line]
    organs: list[Line]
    cases: list[Line]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        listed = {
            name: [line.to_dict() for line in getattr(self, name)] for name in ("groups", "sites", "organs", "cases")
        }
        return {"overall": self.overall.to_dict(), **listed}


def tables_of(
    cases: Sequence[CaseScores], organs: Mapping[int, str], sexes: Mapping[str, str] | None = None
) -> ScoreTables:
    """The tables of some cases. With `sexes` (`M` or `F` by case) prostate and uterus have lines of their own.

    The mean over organs counts them as the one organ that their label is.
    """

    def lines(key: Callable[[CaseScores], str]) -> list[Line]:
        return [Line.of(name, name, sums_of(part, organs)) for name, part in _parts(cases, key).items()]

    groups = {"all": list(cases)}
    if any(case.site for case in cases):
        groups |= _parts(cases, _group)
    elif len({case.modality for case in cases}) > 1:
        groups |= _parts(cases, lambda case: case.modality)
    by_organ = [line for over, part in groups.items() for line in _organ_lines(over, part, organs, sexes or {})]
    return ScoreTables(
        overall=Line.of("all", "all", sums_of(cases, organs)),
        groups=[Line.of(name, name, sums_of(part, organs)) for name, part in groups.items() if name != "all"],
        sites=lines(lambda case: case.site) if any(case.site for case in cases) else [],
        organs=by_organ,
        cases=[Line.of(case.case, case.site, sums_of([case], organs)) for case in cases],
    )


def _group(case: CaseScores) -> str:
    return f"{'seen' if case.seen else 'unseen'} {case.modality}"


def _parts(cases: Iterable[CaseScores], key: Callable[[CaseScores], str]) -> dict[str, list[CaseScores]]:
    parts: dict[str, list[CaseScores]] = {}
    for case in cases:
        parts.setdefault(key(case), []).append(case)
    return dict(sorted(parts.items()))


def _organ_lines(
    over: str, cases: Sequence[CaseScores], organs: Mapping[int, str], sexes: Mapping[str, str]
) -> list[Line]:
    scores = sums_of(cases, organs)
    lines = []
    for organ, name in organs.items():
        if organ not in scores.organs:
            continue
        lines.append(_of_organ(name, over, cases, organs, organ))
        for sex, its_name in MEN_AND_WOMEN.get(name, {}).items():
            if patients := [case for case in cases if sexes.get(case.case) == sex]:
                lines.append(_of_organ(its_name, over, patients, organs, organ))
    return lines


def _of_organ(name: str, over: str, cases: Sequence[CaseScores], organs: Mapping[int, str], organ: int) -> Line:
    """The line of one organ; its cases are those in which it is reported and was annotated."""
    holding = [case for case in cases if organ in case.scores and organ in reported_organs(organs, case.modality)]
    return Line.of(name, over, sums_of(holding, organs).only([organ]))


def write_lines(path: Path, lines: Iterable[Line]) -> None:
    """Write one row per line; what no case counts for is left empty."""
    with whole_file(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = DictWriter(file, [column.name for column in fields(Line)])
        writer.writeheader()
        for line in lines:
            writer.writerow({name: "" if value is None else value for name, value in line.to_dict().items()})


def _nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
