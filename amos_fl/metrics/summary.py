"""Scores of many cases as tables: over all, by modality, by site, by seen and unseen scanners, by organ, by case."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from amos_fl.metrics.catalogue import METRICS
from amos_fl.metrics.rows import ScoreRow, SiteSums, mean_rows, row_of, rows_by, rows_by_case, sums_by_case
from amos_fl.metrics.scores import Scores
from amos_fl.metrics.table import MEN_AND_WOMEN, CaseScores

COLUMNS_OF_TABLES = (
    *("name", "over", "cases", *METRICS, "dsc_present", "volume_error_ml", "absolute_volume_error_ml"),
    *("scored", "missed", "hallucinated", "absent"),
)


@dataclass(frozen=True)
class ScoreTables:
    """All rows of a scoring. `groups` and `sites` are empty if the cases' origin is unknown.

    The cases of an organ are those in which it is reported and was annotated.
    """

    overall: ScoreRow
    groups: list[ScoreRow]
    sites: list[ScoreRow]
    organs: list[ScoreRow]
    cases: list[ScoreRow]

    def to_dict(self) -> dict[str, Any]:
        """The tables as JSON values; a mean without cases is null."""
        listed = {name: list(map(_told, getattr(self, name))) for name in ("groups", "sites", "organs", "cases")}
        return {"overall": _told(self.overall), **listed}


def _told(row: ScoreRow) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in COLUMNS_OF_TABLES}
    return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in values.items()}


def tables_of(
    cases: Sequence[CaseScores], organs: Mapping[int, str], sexes: Mapping[str, str] | None = None
) -> ScoreTables:
    """The tables of some cases. With `sexes` (`M` or `F` by case) prostate and uterus have separate rows.

    The mean over organs counts them as one organ, because they share a label.
    """
    parts, known = sums_by_case(cases, organs), any(case.site for case in cases)
    by = ("group", "modality") if known else ("modality",)
    apart = known or len({case.modality for case in cases}) > 1
    everything = list(rows_by(parts, organs))
    grouped = list(rows_by(parts, organs, *by)) if apart else []
    return ScoreTables(
        overall=everything[-1],
        groups=mean_rows(grouped),
        sites=mean_rows(rows_by(parts, organs, "site")) if known else [],
        organs=[
            replace(row, cases=row.organs + row.absent)
            for whole in (*everything, *grouped)
            if whole.organ
            for row in (whole, *_of_men_and_women(whole, parts, by, sexes or {}))
        ],
        cases=list(rows_by_case(parts)),
    )


def _of_men_and_women(
    row: ScoreRow, parts: Sequence[SiteSums], by: Sequence[str], sexes: Mapping[str, str]
) -> Iterator[ScoreRow]:
    for sex, name in MEN_AND_WOMEN.get(row.organ, {}).items():
        scores = Scores()
        for part in parts:
            fits = row.over == "all" or all(getattr(part, key) == getattr(row, key) for key in by)
            if fits and sexes.get(part.case) == sex:
                scores.merge(part.scores)
        if scores.cases:
            yield replace(row_of(scores.only([row.label]), over=row.over), organ=name)
