"""Read AMOS's metadata table (`labeled_data_meta_0000_0599.csv`), reporting and repairing its faults.

The table says for each case the scanner's model, the hospital, and the patient's birth date and sex. Known
faults: id 500 is listed twice and 600 not at all (the MR row is 600's), one Philips `Achieva` is
counted under H in Table 2, and the model names are not spelled as in the paper.
"""

import csv
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from amos_fl.cohort.scanners import (
    LAST_CT_ID,
    SCANNERS,
    Institution,
    ScanRecord,
    id_modality,
    published_cases,
)
from amos_fl.errors import AmosError
from amos_fl.strict import columns_of, refuse_surplus
from amos_fl.wording import case_name, case_names

PATTERN = "labeled_data_meta*.csv"
LAST_ID = 600

_COLUMNS = {"amosid", "manufacturersmodelname", "patientsbirthdate", "patientssex", "site"}
"""The columns that are read; several of the others may reduce to the same letters."""
_DOMAIN_OF_MODEL = {
    "aquilionone": "A",
    "brilliance16": "B",
    "somatomforce": "C",
    "optimact660": "D",
    "optimact540": "E",
    "ingenia": "F",
    "prisma": "G",
    "signahde": "H",
    "achieva": "H",
}


@dataclass(frozen=True)
class Metadata:
    """The record of each case by id, whether patients can be told apart, and notes on repairs.

    `absent` are AMOS's ids that the table lacks; their scanners are those of the built-in list.
    """

    records: dict[int, ScanRecord]
    knows_patients: bool
    notes: tuple[str, ...] = ()
    absent: frozenset[int] = frozenset()


@dataclass(frozen=True)
class _Row:
    line: int
    amos_id: int
    model: str
    domain: str | None
    institution: Institution | None
    patient: str
    sex: Literal["M", "F", ""]


def domain_of_model(model: str) -> str | None:
    """The scanner's letter for a model name, however it is spelled; None for a model that AMOS does not have.

    >>> domain_of_model(" Brilliance 16"), domain_of_model("MAGNETOM_Prisma"), domain_of_model("Skyra")
    ('B', 'G', None)
    """
    key = re.sub(r"[^a-z0-9]", "", model.casefold())
    if key in _DOMAIN_OF_MODEL:
        return _DOMAIN_OF_MODEL[key]
    found = {domain for name, domain in _DOMAIN_OF_MODEL.items() if name in key}
    return found.pop() if len(found) == 1 else None


def builtin_metadata() -> Metadata:
    """Metadata without the table: each case's scanner and hospital, and one pair of scans of the same patient."""
    return Metadata({amos_id: case.record for amos_id, case in published_cases().items()}, knows_patients=False)


def find_metadata(*folders: Path) -> Path | None:
    """The metadata table in the first of `folders` that has one, or None.

    Raises:
        AmosError: one folder holds several.
    """
    for folder in folders:
        found = sorted(p for p in folder.glob(PATTERN) if not p.name.startswith("."))
        # The release of unlabelled scans has tables of the same name for ids from 5000 on.
        found = [p for p in found if not re.search(r"_[5-9]\d{3}_", p.name)]
        if len(found) > 1:
            raise AmosError(f"{folder}: holds {len(found)} metadata tables; name the right one with --metadata")
        if found:
            return found[0]
    return None


def read_metadata(path: Path | str) -> Metadata:
    """Read the table and repair its known faults; every repair is a note.

    Raises:
        AmosError: no such file, not a CSV file, a missing column, an id that is not a number, or an id that is listed
        twice with different scanners and cannot be told apart.
    """
    path = Path(path)
    rows, notes = _moved_to_600(_read_rows(path))
    by_id: dict[int, list[_Row]] = defaultdict(list)
    for row in rows:
        by_id[row.amos_id].append(row)
    published = published_cases()
    records: dict[int, ScanRecord] = {}
    for amos_id, same_id in sorted(by_id.items()):
        row = same_id[0]
        if len(same_id) > 1:
            row, note = _one_of(path, same_id)
            notes.append(note)
        known = published[amos_id].record if amos_id in published else None
        domain = row.domain
        if domain is None or SCANNERS[domain].modality != id_modality(amos_id):
            why = f"model {row.model!r} is not one of AMOS's scanners"
            if domain is not None:
                why = f"{row.model} is {SCANNERS[domain].modality}, the id {id_modality(amos_id)}"
            remedy = f"its scanner is taken from the built-in list ({known.domain})" if known else "it is left out"
            notes.append(f"{path.name}, line {row.line}: {case_name(amos_id)}: {why}; {remedy}")
            if known is None:
                continue
            domain = known.domain
        elif "achieva" in row.model.casefold():
            notes.append(f"{case_name(amos_id)} was made on an Achieva; Table 2 counts it under H, as is done here")
        elif known is not None and known.domain != domain:
            notes.append(
                f"{case_name(amos_id)}: {path.name} says {domain}, the built-in list {known.domain}; the table counts"
            )
        institution = row.institution or (known.institution if known else "people")
        records[amos_id] = ScanRecord(amos_id, domain, institution, row.patient, row.sex)
    knows_patients = any(record.patient for record in records.values())
    if absent := set(published) - set(records):
        records.update({amos_id: published[amos_id].record for amos_id in absent})
    if knows_patients and (unknown := [i for i, r in records.items() if not r.patient and i not in absent]):
        notes.append(f"{path.name} gives no birth date or sex, so the patient is not known: {case_names(unknown)}")
    return Metadata(dict(sorted(records.items())), knows_patients, tuple(notes), frozenset(absent))


