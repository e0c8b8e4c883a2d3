"""Check that what a finished run has written still tells one story: tables, weights, and whether its scans are real.

Each of these is recorded twice: the tables repeat the evaluations, the ledger holds a hash of every round's weights,
and several files say that the scans are a phantom's. Someone who changes all of them alike is not found out.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np

from amos_fl.cohort.table import Cohort
from amos_fl.csv_table import cells_of
from amos_fl.errors import AmosError
from amos_fl.escape.csv_cells import rows_as_written
from amos_fl.runs.about import VERSIONS
from amos_fl.runs.config import RunConfig
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.network_file import read_network_file
from amos_fl.runs.origin import NETWORK, WEIGHTS
from amos_fl.runs.results import Results, tables_of
from amos_fl.runs.summary import PHANTOM_NOTE
from amos_fl.strict import csv_rows
from amos_fl.weights import hash_of, read_arrays

COPY_WEIGHTS = "copy it from another copy of the run, or resume the run"
NOT_AS_EVALUATED = "does not say what the run's evaluations say"
_KEYS = ("case", "site", "organ", "name", "group", "modality")
"""The columns that say of what a row is."""


def check_as_written(folder: RunFolder, config: RunConfig, cohort: Cohort, results: Results) -> None:
    """Check a finished run; `results` are those of its evaluations.

    Raises:
        AmosError: a table, the weights or the mark of synthetic scans is not what the rest of the folder says.
    """
    check_mark(folder, config, cohort)
    check_weights(folder, results.chosen.round)
    if table := changed_table(folder.path, results):
        raise AmosError(
            f"{folder.path / table}: {NOT_AS_EVALUATED}",
            "put it back, from another copy of the run perhaps, or resume the run, which writes it again",
        )


def changed_table(folder: Path, results: Results) -> str | None:
    """The name of the first table in a run's folder that says something else than its evaluations; None without any.

    Compared are the columns that both have, numbers to the digits that are printed: tables of an older version have
    fewer columns. A table that is not there says nothing.
    """
    for name, (columns, rows) in tables_of(results).items():
        if (folder / name).is_file() and not _says(folder / name, columns, rows):
            return name
    return None


def _says(file: Path, columns: Sequence[str], rows: Iterable[Any]) -> bool:
    expected = [dict(zip(columns, map(str, cells_of(columns, row)), strict=True)) for row in rows]
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv_rows(opened, file, by_program=True)
            found = list(rows_as_written(reader))
    except (AmosError, ValueError, csv.Error):
        return False
    shared = [column for column in columns if column in (reader.fieldnames or ())]
    keys = [column for column in shared if column in _KEYS]
    if len(found) != len(expected) or (expected and not shared):
        return False

    def subject(row: Mapping[str, Any]) -> list[str]:
        return [str(row[key]) for key in keys]

    pairs = zip(sorted(found, key=subject), sorted(expected, key=subject), strict=True)
    return all(_same(there[column], here[column]) for there, here in pairs for column in shared)


def _same(printed: Any, value: str) -> bool:
    """Whether a cell holds this value, to the digits that it has."""
    if printed == value:
        return True
    try:
        places = Decimal(printed).as_tuple().exponent
        return math.isclose(float(printed), float(value), rel_tol=1e-9, abs_tol=0.501 * 10.0 ** int(places))
    except (InvalidOperation, TypeError, ValueError, OverflowError):
        return False


def check_weights(folder: RunFolder, number: int, weights: Mapping[str, np.ndarray] | None = None) -> None:
    """Check that the weights in `model/` (given, if they are read already) are those of this round in the ledger.

    Raises:
        AmosError: they are missing, damaged, or other weights. A ledger that ends before the round says nothing.
    """
    expected = next((entry["weights_sha256"] for entry in folder.entries() if entry["round"] == number), None)
    file = folder.path / "model" / WEIGHTS
    found = read_arrays(file, COPY_WEIGHTS) if weights is None else weights
    if expected is not None and hash_of(found) != expected:
        raise AmosError(f"{file}: is not the weights of round {number}, by their hash in ledger.jsonl", COPY_WEIGHTS)


def check_mark(folder: RunFolder, config: RunConfig | None = None, cohort: Cohort | None = None) -> None:
    """Check that `versions.json` says as the rest of a run's folder whether its scans are synthetic.

    Raises:
        AmosError: it does not.
    """
    of_phantom = config is not None and config.cohort is None and config.engine.name != "deployment"
    synthetic = folder.synthetic
    if file := contradicting_mark(folder, cohort, synthetic=synthetic, of_phantom=of_phantom):
        here, there = ("synthetic", "real") if synthetic else ("real", "synthetic")
        raise AmosError(
            f"{folder.path / VERSIONS}: says that the run's scans are {here}, and {file} that they are {there}",
            "put back the one that was changed, from another copy of the run perhaps",
        )


def contradicting_mark(folder: RunFolder, cohort: Cohort | None, *, synthetic: bool, of_phantom: bool) -> str | None:
    """The file that says something else about whether a run's scans are synthetic, None if none does.

    `of_phantom`: the run's settings name no cohort, so that it made a phantom itself.
    """
    network = folder.path / "model" / NETWORK
    if network.is_file() and read_network_file(network).get("synthetic", synthetic) != synthetic:
        return f"model/{NETWORK}"
    if synthetic:
        return None
    if of_phantom and folder.finished:
        return "config.yaml"
    for name in ("summary.md", "model/MODEL_CARD.md"):
        with suppress(OSError):
            if PHANTOM_NOTE in (folder.path / name).read_text(encoding="utf-8", errors="replace"):
                return name
    return "cohort.csv" if cohort is not None and cohort.synthetic() else None
