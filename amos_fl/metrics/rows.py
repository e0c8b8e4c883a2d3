"""Scores as rows: the record behind every table of scores, on a page, in a CSV file, on a terminal and in Python."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.csv_table import write_table
from amos_fl.metrics.catalogue import METRICS
from amos_fl.metrics.scores import OUTCOMES, Outcome, Scores, reported_organs
from amos_fl.metrics.table import MEASURED, SCORE_COLUMNS, CaseScores, organ_name, sums_of

SCORES = (*SCORE_COLUMNS, *MEASURED)
"""The columns of scores.csv."""


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """The scores of one organ, or with organ "" of all of them, over some cases; unused fields are empty.

    Means are NaN if no case counts. `over` names the cases: a site, "seen CT", "MR", "all". `group` is "seen" or
    "unseen", whether their scanners trained. `dsc_present` is over the cases whose reference has the organ, without
    hallucinated ones; `hd95_mm` over those in which both maps have it; the volume errors, signed and absolute, over
    those in which either has it. `scored`, `missed`, `hallucinated` and `absent` count organs of cases.
    """

    arm: str = ""
    run: str = ""
    round: int = 0
    share: float = math.nan  # fraction of the run's rounds completed
    case: str = ""
    site: str = ""
    group: str = ""
    modality: str = ""
    split: str = ""
    over: str = ""
    label: int = 0
    organ: str = ""
    cases: int = 1
    dsc: float = math.nan
    nsd: float = math.nan
    hd95_mm: float = math.nan
    dsc_present: float = math.nan
    reference_ml: float = math.nan  # for one organ in one case, like the next
    predicted_ml: float = math.nan
    volume_error_ml: float = math.nan
    absolute_volume_error_ml: float = math.nan
    scored: int = 0
    missed: int = 0
    hallucinated: int = 0
    absent: int = 0

    @property
    def name(self) -> str:
        """The row's subject: a case, otherwise an organ, otherwise the cases that it is over."""
        return self.case or self.organ or self.over

    @property
    def seen(self) -> bool | str:
        """Whether the scanners trained; "" if the cases' origin is unknown."""
        return self.group and self.group == "seen"

    @property
    def organs(self) -> int:
        """The number of organs of cases that either map has."""
        return self.scored + self.missed + self.hallucinated

    @property
    def outcome(self) -> Outcome:
        """The outcome of one organ in one case."""
        return next(outcome for outcome in OUTCOMES if getattr(self, outcome))


@dataclass(frozen=True)
class SiteSums:
    """Summed scores of a site, or of one of its cases; a site that withholds its cases sends these."""

    site: str
    seen: bool
    modality: str
    scores: Scores
    case: str = ""

    @property
    def group(self) -> str:
        return group_of(self)


def group_of(part: CaseScores | SiteSums) -> str:
    return ("seen" if part.seen else "unseen") if part.site else ""


def sums_by_case(cases: Iterable[CaseScores], organs: Mapping[int, str]) -> list[SiteSums]:
    """Each case's sums, over the organs that are reported in its modality."""
    return [SiteSums(c.site, c.seen, c.modality, sums_of([c], organs), c.case) for c in cases]


def row_of(scores: Scores, **where: Any) -> ScoreRow:
    """The row of summed scores; `where` gives its identifying fields."""
    return ScoreRow(
        cases=scores.cases,
        **{metric: scores.mean(metric) for metric in METRICS},
        dsc_present=scores.mean_dsc(present_only=True),
        volume_error_ml=scores.mean_volume_error_ml(),
        absolute_volume_error_ml=scores.mean_volume_error_ml(absolute=True),
        **scores.outcomes(),
        **where,
    )


def rows_by(parts: Iterable[SiteSums], organs: Mapping[int, str], *by: str) -> Iterator[ScoreRow]:
    """Rows of summed scores `by` group, modality or site, sorted, or all together: the organs, then their mean."""
    found: dict[tuple[str, ...], Scores] = {}
    for part in parts:
        found.setdefault(tuple(getattr(part, key) for key in by), Scores()).merge(part.scores)
    for key, scores in sorted(found.items(), key=lambda item: item[0]) if by else [((), found.get((), Scores()))]:
        where = dict(zip(by, key, strict=True))
        over = where.get("site", " ".join(key) if by else "all")
        for label in reported_organs(organs, where.get("modality", "")):
            if label in scores.organs:
                yield row_of(scores.only([label]), over=over, label=label, organ=organs[label], **where)
        yield row_of(scores, over=over, **where)


def rows_by_case(parts: Iterable[SiteSums]) -> Iterator[ScoreRow]:
    """The mean over organs of each case, in the order given."""
    for part in parts:
        where = {"case": part.case, "site": part.site, "group": part.group, "modality": part.modality}
        yield row_of(part.scores, over=part.site, **where)


def rows_by_organ(
    cases: Iterable[CaseScores], organs: Mapping[int, str], sexes: Mapping[str, str] | None = None
) -> Iterator[ScoreRow]:
    """A row per organ and case, in the order given; `sexes` by case determine the organ's name."""
    for c in cases:
        for label, score in c.scores.items():
            outcome: dict[str, Any] = {score.outcome: 1}
            yield ScoreRow(
                case=c.case,
                site=c.site,
                group=group_of(c),
                modality=c.modality,
                split=c.split,
                over=c.site,
                label=label,
                organ=organ_name(organs, label, (sexes or {}).get(c.case, "")),
                **{metric: getattr(score, metric) for metric in METRICS},
                reference_ml=score.reference_ml,
                predicted_ml=score.predicted_ml,
                volume_error_ml=score.volume_error_ml,
                absolute_volume_error_ml=abs(score.volume_error_ml),
                **outcome,
            )


def mean_rows(rows: Iterable[ScoreRow]) -> list[ScoreRow]:
    """The rows that are means over organs."""
    return [row for row in rows if not row.organ]


def organ_rows(rows: Iterable[ScoreRow]) -> list[ScoreRow]:
    """The rows of single organs."""
    return [row for row in rows if row.organ]


def score_rows(
    cases: Iterable[CaseScores], organs: Mapping[int, str] = AMOS_ORGANS, sexes: Mapping[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows that `write_scores` writes, by column."""
    for row in rows_by_organ(cases, organs, sexes):
        yield {**vars(row), "seen": row.seen, "outcome": row.outcome, "organ": row.label, "organ_name": row.organ}


def write_scores(
    path: Path | str,
    cases: Iterable[CaseScores],
    organs: Mapping[int, str] = AMOS_ORGANS,
    sexes: Mapping[str, str] | None = None,
) -> None:
    """Write one row per case and organ, in the order given; a score that does not count is left empty.

    Numbers are written so that they read back exactly. A case without any organ has no row. `sexes` by case, `M` or
    `F`, determine an organ's name.
    """
    write_table(path, SCORES, score_rows(cases, organs, sexes))