def _read_rows(path: Path) -> list[_Row]:
    if not path.is_file():
        raise AmosError(f"{path}: no such metadata table")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [re.sub(r"[^a-z]", "", name.casefold()) for name in next(reader, [])]
            columns_of([name for name in header if name in _COLUMNS], path)
            for needed, shown in (("amosid", "amos_id"), ("manufacturersmodelname", "Manufacturer's Model Name")):
                if needed not in header:
                    raise AmosError(f"{path}: no column {shown!r}; this is not AMOS's metadata table")
            return [
                _row(path, reader.line_num, _by_column(path, reader.line_num, header, values))
                for values in reader
                if any(value.strip() for value in values)
            ]
    except UnicodeDecodeError:
        raise AmosError(f"{path}: is not a CSV text file in UTF-8", "save it again as such") from None
    except csv.Error as error:
        raise AmosError(f"{path}: is not a CSV text file ({error})") from None


def _by_column(path: Path, line: int, header: list[str], values: list[str]) -> dict[str, str]:
    refuse_surplus(values[len(header) :], len(header), path, line)
    return dict(zip(header, values, strict=False))


def _row(path: Path, line: int, values: dict[str, str]) -> _Row:
    values = {name: value.strip() for name, value in values.items()}
    digits = re.fullmatch(r"(?:amos_)?0*(\d+)(?:\.0)?", values["amosid"])
    if digits is None:
        raise AmosError(f"{path}, line {line}: amos_id is {values['amosid']!r}; it must be a number")
    model = values.get("manufacturersmodelname", "")
    birth, sex = values.get("patientsbirthdate", ""), values.get("patientssex", "").upper()
    where = values.get("site", "").casefold()
    institution: Institution | None = "people" if "people" in where else "center" if "cent" in where else None
    return _Row(
        line=line,
        amos_id=int(digits[1]),
        model=model,
        domain=domain_of_model(model),
        institution=institution,
        patient=f"{birth.removesuffix('.0')} {sex}" if birth and sex else "",
        sex="M" if sex == "M" else "F" if sex == "F" else "",
    )


def _moved_to_600(rows: list[_Row]) -> tuple[list[_Row], list[str]]:
    """Give the MR row listed under id 500 its own id, 600, if no other row has it."""
    if any(row.amos_id == LAST_ID for row in rows):
        return rows, []
    misplaced = [
        row
        for row in rows
        if row.amos_id == LAST_CT_ID and row.domain is not None and SCANNERS[row.domain].modality == "MR"
    ]
    if len(misplaced) != 1:
        return rows, []
    old = misplaced[0]
    new = replace(old, amos_id=LAST_ID)
    note = f"id {LAST_CT_ID} is listed for an MR scan ({old.model}) and {LAST_ID} is absent: that row is {LAST_ID}'s"
    return [new if row is old else row for row in rows], [note]


def _one_of(path: Path, rows: list[_Row]) -> tuple[_Row, str]:
    """The row of an id that is listed several times: rows that agree, or the one of the id's modality."""
    amos_id = rows[0].amos_id
    fitting = [r for r in rows if r.domain is not None and SCANNERS[r.domain].modality == id_modality(amos_id)]
    if len({(row.domain, row.patient) for row in fitting}) != 1:
        lines = " and ".join(str(row.line) for row in rows)
        raise AmosError(f"{path}: id {amos_id} is on lines {lines}, which differ; correct the table")
    return fitting[0], f"id {amos_id} is listed {len(rows)} times in {path.name}; line {fitting[0].line} counts"
