"""An export of a hospital's archive (PACS): which series and labels lie in it, and which label is of which series.

References are checked by UID: a label counts for the series that it names, in that series' frame of reference and of
its patient. Whatever cannot be used is left out with the reason, and nothing else with it.
"""

import fnmatch
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from amos_fl.dicom.files import files_below
from amos_fl.dicom.labels import Label
from amos_fl.dicom.segmentation import read_segmentation
from amos_fl.dicom.series import Series, series_in
from amos_fl.dicom.structure_set import read_structure_set
from amos_fl.errors import AmosError
from amos_fl.scan_files import shown
from amos_fl.wording import counted

_READERS: dict[str, Callable[[Path], Label]] = {"RTSTRUCT": read_structure_set, "SEG": read_segmentation}


@dataclass(frozen=True)
class SeriesChoice:
    """Which series and labels of an export are wanted; an empty list wants all.

    Descriptions are compared without capitals, as words that occur in them or as patterns with * and ?.
    """

    modality: str | None = None
    descriptions: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    unlabelled: bool = False


@dataclass(frozen=True)
class LeftOut:
    """Something of an export that is not used: what it is, the file or folder in the export, and why."""

    what: str
    where: str
    why: str


@dataclass(frozen=True)
class LabelledSeries:
    """A series that becomes a case, with its labels; without any it can only be predicted."""

    series: Series
    labels: tuple[Label, ...]

    @property
    def patient(self) -> str:
        """What identifies the patient; where the headers name none, the study counts as one."""
        return next(iter(self.series.patients), "") or self.series.study_uid or self.series.uid


@dataclass(frozen=True)
class Export:
    """What an export holds: the series that become cases, everything else with the reason, and notes on both."""

    folder: Path
    cases: tuple[LabelledSeries, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]

    @property
    def labels(self) -> list[Label]:
        """The labels of all cases."""
        return [label for case in self.cases for label in case.labels]

    def where(self, series: Series) -> str:
        """The file or folder of a series in the export."""
        return _place(self.folder, series.files)


def read_export(folder: Path, choice: SeriesChoice) -> Export:
    """Look through all files below a folder, by their headers.

    Raises:
        AmosError: no such folder, the extra `dicom` is not installed, or no file is DICOM.
    """
    if not folder.is_dir():
        raise AmosError(f"{shown(folder)}: no such folder", "give the folder that the archive was exported to")
    out = _LeftOut(folder)
    found = series_in(files_below(folder), on_stray=lambda path, why: out.add("file", [path], f"{why}"))
    if not found:
        raise AmosError(f"{shown(folder)}: holds no DICOM file", "give the folder that the archive was exported to")
    labels = sorted((label for series in found for label in _labels_in(series, choice, out)), key=lambda x: x.path)
    usable, scans = _chosen(found, choice, out)
    by_series: dict[str, list[Label]] = defaultdict(list)
    notes = []
    for label in labels:
        try:
            series, note = _series_of(label, scans, usable)
        except AmosError as error:
            out.add(_name_of(label), [label.path], str(error))
            continue
        by_series[series.uid].append(label)
        name = f"{shown(label.path.name)} ({label.kind})"
        notes += [f"{name}: {sentence}" for sentence in (note, *label.notes) if sentence]
    cases = []
    for series in usable:
        if by_series[series.uid] or choice.unlabelled:
            cases.append(LabelledSeries(series, tuple(by_series[series.uid])))
        else:
            out.add(series_name(series), series.files, "no label refers to it")
    cases.sort(key=lambda case: (case.patient, case.series.study_uid, case.series.uid))
    return Export(folder, tuple(cases), tuple(out.found), tuple(notes))


