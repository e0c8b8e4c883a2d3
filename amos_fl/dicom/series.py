"""DICOM series: those in a folder, and the conversion of one to a NIfTI file on the same grid.

pydicom, from the extra `dicom`, reads the files. Everything is checked before they become a scan: that no file is
missing, that the slices form an even, straight stack by position and orientation alone, that their values are HU or MR
intensities. Any other series is refused with the reason; a reader that squeezed, sheared, shortened or inverted the
volume instead would go unnoticed.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1Image

from amos_fl.dicom.directory import listed_instances
from amos_fl.dicom.files import names_of, sorted_out, unusable_files
from amos_fl.dicom.header import DicomFile, pydicom_or_sentence, read_header
from amos_fl.dicom.stack import Stack, stack_of
from amos_fl.dicom.values import check_values, voxels_of
from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_file, whole_file
from amos_fl.wording import counted

_LEAST_SLICES = 4
_MOST_LISTED = 8


@dataclass(frozen=True)
class Series:
    """A DICOM series: its files, and what they declare themselves to be. `slices` counts the frames of all files.

    `stack` is what a scan is made from; without one, `problem` says why. `notes` are sentences about a scan that can be
    made.
    """

    uid: str
    number: str
    description: str
    modality: str
    files: tuple[Path, ...]
    slices: int
    size: tuple[int, int] = (0, 0)
    patients: frozenset[str] = frozenset()
    study_uid: str = ""
    frame_of_reference: str = ""
    instance_uids: frozenset[str] = frozenset()
    localizer: bool = False
    stack: Stack | None = None
    problem: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def volume(self) -> bool:
        """Whether it can be a scan: CT or MR of several slices. Localizers, reports and segmentations are not."""
        return self.modality in ("CT", "MR") and self.slices >= _LEAST_SLICES and not self.localizer

    @property
    def name(self) -> str:
        """Its folder and number, for the beginning of a sentence."""
        folders = {path.parent for path in self.files}
        place = self.files[0] if len(self.files) == 1 else Path(os.path.commonpath(folders))
        return f"{place.resolve().name}, DICOM series {self.number or self.uid}"

    def __str__(self) -> str:
        what = f"{self.modality}, {counted(self.slices, 'slice')}" if self.slices else self.modality
        described = f" '{self.description}'" if self.description else ""
        wrong = f", not usable: {self.problem}" if self.volume and self.problem else ""
        return f"number {self.number or '-'}{described} ({what}, UID {self.uid}{wrong})"


def series_in(files: Sequence[Path], *, on_stray: Callable[[Path, str], None] | None = None) -> list[Series]:
    """The series among files, by number and UID.

    Files that are not DICOM are ignored, and so is a DICOMDIR. But unusable files that look like slices make every
    series unusable that they may belong to: those in their folder. With `on_stray`, for an export of many
    series, that is so only if the folder holds no other series; it is told of the other such files, and of what is
    wrong with them.

    Raises:
        AmosError: the extra `dicom` is not installed, or no file says which series it belongs to.
    """
    pydicom_or_sentence()
    dicom, unusable = sorted_out(sorted(files))
    headers: list[DicomFile] = []
    directories: list[Path] = []
    for path in dicom:
        try:
            header = read_header(path)
        except AmosError as error:
            unusable[path] = str(error)
        else:
            directories.append(path) if header is None else headers.append(header)
    if unusable and not headers:
        raise AmosError(f"{_folder_of(files)}: {unusable_files(list(unusable.items()), 0)}")
    if on_stray is not None:
        unusable = _with_one_owner(unusable, headers, on_stray)
    listed = listed_instances(directories)
    by_uid: dict[tuple[str, str, bool], list[DicomFile]] = {}
    for header in headers:
        by_uid.setdefault((header.series_uid, header.modality, header.is_image), []).append(header)
    folders = {header.path.parent for header in headers}
    series = []
    for (uid, modality, is_image), members in by_uid.items():
        own = {header.path.parent for header in members}
        stray = {path: why for path, why in unusable.items() if path.parent in own or path.parent not in folders}
        series.append(_series(members, stray, listed.get(uid, {}) if is_image and modality in ("CT", "MR") else {}))
    return sorted(series, key=lambda s: (not s.number.isdigit(), int(s.number) if s.number.isdigit() else 0, s.uid))


def _with_one_owner(
    unusable: Mapping[Path, str], headers: Sequence[DicomFile], on_stray: Callable[[Path, str], None]
) -> dict[Path, str]:
    """Those files that can only be slices of one series, because no other has images in their folder."""
    scans: dict[Path, set[str]] = {}
    for header in headers:
        if header.is_image:
            scans.setdefault(header.path.parent, set()).add(header.series_uid)
    owned = {path: why for path, why in unusable.items() if len(scans.get(path.parent, ())) == 1}
    for path, why in unusable.items():
        if path not in owned:
            on_stray(path, why)
    return owned


def _folder_of(files: Sequence[Path]) -> str:
    return str(files[0]) if len(files) == 1 else os.path.commonpath(files)


def _series(members: Sequence[DicomFile], unusable: dict[Path, str], listed: dict[str, str]) -> Series:
    first = members[0]
    images = [header for header in members if header.is_image]
    series = Series(
        uid=first.series_uid,
        number=first.number,
        description=first.description,
        modality=first.modality,
        files=tuple(header.path for header in members),
        slices=sum(header.slices for header in images),
        patients=frozenset(header.patient for header in members if header.patient),
        study_uid=first.study_uid,
        frame_of_reference=next((header.frame_of_reference for header in members if header.frame_of_reference), ""),
        instance_uids=frozenset(header.instance_uid for header in members if header.instance_uid),
        localizer=bool(images) and all(header.is_localizer for header in images),
    )
    if not images or not (series.volume or unusable or any(header.fault for header in images)):
        return series
    try:
        return _checked(series, images, unusable, listed)
    except AmosError as error:
        return replace(series, problem=str(error))


def _checked(series: Series, images: Sequence[DicomFile], unusable: dict[Path, str], listed: dict[str, str]) -> Series:
    """The series with the stack of its images.

    Raises:
        AmosError: they are not one scan, or some are missing; the sentence lacks the name of the series.
    """
    faulty = [*((header.path, header.fault) for header in images if header.fault), *unusable.items()]
    if faulty:
        raise AmosError(unusable_files(faulty, sum(not header.fault for header in images)))
    if len(series.patients) > 1:
        raise AmosError(f"its files name {len(series.patients)} patients; separate them")
    here = {header.instance_uid for header in images}
    if lacking := [name for uid, name in listed.items() if uid not in here]:
        raise AmosError(
            f"{len(lacking)} of {counted(len(listed), 'image')} that the DICOMDIR lists are not here "
            f"({names_of(lacking)}); fetch the series again"
        )
    images, notes = _each_once(images)
    scouts = [header for header in images if header.is_localizer]
    if scouts and len(scouts) < len(images):
        images = [header for header in images if not header.is_localizer]
        taken = counted(sum(len(header.frames) for header in images), "slice")
        notes.append(
            f"{counted(len(scouts), 'localizer')} among its slices left out "
            f"({names_of([header.path.name for header in scouts])}), {taken} taken"
        )
    if len({header.frame_of_reference for header in images} - {""}) > 1:
        raise AmosError("its slices were not taken in one position of the patient (several Frames of Reference)")
    sizes = {header.size for header in images}
    if len(sizes) > 1:
        shown = " and ".join(f"{rows}x{columns}" for rows, columns in sorted(sizes)[:2])
        raise AmosError(f"its slices differ in size ({shown}); export one stack of slices")
    [size] = sizes
    frames = [frame for header in images for frame in header.frames]
    notes += check_values(images, series.modality)
    stack = stack_of(frames, size)
    notes += [*stack.notes, *_fewer_than_stated(images, len(frames))]
    return replace(
        series,
        files=tuple(header.path for header in images),
        slices=len(frames),
        size=size,
        stack=stack,
        notes=tuple(notes),
    )


def _each_once(images: Sequence[DicomFile]) -> tuple[list[DicomFile], list[str]]:
    """The images without exact copies of others, and a note on the copies.

    Raises:
        AmosError: two files claim to be the same image but differ.
    """
    once: dict[str, DicomFile] = {}
    copies: list[str] = []
    for header in sorted(images, key=lambda header: (len(header.path.name), str(header.path))):
        other = once.setdefault(header.instance_uid or str(header.path), header)
        if other is header:
            continue
        if sha256_of_file(header.path) != sha256_of_file(other.path):
            raise AmosError(
                f"{other.path.name} and {header.path.name} claim to be the same image (SOP Instance UID) but "
                "differ; remove the wrong one"
            )
        copies.append(header.path.name)
    left_out = f"{counted(len(copies), 'file')} left out that {'is a copy' if len(copies) == 1 else 'are copies'} of "
    note = f"{left_out}others ({names_of(copies)}), {len(once)} of {counted(len(images), 'file')} taken"
    return sorted(once.values(), key=lambda header: str(header.path)), [note] if copies else []


def _fewer_than_stated(images: Sequence[DicomFile], slices: int) -> list[str]:
    """A note if the headers mention more images. They may count those of other series, so this is no proof."""
    stated = {name: number for header in images for name, number in header.stated_images}
    numbers = sorted({header.instance_number for header in images if header.instance_number is not None})
    strides = {b - a for a, b in itertools.pairwise(numbers)}
    one_of_several = len(strides) == 1 and strides != {1}  # every second or third number, like those of one echo
    if len(numbers) == len(images) == slices and 0 <= numbers[0] <= slices and not one_of_several:
        stated["Instance Number"] = numbers[-1] + (numbers[0] == 0)
    more = {name: number for name, number in stated.items() if number > slices}
    if not more:
        return []
    said = ", ".join(f"{number} ({name})" for name, number in more.items())
    return [
        f"{slices} slices are here, but its headers mention {said}; if some are missing, fetch the series again: "
        "nothing is predicted there"
    ]


def chosen_series(series: Sequence[Series], wanted: str | None, folder: str) -> Series:
    """The one series to read: the one of that number or UID, or the only one that can be a scan.

    Raises:
        AmosError: none fits, or several do; they are listed. Or the one that fits cannot be used.
    """
    if wanted is not None:
        fitting = [s for s in series if wanted in (s.number, s.uid)]
        fitting = [s for s in fitting if s.volume] or fitting
        if len(fitting) != 1:
            what = "several series have" if fitting else "no series has"
            raise AmosError(f"{folder}: {what} the number or UID {wanted}; found: {_listed(series)}")
        if not fitting[0].volume:
            raise AmosError(f"{folder}: the series {fitting[0]} is not CT or MR of {_LEAST_SLICES} or more slices")
        return _usable(fitting[0])
    fitting = [s for s in series if s.volume]
    if not fitting:
        if spoilt := [s for s in series if s.problem]:
            return _usable(spoilt[0])
        raise AmosError(
            f"{folder}: holds no CT or MR series of {_LEAST_SLICES} or more slices; found: {_listed(series)}; give "
            "the folder that holds all files of the series"
        )
    patients = {patient for s in series for patient in s.patients}
    several = f" of {len(patients)} patients" if len(patients) > 1 else ""
    if len(fitting) > 1 or several:
        what = f"several series{several}" if len(series) > 1 else f"a series{several}"
        raise AmosError(f"{folder}: holds {what}; choose one with --series NUMBER or UID (or all): {_listed(series)}")
    chosen = _usable(fitting[0])
    # A slice with a damaged header may look like a series of its own.
    few = [s for s in series if s.modality in ("CT", "MR") and 0 < s.slices < _LEAST_SLICES and not s.localizer]
    if few:
        left_out = f"ignored, as they have fewer than {_LEAST_SLICES} slices: {_listed(few)}"
        chosen = replace(chosen, notes=(*chosen.notes, left_out))
    return chosen


def _listed(series: Iterable[Series]) -> str:
    # Possible scans are always named; of reports and screenshots there can be hundreds.
    ordered = sorted(series, key=lambda s: not s.volume)
    shown = ordered[: max(_MOST_LISTED, sum(s.volume for s in ordered))]
    more = f"; and {len(ordered) - len(shown)} more" if len(ordered) > len(shown) else ""
    return "; ".join(map(str, shown)) + more or "none"


def _usable(series: Series) -> Series:
    if series.problem:
        raise AmosError(f"{series.name}: {series.problem}")
    return series


def write_series(series: Series, path: Path) -> None:
    """Write a series as NIfTI: columns, rows, slices as x, y, z; int16 where every value fits, otherwise float32.

    Raises:
        AmosError: the series is not an even stack of slices, or its pixels cannot be decoded.
    """
    stack = _usable(series).stack
    if stack is None:
        raise AmosError(f"{series.name}: is not CT or MR of {_LEAST_SLICES} or more slices")
    try:
        array = voxels_of(stack.frames, series.size).transpose(2, 1, 0)
    except AmosError as error:
        raise AmosError(f"{series.name}: {error}") from None
    except MemoryError:
        rows, columns = series.size
        what = f"{series.slices} slices of {rows}x{columns} pixels"
        raise AmosError(f"{series.name}: {what} need more memory than is available; are its headers right?") from None
    low, high = float(array.min()), float(array.max())
    if np.isfinite([low, high]).all() and low >= -32768 and high <= 32767 and (array == np.rint(array)).all():
        array = array.astype(np.int16)
    image = Nifti1Image(array, stack.affine)
    image.set_sform(stack.affine, code="scanner")
    image.set_qform(stack.affine, code="scanner")
    image.header.set_xyzt_units("mm")
    with whole_file(path) as beside:
        nibabel.save(image, beside)
