"""Write the cases of a DICOM export as a cohort: scans and label maps as NIfTI files under pseudonyms.

NIfTI, because then the cohort is like any other, and because nothing of a DICOM header is copied with the voxels: no
name, no number, no date. Which case is which series stands in a table beside the cohort, not in it.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import UInt8

from amos_fl.cohort.dataset import Dataset, Found, ImportedCohort, Row, imported_cohort
from amos_fl.cohort.dicom_export import Export, LabelledSeries, LeftOut, series_name
from amos_fl.cohort.dicom_organs import StructureNames
from amos_fl.cohort.overlaps import combined
from amos_fl.cohort.table import Modality, OnCase
from amos_fl.dicom.labels import grid_of
from amos_fl.dicom.series import Series, write_series
from amos_fl.errors import AmosError
from amos_fl.escape.csv_cells import Writer
from amos_fl.files import private_folder, whole_file
from amos_fl.pseudonyms import pseudonym, secret_key
from amos_fl.volumes.nifti import write_label

DEFAULT_SITE = "site"


@dataclass(frozen=True)
class Written:
    """A case that was written. `annotated` are the organs that its labels draw; none: it has no label map."""

    case: str
    patient: str
    source: LabelledSeries
    image: Path
    label: Path | None
    annotated: tuple[int, ...]


@dataclass(frozen=True)
class ImportedExport:
    """What became of an export: its cases, and what was left out while they were written, and notes on both."""

    cases: tuple[Written, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


def write_cases(
    export: Export,
    names: StructureNames,
    values: Mapping[str, int],
    organs: Mapping[int, str],
    out: Path,
    private: Path,
    *,
    on_case: OnCase = lambda done, total, case: None,
) -> ImportedExport:
    """Write the scan and the label map of each case into `out`, and which case is which series into `private`.

    `values` has the label value of each structure that is an organ. A case that cannot be written is left out, and the
    others go on.

    Raises:
        AmosError: `private` lies in `out`, one of the two cannot be made, or there is no key that can be used.
    """
    if private.resolve().is_relative_to(out.resolve()):
        raise AmosError(
            f"{private}: is in the cohort, and would identify patients", "choose a folder outside the cohort"
        )
    for folder in (out, private):
        try:
            private_folder(folder)
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise AmosError(f"{folder}: the folder cannot be made ({why})", "choose another place") from None
    key = secret_key(private / "pseudonym.key")
    written: list[Written] = []
    left_out, notes = list(export.left_out), list(export.notes)
    for done, source in enumerate(export.cases, start=1):
        series = source.series
        case = f"{series.modality.lower()}_{pseudonym(key, f'series {series.uid}')}"
        patient = f"p_{pseudonym(key, f'patient {source.patient}')}"
        try:
            array, annotated, said = _label_map(source, names, values, organs)
            image = out / "images" / f"{case}.nii.gz"
            private_folder(image.parent)
            write_series(series, image)
            label = out / "labels" / f"{case}.nii.gz" if annotated else None
            if label is not None:
                private_folder(label.parent)
                write_label(label, array.transpose(2, 1, 0), image)
            written.append(Written(case, patient, source, image, label, annotated))
            notes += [f"{case}: {sentence}" for sentence in (*series.notes, *said)]
        except AmosError as error:
            left_out.append(LeftOut(series_name(series), export.where(series), str(error)))
        on_case(done, len(export.cases), case)
    _write_private(private / "cases.csv", _CASES, [_row_of(one, export) for one in written])
    rows = [[one.what, one.where, one.why] for one in left_out]
    _write_private(private / "left_out.csv", ("what", "where", "why"), rows)
    _write_private(private / "notes.csv", ("note",), [[note] for note in notes])
    return ImportedExport(tuple(written), tuple(left_out), tuple(notes))


def cohort_of(
    imported: ImportedExport,
    organs: Mapping[int, str],
    *,
    site: str | None,
    table: Mapping[str, Row] | None,
    split: str | None,
    seed: int,
) -> ImportedCohort:
    """The cohort of an import: as `imported_cohort` has it, drawn by patient.

    Raises:
        AmosError: as `imported_cohort`, or no case at all.
    """
    if not imported.cases:
        raise AmosError("no series of the export could become a case")
    cases = {one.case: one for one in imported.cases}
    rows = {}
    for name in cases if table is None else table:
        row = Row() if table is None else table[name]
        if (one := cases.get(name)) is not None:
            modality = cast(Modality, one.source.series.modality)
            row = replace(row, patient=row.patient or one.patient, modality=modality)
        rows[name] = row
    dataset = Dataset(
        name=DEFAULT_SITE,
        folder=Path("the export"),
        organs=dict(organs),
        modality=None,
        channel="DICOM",
        cases=tuple(Found(one.case, one.image, one.label) for one in imported.cases),
    )
    found = imported_cohort(dataset, site=site, table=rows, split=split, seed=seed)
    annotated = {one.case: one.annotated or tuple(organs) for one in imported.cases}
    cohort = replace(
        found.cohort, cases=tuple(replace(case, annotated=annotated[case.case]) for case in found.cohort.cases)
    )
    patients = {case.patient for case in cohort.cases}
    alone = [
        f"all {len(cohort.cases)} cases are of one patient by their headers; where an anonymised export names all "
        "alike, tell them apart in a --table with the columns case and patient"
    ]
    return ImportedCohort(cohort, (*found.notes, *(alone if len(patients) == 1 and len(cohort.cases) > 1 else ())))


def _label_map(
    source: LabelledSeries, names: StructureNames, values: Mapping[str, int], organs: Mapping[int, str]
) -> tuple[UInt8[np.ndarray, "slice row column"], tuple[int, ...], list[str]]:
    """The label map of a series, the organs that it has, and notes.

    Raises:
        AmosError: no organ can be drawn although there are labels, two labels draw one organ, or a label is damaged.
    """
    shape = grid_of(source.series)[1]
    masks: dict[int, np.ndarray] = {}  # packed, because fifteen organs of a whole scan are gigabytes
    owner: dict[int, str] = {}
    notes: list[str] = []
    for label in source.labels:
        wanted = tuple(s for s in label.structures if not s.absent and names.of(s) in values)
        for organ in {values[names.of(structure)] for structure in wanted}:
            if other := owner.get(organ):
                raise AmosError(
                    f"{organs[organ]} is in two of its labels, {other} and {label.path.name}; choose one with --labels"
                )
            owner[organ] = label.path.name
        try:
            for drawn in replace(label, structures=wanted).drawn_on(source.series):
                name, organ = names.of(drawn.structure), values[names.of(drawn.structure)]
                if drawn.mask is None:
                    notes.append(f"{name}: not used, {drawn.problem}")
                    continue
                notes += [f"{name}: {note}" for note in drawn.notes]
                packed = np.packbits(drawn.mask)
                masks[organ] = masks[organ] | packed if organ in masks else packed
        except AmosError as error:
            raise AmosError(f"{label.path.name}: {error}") from None
    if source.labels and not masks:
        why = f" ({'; '.join(notes)})" if notes else ""
        raise AmosError(f"no structure of its labels is one of the organs{why}")
    array, shared = combined(masks, shape, organs)
    return array, tuple(sorted(masks)), [*notes, *shared]


_CASES = ("case", "patient", "patient_id", "study_uid", "series_uid", "where", "labels", "organs")


def _row_of(one: Written, export: Export) -> Sequence[str]:
    series: Series = one.source.series
    return (
        one.case,
        one.patient,
        one.source.patient,
        series.study_uid,
        series.uid,
        export.where(series),
        " ".join(os.path.relpath(label.path, export.folder) for label in one.source.labels),
        " ".join(map(str, one.annotated)),
    )


def _write_private(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table that its owner alone may read."""
    with whole_file(path, private=True) as beside:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", newline="", encoding="utf-8") as file:
            writer = Writer(file)
            writer.writerow(columns)
            writer.writerows(rows)
