"""Scores per case and organ, as JSON values and from a CSV file."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.errors import AmosError
from amos_fl.escape.csv_cells import rows_as_written
from amos_fl.metrics.catalogue import FURTHER, METRICS
from amos_fl.metrics.scores import OUTCOMES, OrganScore, Outcome, Scores, reported_organs
from amos_fl.strict import csv_rows

SCORE_COLUMNS = (
    *("case", "site", "modality", "seen", "split", "organ", "organ_name"),
    *("dsc", "nsd", "outcome", "reference_ml", "predicted_ml"),
)
MEASURED = (*FURTHER, "volume_error_ml")
"""Further columns; a table without them is read as well."""
MEN_AND_WOMEN = {"prostate/uterus": {"M": "prostate", "F": "uterus"}}
"""The organ that a label means in men and in women."""


@dataclass(frozen=True)
class CaseScores:
    """The scores of one case by label value, with its origin. `seen`: its scanner trained.

    For label maps of unknown origin, site and split are empty, and `seen` is False and written empty.
    """

    case: str
    site: str
    modality: str
    seen: bool
    split: str
    scores: dict[int, OrganScore]


def organ_name(organs: Mapping[int, str], organ: int, sex: str = "") -> str:
    """An organ's name, in a patient of the sex `M` or `F` if known.

    >>> [organ_name(AMOS_ORGANS, 15, sex) for sex in ("", "M", "F")]
    ['prostate/uterus', 'prostate', 'uterus']
    """
    name = organs.get(organ, "")
    return MEN_AND_WOMEN.get(name, {}).get(sex, name)


def sums_of(cases: Iterable[CaseScores], organs: Mapping[int, str] = AMOS_ORGANS) -> Scores:
    """Sums over cases, each with the organs that are reported in its modality."""
    total = Scores()
    for case in cases:
        reported = reported_organs(organs, case.modality)
        total.add({organ: score for organ, score in case.scores.items() if organ in reported})
    return total


def read_scores(path: Path | str) -> list[CaseScores]:
    """Read what `metrics.rows.write_scores` wrote: the cases in the file's order.

    Raises:
        AmosError: no such file, a missing column, or an invalid value.
    """
    path = Path(path)
    if not path.is_file():
        raise AmosError(f"{path}: no such file of scores; a run writes one when it ends")
    cases: dict[tuple[str, str, str, bool, str], dict[int, OrganScore]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv_rows(file, path, by_program=True)
        if missing := [column for column in SCORE_COLUMNS if column not in (reader.fieldnames or ())]:
            raise AmosError(
                f"{path}: no column {', '.join(missing)}; scores have the columns {', '.join(SCORE_COLUMNS)}"
            )
        for row in rows_as_written(reader):
            try:
                seen = {"yes": True, "no": False, "": False}[row["seen"]]
                key = (row["case"], row["site"], row["modality"], seen, row["split"])
                cases.setdefault(key, {})[int(row["organ"])] = _score(row)
            except (KeyError, TypeError, ValueError, AttributeError):
                raise AmosError(
                    f"{path}, line {reader.line_num}: holds a value that is not a score; write it again"
                ) from None
    return [CaseScores(*key, scores) for key, scores in cases.items()]


def organs_of_scores(path: Path | str) -> dict[int, str]:
    """The organs of a file that `write_scores` wrote, by label value."""
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        return {int(row["organ"]): row["organ_name"] for row in rows_as_written(csv_rows(file, path, by_program=True))}


def _score(row: Mapping[str, str]) -> OrganScore:
    if row["outcome"] not in OUTCOMES:
        raise ValueError(row["outcome"])
    measured = {name: float(row[name]) if row.get(name) else math.nan for name in METRICS}
    volumes_ml = {name: float(row[name]) for name in ("reference_ml", "predicted_ml")}
    return OrganScore(outcome=cast(Outcome, row["outcome"]), **measured, **volumes_ml)


def scores_to_json(scores: Mapping[int, OrganScore]) -> dict[str, Any]:
    """A case's scores as JSON values; a score that does not count is null."""

    def number(value: Any) -> Any:
        return None if isinstance(value, float) and math.isnan(value) else value

    return {str(organ): {key: number(value) for key, value in asdict(score).items()} for organ, score in scores.items()}
