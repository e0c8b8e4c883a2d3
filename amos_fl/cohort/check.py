"""Check every scan and label map of a cohort before anything is trained on them.

Errors would stop or spoil a run; warnings are for a person to judge. A genuine AMOS release has
warnings only.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from amos_fl.cohort.metadata import find_metadata, read_metadata
from amos_fl.cohort.plausible import SPECK_ML, intensity_concerns, pieces_of, volume_concerns
from amos_fl.cohort.reference import label_of
from amos_fl.cohort.table import Case, Cohort
from amos_fl.errors import AmosError
from amos_fl.volumes.nifti import Volume, read_image, reconcile, to_canonical, voxel_counts
from amos_fl.warned import heard
from amos_fl.wording import counted
from amos_fl.workers import each

Severity = Literal["error", "warning"]
_METADATA_FOLDERS_ABOVE = 3
_ROUGHLY = 8
"""Every eighth slice is enough to tell scans apart; those that are alike in these are compared whole."""


@dataclass(frozen=True)
class CaseIssue:
    """What is wrong (error) or unlikely (warning) about a case; `case` is empty for the whole cohort."""

    severity: Severity
    case: str
    message: str


@dataclass(frozen=True)
class _Examined:
    findings: tuple[CaseIssue, ...]
    image_hash: str = ""
    label_hash: str = ""
    specks: int = 0


def check_cohort(
    cohort: Cohort, *, workers: int = 1, on_case: Callable[[int, int, str], None] | None = None
) -> list[CaseIssue]:
    """Read every file of the cohort and return its faults, errors first, in the cohort's order.

    `on_case(done, total, case)` is called after each case. Each worker holds one case in memory at a time.

    Raises:
        AmosError: a worker process died.
    """
    examined: list[_Examined] = []
    results = each(_examine, cohort.cases, [cohort.organs] * len(cohort.cases), workers=workers)
    for case, result in zip(cohort.cases, results, strict=True):
        examined.append(result)
        if on_case is not None:
            on_case(len(examined), len(cohort.cases), case.case)
    examined = _hashed_if_alike(cohort.cases, examined, workers)
    findings = [finding for result in examined for finding in result.findings]
    findings += _same_scans(cohort.cases, examined)
    findings += _same_labels(cohort.cases, examined)
    findings += _repeated_patients(cohort.cases)
    findings += _specks(examined)
    order = {case.case: number for number, case in enumerate(cohort.cases)}
    return sorted(findings, key=lambda f: (f.severity, order.get(f.case, len(order))))


def _examine(case: Case, organs: dict[int, str]) -> _Examined:
    """Findings about one case that do not depend on the others."""
    findings: list[CaseIssue] = []

    def note(severity: Severity, message: str) -> None:
        findings.append(CaseIssue(severity, case.case, message))

    image = label = None
    try:
        with heard() as concerns:
            image = read_image(case.image)
        for concern in concerns:
            note("warning", concern)
    except AmosError as error:
        note("error", str(error))
    if case.label is None:
        if case.split != "test":
            note("warning", f"has no label, so it cannot be used in {case.split}")
    else:
        try:
            with heard() as concerns:
                found = label_of(case, organs)
            for concern in concerns:
                note("warning", concern)
            # A label map on another grid says nothing more about this scan, so it is not examined.
            label = found if image is None else reconcile(image, found, case.label.name)
        except AmosError as error:
            note("error", str(error))
    result = _Examined((), image_hash=_content_hash(image, _ROUGHLY) if image is not None else "")
    if image is not None:
        for concern in intensity_concerns(image.array, label.array if label else None, case.modality):
            note("warning", concern)
    if label is not None:
        voxel_ml = label.voxel_ml
        counts = voxel_counts(label.array)
        present = {int(value) for value in np.flatnonzero(counts)} - {0}
        if not present:
            note("warning", "its label map is empty")
        if unlisted := present - set(case.annotated):
            names = ", ".join(organs[value] for value in sorted(unlisted))
            note("warning", f"{names}: labelled, but 'annotated' does not list it, so it is not used")
        if concerns := volume_concerns(label.array, voxel_ml, organs, counts):
            note("warning", "; ".join(concerns))
        pieces = pieces_of(label.array, voxel_ml, organs)
        if pieces.loose:
            listed = ", ".join(f"{count} of {organ} ({ml:.3g} ml)" for organ, count, ml in pieces.loose)
            note("warning", f"loose pieces: {listed}")
        result = replace(result, label_hash=_content_hash(label) if present else "", specks=pieces.specks)
    return replace(result, findings=tuple(findings))


def _hashed_if_alike(cases: Sequence[Case], examined: Sequence[_Examined], workers: int) -> list[_Examined]:
    """The same, with hashes of all voxels of those scans that are alike in some slices: they are read once more."""
    numbers = {case: number for number, case in enumerate(cases)}
    alike = [numbers[case] for group in _groups(cases, (result.image_hash for result in examined)) for case in group]
    hashes = each(_image_hash, [cases[number] for number in alike], workers=workers)
    known = dict(zip(alike, hashes, strict=True))
    return [replace(one, image_hash=known.get(number, one.image_hash)) for number, one in enumerate(examined)]


def _image_hash(case: Case) -> str:
    with heard():
        return _content_hash(read_image(case.image))


def _content_hash(volume: Volume, every: int = 1) -> str:
    """A hash of the voxels (of one slice in `every`), whatever the file's type, compression and orientation.

    Scans and label maps are told apart by their types, which reading them decides. Slices are taken one by one, each
    along the axis that NIfTI stores first: a copy of the whole volume in another order would take longer than all else.
    """
    voxels = to_canonical(volume).array
    digest = hashlib.sha256(f"{voxels.shape} {voxels.dtype}".encode())
    for z in range(0, voxels.shape[2], every):
        plane = np.ascontiguousarray(voxels[..., z].T)
        # -0.0 becomes 0.0
        digest.update((plane + np.float32(0) if plane.dtype == np.float32 else plane).data)
    return digest.hexdigest()


# --- across cases ---------------------------------------------------------------------------------


def _groups(cases: Iterable[Case], keys: Iterable[str]) -> list[list[Case]]:
    """Groups of two or more cases that share a non-empty key."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case, key in zip(cases, keys, strict=True):
        if key:
            groups[key].append(case)
    return [group for group in groups.values() if len(group) > 1]


