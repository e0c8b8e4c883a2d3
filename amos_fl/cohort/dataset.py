"""Turn another project's dataset into a cohort: the common part of all such imports."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from amos_fl.cohort.splitting import DEFAULT, CaseToPlace, Shares, divide
from amos_fl.cohort.table import SPLITS, Case, Cohort, Modality, Split, plain_name
from amos_fl.errors import AmosError
from amos_fl.files import MOST_NAME_BYTES
from amos_fl.strict import csv_rows
from amos_fl.wording import counted

_CT = {"ct"}
_MR = {"mr", "mri", "t1", "t2", "t1w", "t2w", "pd", "adc", "flair", "t1gd", "t1ce", "t2f", "dwi", "cine"}
_TABLE_COLUMNS = ("case", "site", "patient", "split", "modality")


@dataclass(frozen=True)
class Found:
    """One scan of a dataset; `split` if the dataset itself gives it."""

    case: str
    image: Path
    label: Path | None
    split: Split | None = None


@dataclass(frozen=True)
class Dataset:
    """A dataset as found on disk. `modality` is None if its channel's name does not say CT or MR."""

    name: str
    folder: Path
    organs: dict[int, str]
    modality: Modality | None
    channel: str
    cases: tuple[Found, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A case's row in the user's table; None for values it does not give."""

    site: str | None = None
    patient: str | None = None
    split: Split | None = None
    modality: Modality | None = None


@dataclass(frozen=True)
class ImportedCohort:
    """The cohort of a dataset, and what its user should know."""

    cohort: Cohort
    notes: tuple[str, ...] = field(default=())


def modality_of(channel: str) -> Modality | None:
    """CT or MR from a dataset's name for a channel; None if the name does not say it.

    >>> modality_of("CT"), modality_of("T2 MRI"), modality_of("CT and MR"), modality_of("zscore")
    ('CT', 'MR', None, None)
    """
    words = set(re.findall(r"[a-z0-9]+", channel.casefold()))
    ct, mr = bool(words & _CT), bool(words & _MR)
    return None if ct == mr else "CT" if ct else "MR"


def read_organs_of(labels: Mapping[str, int], where: Path) -> dict[int, str]:
    """Organs by label value from names and values; background is left out.

    Raises:
        AmosError: no organ, two names for one value, or a value outside 1 to 255.
    """
    organs: dict[int, str] = {}
    for name, value in labels.items():
        if value == 0 or name == f"unused {value}":
            continue
        if not 1 <= value <= 255:
            raise AmosError(f"{where}: the label of {name!r} is {value}; a label lies between 1 and 255")
        if value in organs:
            raise AmosError(f"{where}: {organs[value]!r} and {name!r} have the same label, {value}; give each its own")
        organs[value] = name.strip()
    if not organs:
        raise AmosError(f"{where}: names no organ under 'labels'")
    if len(set(organs.values())) < len(organs):
        raise AmosError(f"{where}: two labels have the same name; every label needs its own organ name")
    return dict(sorted(organs.items()))


def read_table(path: Path) -> dict[str, Row]:
    """A user's CSV table about cases: `case`, and any of `site`, `patient`, `split` and `modality`.

    Raises:
        AmosError: no such file, an unknown column, or an invalid value.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv_rows(file, path)
            columns = list(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader if any(row.values())]
    except (OSError, UnicodeDecodeError, csv.Error):
        raise AmosError(f"{path}: no such table; give a CSV file with the column case and, say, site") from None
    if unknown := set(columns) - set(_TABLE_COLUMNS):
        raise AmosError(f"{path}: unknown column {min(unknown)!r}; allowed: {', '.join(_TABLE_COLUMNS)}")
    if "case" not in columns or len(columns) < 2:
        raise AmosError(f"{path}: must have the column case and one of {', '.join(_TABLE_COLUMNS[1:])}")
    found: dict[str, Row] = {}
    for line, values in rows:
        value = {key: (text or "").strip() for key, text in values.items() if isinstance(key, str)}
        where = f"{path}, line {line}"
        if value["case"] in found:
            raise AmosError(f"{where}: case {value['case']} is listed twice; case names must be unique")
        site, split = value.get("site"), value.get("split", "").casefold()
        if site is not None and not (site and plain_name(site)):
            raise AmosError(f"{where}: a site is called {site!r}; it needs letters, digits, '.', '_' or '-'")
        if split and split not in SPLITS:
            raise AmosError(f"{where}: split is {split!r}; it must be train, val or test")
        modality = value.get("modality", "")
        if modality and modality_of(modality) is None:
            raise AmosError(f"{where}: modality is {modality!r}; it must be CT or MR")
        found[value["case"]] = Row(
            site,
            value.get("patient") or None,
            cast("Split | None", split or None),
            modality_of(modality) if modality else None,
        )
    return found


def check_table(table: Mapping[str, Row], names: Sequence[str], folder: Path) -> None:
    """Check that a user's table has a row for every case of a dataset, and no other.

    Raises:
        AmosError: it lacks a case, or names another.
    """
    if missing := [name for name in names if name not in table]:
        raise AmosError(f"the table lacks case {missing[0]} ({counted(len(missing), 'case')}); every case needs a row")
    if strangers := sorted(set(table) - set(names)):
        raise AmosError(f"the table names case {strangers[0]}, which is not in {folder}")


def imported_cohort(
    dataset: Dataset,
    *,
    site: str | None = None,
    table: Mapping[str, Row] | None = None,
    split: str | None = None,
    seed: int = 0,
    modality: Modality | None = None,
) -> ImportedCohort:
    """Make a cohort from a dataset.

    The table gives each case's site, patient, split and modality; without one there is one site, `site` or the
    dataset's name. A split is the table's, or the dataset's, or drawn by patient and seed in the shares of `split`
    (such as `70,10,20`), which, if given, overrides the dataset's own split of its training cases.

    Raises:
        AmosError: a case missing from the table, an unknown modality, or invalid names.
    """
    rows = dict(table or {})
    names = [found.case for found in dataset.cases]
    if odd := [name for name in names if not plain_name(name)]:
        raise AmosError(
            f"{dataset.folder}: a case is called {odd[0]!r}; its name may hold letters, digits, '.', '_' and '-' only, "
            f"up to {MOST_NAME_BYTES} bytes of them"
        )
    if table is not None:
        check_table(table, names, dataset.folder)
    default = site or re.sub(r"[^\w.-]+", "_", dataset.name).strip("._") or "site"
    if not plain_name(default):
        raise AmosError(f"--site {default}: may hold letters, digits, '.', '_' and '-' only")
    cases = []
    for found in dataset.cases:
        row = rows.get(found.case, Row())
        known = row.modality or modality or dataset.modality
        if known is None:
            raise AmosError(
                f"{dataset.folder}: its channel is called {dataset.channel!r}, which says neither CT nor MR; add "
                "--modality CT or --modality MR"
            )
        place = row.site or default
        annotated, patient = tuple(dataset.organs), row.patient or ""
        cases.append(Case(found.case, place, known, "test", found.image, found.label, annotated, patient=patient))
    splits, notes = _splits(dataset, cases, rows, split, seed)
    cases = [replace(case, split=splits[case.case]) for case in cases]
    cohort = Cohort(tuple(cases), dict(dataset.organs))
    for name in SPLITS:
        if not cohort.of(split=name, labelled=True):
            what = {"train": "nothing can be trained", "val": "the last round counts", "test": "nothing is scored"}[
                name
            ]
            notes.append(f"no labelled {name} case: {what}")
    return ImportedCohort(cohort, (*dataset.notes, *notes))


def _splits(
    dataset: Dataset, cases: Sequence[Case], rows: Mapping[str, Row], split: str | None, seed: int
) -> tuple[dict[str, Split], list[str]]:
    own: dict[str, Split | None] = {found.case: found.split for found in dataset.cases}
    splits: dict[str, Split] = {}
    draw: list[Case] = []
    for case in cases:
        row = rows.get(case.case, Row())
        given = row.split or own[case.case]
        if given == "test" or (given is not None and (row.split or split is None)):
            splits[case.case] = given
        elif case.label is None:
            splits[case.case] = "test"
        else:
            draw.append(case)
    notes = []
    if draw:
        shares = Shares.of(split or DEFAULT)
        members = [CaseToPlace(c.case, c.site, rows.get(c.case, Row()).patient or c.case) for c in draw]
        splits |= divide(members, shares, seed)
        by = "patient" if any(row.patient for row in rows.values()) else "case, because no patient is named"
        counts = ", ".join(f"{sum(splits[c.case] == name for c in draw)} {name}" for name in SPLITS)
        notes.append(f"drawn by {by}, with seed {seed}: {counts}")
    return splits, [*notes, *_torn_patients(cases, rows, splits)]


def _torn_patients(cases: Sequence[Case], rows: Mapping[str, Row], splits: Mapping[str, Split]) -> list[str]:
    """Notes about patients whose cases are in several splits."""
    sides: dict[str, set[str]] = {}
    for case in cases:
        if case.label is not None and (patient := rows.get(case.case, Row()).patient):
            sides.setdefault(patient, set()).add(splits[case.case])
    torn = sorted(patient for patient, found in sides.items() if len(found) > 1)
    return [f"{counted(len(torn), 'patient')} in several splits, as given: {', '.join(torn[:5])}"] if torn else []
