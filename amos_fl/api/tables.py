"""A run's results as tidy data frames: one observation per row."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from amos_fl.comparison.comparison import Comparison
from amos_fl.metrics.catalogue import IN_RUNS
from amos_fl.metrics.rows import ScoreRow, rows_by_organ
from amos_fl.runs.results import SUMMED, Results

SCORES = (
    *("case", "site", "modality", "seen", "split", "organ", *IN_RUNS, "outcome"),
    *("reference_ml", "predicted_ml"),
)
ROUNDS = ("round", "site", "cases", "steps", "loss", "seconds", "share", "missing")
CELLS = ("arm", "scope", "organ", "metric", "value", "low", "high", "cases", "missed", "hallucinated")
DIFFERENCES = (
    *("arm", "reference", "scope", "organ", "metric", "value", "low", "high", "cases"),
    *("p", "p_holm", "verdict"),
)


def scores_table(results: Results) -> pd.DataFrame:
    """One row per case and organ; `dsc` and `nsd` are NaN if the organ does not count in the case."""
    return _table(rows_by_organ(results.cases, results.organs), SCORES)


def sums_table(rows: Iterable[ScoreRow]) -> pd.DataFrame:
    """One row per site, group or organ, as in scores_by_site.csv and scores_by_organ.csv."""
    return _table(rows, SUMMED)


def _table(rows: Iterable[ScoreRow], columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame([[getattr(row, column) for column in columns] for row in rows], columns=list(columns))


def rounds_table(ledger: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per round and site: its training, or under `missing` why there is none.

    `share` is the weight of its update in the round's average, from 0 to 1; NaN if unknown.
    """
    rows: list[tuple[Any, ...]] = []
    for entry in ledger:
        for site, told in entry["sites"].items():
            did = (told["cases"], told["steps"], told["loss"], told["seconds"], told.get("share", math.nan))
            rows.append((entry["round"], site, *did, ""))
        for site, reason in entry["missing"].items():
            rows.append((entry["round"], site, 0, 0, math.nan, math.nan, 0.0, reason))
    rows.sort(key=lambda row: (row[0], row[1]))
    return pd.DataFrame(rows, columns=list(ROUNDS))


def cells_table(comparison: Comparison) -> pd.DataFrame:
    """One row per arm, scope, organ ("" is their mean) and metric, with the 95 % interval."""
    rows = [{**vars(cell), **asdict(cell.estimate)} for cell in comparison.cells]
    return pd.DataFrame(rows, columns=list(CELLS))


def differences_table(comparison: Comparison) -> pd.DataFrame:
    """One row per arm and scope: the arm minus the reference, with its interval, test and verdict."""
    rows = [{**vars(one), **asdict(one.estimate)} for one in comparison.differences]
    return pd.DataFrame(rows, columns=list(DIFFERENCES))