def _where(case: Case) -> str:
    return f"{case.case} ({case.split} at {case.site})"


def _same_scans(cases: tuple[Case, ...], examined: list[_Examined]) -> Iterator[CaseIssue]:
    for first, *others in _groups(cases, (result.image_hash for result in examined)):
        for other in others:
            if (first.site, first.split) == (other.site, other.split):
                yield CaseIssue("warning", other.case, f"is the same scan as {_where(first)}, so it counts twice")
            else:
                message = f"{_where(other)} is the same scan as {_where(first)}; keep it in one place only"
                yield CaseIssue("error", other.case, message)


def _same_labels(cases: tuple[Case, ...], examined: list[_Examined]) -> Iterator[CaseIssue]:
    for first, *others in _groups(cases, (result.label_hash for result in examined)):
        images = {case.case: result.image_hash for case, result in zip(cases, examined, strict=True)}
        for other in others:
            if images[other.case] != images[first.case]:
                message = f"has the same label map as {_where(first)} but another image; one patient, or a mix-up?"
                yield CaseIssue("warning", other.case, message)


def _repeated_patients(cases: tuple[Case, ...]) -> Iterator[CaseIssue]:
    """Patients with several scans, by the column `patient` or an AMOS metadata table near the scans."""
    patients: dict[str, str] = {}
    for group in _groups(cases, (case.patient for case in cases)):
        if len({case.split for case in group}) > 1:
            others = ", ".join(_where(case) for case in group)
            yield CaseIssue("warning", group[0].case, f"one patient by the column patient, in several splits: {others}")
    for folder in dict.fromkeys(case.image.parent for case in cases):
        here = folder.absolute()
        above = [here, *here.parents][: _METADATA_FOLDERS_ABOVE + 1]
        try:
            table = find_metadata(*(f for f in above if f.is_dir()))
            records = read_metadata(table).records if table else {}
        except AmosError as error:
            yield CaseIssue("warning", "", f"repeated patients were not checked: {error}")
            continue
        for case in cases:
            name = re.fullmatch(r"amos_(\d{4})", case.case)
            if case.image.parent == folder and name and int(name[1]) in records:
                patients[case.case] = records[int(name[1])].patient
    for group in _groups(cases, (patients.get(case.case, "") for case in cases)):
        sides = "in several splits" if len({case.split for case in group}) > 1 else "in one split"
        others = ", ".join(_where(case) for case in group)
        yield CaseIssue("warning", group[0].case, f"one patient by birth date and sex, {sides}: {others}")


def _specks(examined: list[_Examined]) -> Iterator[CaseIssue]:
    if total := sum(result.specks for result in examined):
        count = sum(result.specks > 0 for result in examined)
        message = (
            f"{counted(total, 'stray piece')} of organs below {SPECK_ML * 1000:g} mm³, in {counted(count, 'label map')}"
        )
        yield CaseIssue("warning", "", message)
