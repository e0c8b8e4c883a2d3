"""AMOS's eight scanners, Table 2 of the paper, and which scanner each of the 600 cases came from."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal, cast

from amos_fl.cohort.table import Modality, Split

Institution = Literal["center", "people"]
"""Longgang District Central Hospital and Longgang District People's Hospital, as the metadata table calls them."""


@dataclass(frozen=True)
class Scanner:
    """One of AMOS's scanners; `table2` holds its numbers of training, validation and test cases in the paper."""

    domain: str
    model: str
    modality: Modality
    table2: tuple[int, int, int]


SCANNERS: dict[str, Scanner] = {
    scanner.domain: scanner
    for scanner in (
        Scanner("A", "Aquilion ONE", "CT", (82, 27, 27)),
        Scanner("B", "Brilliance 16", "CT", (68, 23, 23)),
        Scanner("C", "Somatom Force", "CT", (50, 50, 28)),
        Scanner("D", "Optima CT660", "CT", (0, 0, 64)),
        Scanner("E", "Optima CT540", "CT", (0, 0, 58)),
        Scanner("F", "Ingenia", "MR", (0, 0, 29)),
        Scanner("G", "Prisma", "MR", (33, 20, 11)),
        Scanner("H", "Signa HDe", "MR", (7, 0, 0)),
    )
}

LAST_CT_ID = 500
"""Ids up to this one are CT, those above MR (the release's readme and metadata table)."""


@dataclass(frozen=True)
class ScanRecord:
    """The origin of one AMOS case.

    `patient` is the same text for all scans of a patient, empty if unknown. It is only for comparison and never shown,
    because it holds a birth date. `sex` is M or F, empty if unknown.
    """

    amos_id: int
    domain: str
    institution: Institution
    patient: str = ""
    sex: Literal["M", "F", ""] = ""


@dataclass(frozen=True)
class PublishedCase:
    """A row of the built-in list: the case's origin and its part of the release."""

    record: ScanRecord
    release_split: Split


_ONE_PATIENT = {13: "cases 13 and 138", 138: "cases 13 and 138"}
"""Known to be one patient, though the release trains on one and validates on the other."""


@cache
def published_cases() -> dict[int, PublishedCase]:
    """The built-in list of all 600 AMOS cases by id.

    >>> published_cases()[600].record.domain, published_cases()[500].record.domain, len(published_cases())
    ('F', 'E', 600)
    """
    text = resources.files("amos_fl.cohort").joinpath("scanners.csv").read_text(encoding="utf-8")
    cases: dict[int, PublishedCase] = {}
    for row in csv.DictReader(text.splitlines()):
        amos_id = int(row["amos_id"])
        institution: Institution = "center" if row["site"] == "center" else "people"
        record = ScanRecord(amos_id, row["domain"], institution, _ONE_PATIENT.get(amos_id, ""))
        cases[amos_id] = PublishedCase(record, cast(Split, row["release_split"]))
    return cases


def id_modality(amos_id: int) -> Modality:
    """The modality of an id in AMOS's numbering."""
    return "CT" if amos_id <= LAST_CT_ID else "MR"