class _LeftOut:
    """Collects what is left out of an export."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.found: list[LeftOut] = []

    def add(self, what: str, files: Sequence[Path], why: str) -> None:
        self.found.append(LeftOut(what, _place(self._folder, files), why))


def _place(folder: Path, files: Sequence[Path]) -> str:
    place = files[0] if len(files) == 1 else Path(os.path.commonpath([path.parent for path in files]))
    return shown(Path(os.path.relpath(place, folder)).as_posix())


def series_name(series: Series) -> str:
    """A series in a sentence, by its number and description."""
    described = f" '{series.description}'" if series.description else ""
    return f"{series.modality} series {series.number or '-'}{described}"


def _name_of(label: Label) -> str:
    return f"{label.kind} '{label.description}'" if label.description else label.kind


def _labels_in(series: Series, choice: SeriesChoice, out: _LeftOut) -> list[Label]:
    found = []
    for path in series.files if series.modality in _READERS else ():
        try:
            label = _READERS[series.modality](path)
        except AmosError as error:
            out.add(series.modality, [path], str(error))
            continue
        if choice.labels and not _fits(label.description, choice.labels):
            out.add(_name_of(label), [path], "its description is not one of those asked for")
        else:
            found.append(label)
    return found


def _chosen(found: Iterable[Series], choice: SeriesChoice, out: _LeftOut) -> tuple[list[Series], dict[str, Series]]:
    """The series that may become cases, and all that hold images, by UID."""
    usable, scans = [], {}
    for series in found:
        if series.modality in _READERS:
            continue
        if series.volume or series.uid not in scans:
            scans[series.uid] = series
        if why := _unwanted(series, choice):
            out.add(series_name(series), series.files, why)
        else:
            usable.append(series)
    return usable, scans


def _unwanted(series: Series, choice: SeriesChoice) -> str | None:
    if not series.volume:
        kind = "a localizer" if series.localizer else "no CT or MR of four or more slices"
        return series.problem or f"is {kind}"
    if choice.modality is not None and series.modality != choice.modality:
        return f"is {series.modality}, and {choice.modality} was asked for"
    if choice.descriptions and not _fits(series.description, choice.descriptions):
        return "its description is not one of those asked for"
    if _fits(series.description, choice.exclude):
        return "its description is one of those excluded"
    return series.problem


def _fits(description: str, patterns: Iterable[str]) -> bool:
    text = description.casefold()
    return any(
        fnmatch.fnmatchcase(text, word) if set(word) & set("*?") else word in text
        for word in (pattern.casefold() for pattern in patterns)
    )


def _series_of(label: Label, scans: dict[str, Series], usable: Sequence[Series]) -> tuple[Series, str]:
    """The series that a label belongs to, and what is to be noted about that.

    Raises:
        AmosError: there is none, and why.
    """
    note = ""
    named = [scans[uid] for uid in sorted(label.series_uids) if uid in scans]
    if not named:
        named = [series for series in scans.values() if series.instance_uids & label.instance_uids]
    if not named and not label.series_uids and not label.instance_uids:
        named = [series for series in usable if series.frame_of_reference in label.frames_of_reference - {""}]
        note = f"names no series, and was drawn in the frame of reference of {series_name(named[0])}" if named else ""
    if not named:
        if label.series_uids:
            raise AmosError(f"its series is not in the export ({', '.join(sorted(label.series_uids))})")
        raise AmosError("names no series, and none of the export has its frame of reference")
    if len(named) > 1:
        raise AmosError(f"refers to {len(named)} series of the export; export it with the one that it was drawn on")
    [series] = named
    if label.patient and series.patients and label.patient not in series.patients:
        raise AmosError(f"is of another patient than its series ({series_name(series)})")
    if label.frames_of_reference and series.frame_of_reference not in label.frames_of_reference:
        raise AmosError(f"is of another frame of reference than its series ({series_name(series)})")
    if series.uid not in {one.uid for one in usable}:
        raise AmosError(f"its series is left out ({series_name(series)})")
    if not any(not structure.absent for structure in label.structures):
        raise AmosError("draws nothing")
    if missing := len(label.instance_uids - series.instance_uids):
        note = note or f"refers to {counted(missing, 'image')} that its series does not have here"
    return series, note
