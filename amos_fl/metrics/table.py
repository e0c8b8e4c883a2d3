"""Scores per case and organ as a CSV file, and back."""

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.errors import AmosError
from amos_fl.files import whole_file
from amos_fl.metrics.scores import OUTCOMES, OrganScore, Outcome, Scores, reported_organs

COLUMNS = (
    *("case", "site", "modality", "seen", "split", "organ", "organ_name"),
    *("dsc", "nsd", "outcome", "reference_ml", "predicted_ml"),
)


@dataclass(frozen=True)
class CaseScores:
    """The scores of one case by label value, and where it comes from. `seen`: its scanner trained."""

    case: str
    site: str
    modality: str
    seen: bool
    split: str
    scores: dict[int, OrganScore]


def sums_of(cases: Iterable[CaseScores], organs: Mapping[int, str] = AMOS_ORGANS) -> Scores:
    """What the cases add up to, each with the organs that are reported in its modality."""
    total = Scores()
    for case in cases:
        reported = reported_organs(organs, case.modality)
        total.add({organ: score for organ, score in case.scores.items() if organ in reported})
    return total


def write_scores(path: Path | str, cases: Iterable[CaseScores], organs: Mapping[int, str] = AMOS_ORGANS) -> None:
    """Write one row per case and organ, in the order given; a score that does not count is left empty.

    Numbers are written so that they read back as they were. A case without any organ leaves no row.
    """
    with whole_file(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for c in cases:
            for organ, s in c.scores.items():
                where = [c.case, c.site, c.modality, "yes" if c.seen else "no", c.split, organ, organs.get(organ, "")]
                marks = ["" if math.isnan(mark) else repr(float(mark)) for mark in (s.dsc, s.nsd)]
                volumes_ml = [repr(float(s.reference_ml)), repr(float(s.predicted_ml))]
                writer.writerow([*where, *marks, s.outcome, *volumes_ml])


def read_scores(path: Path | str) -> list[CaseScores]:
    """Read what `write_scores` wrote: the cases in the file's order.

    Raises:
        AmosError: no such file, a missing column, or a value that is none.
    """
    path = Path(path)
    if not path.is_file():
        raise AmosError(f"{path}: no such file of scores; a run writes one when it ends")
    cases: dict[tuple[str, str, str, bool, str], dict[int, OrganScore]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
            raise AmosError(f"{path}: no column {', '.join(missing)}; scores have the columns {', '.join(COLUMNS)}")
        for row in reader:
            try:
                key = (row["case"], row["site"], row["modality"], {"yes": True, "no": False}[row["seen"]], row["split"])
                cases.setdefault(key, {})[int(row["organ"])] = _score(row)
            except (KeyError, TypeError, ValueError, AttributeError):
                raise AmosError(
                    f"{path}, line {reader.line_num}: holds a value that is no score; write it anew"
                ) from None
    return [CaseScores(*key, scores) for key, scores in cases.items()]


def _score(row: Mapping[str, str]) -> OrganScore:
    if row["outcome"] not in OUTCOMES:
        raise ValueError(row["outcome"])
    dsc, nsd = (float(row[column]) if row[column] else math.nan for column in ("dsc", "nsd"))
    return OrganScore(dsc, nsd, cast(Outcome, row["outcome"]), float(row["reference_ml"]), float(row["predicted_ml"]))
