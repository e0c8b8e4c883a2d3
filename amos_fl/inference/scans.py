"""Scans to predict, as a user names them: NIfTI files, folders of them, and DICOM series."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from amos_fl.cohort.plausible import intensity_concerns
from amos_fl.cohort.table import Cohort, Modality
from amos_fl.dicom.files import files_below, lacks_preamble, sorted_out
from amos_fl.dicom.series import Series, chosen_series, series_in, write_series
from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_file, sha256_of_json
from amos_fl.scan_files import (
    SUFFIXES,
    Unusable,
    case_of,
    looks_like_dicom,
    parts_of,
    problem_of,
    scans_in,
    sha256_of_scan,
    shown,
)
from amos_fl.volumes.nifti import Volume, read_image
from amos_fl.wording import counted

EVERY = "all"
"""What `series` says where every series of a folder is meant."""


@dataclass(frozen=True)
class Scan:
    """A scan to predict: `name` is that of its outputs, `path` its NIfTI file or the folder of its DICOM series.

    `problem` is a sentence about a file that seems to be a scan but cannot be used; it fails, and the others continue.
    """

    name: str
    path: Path
    modality: Modality
    series: Series | None = None
    problem: str = ""

    def content_hash(self) -> str:
        """SHA-256 of the file, of both halves of a pair, or of all files of a series in any order, under any names."""
        if self.series is None:
            return sha256_of_scan(self.path)
        return sha256_of_json(sorted(sha256_of_file(path) for path in self.series.files))

    def notes(self) -> list[str]:
        """Oddities of the files of a DICOM series that are no reason to refuse it."""
        return [] if self.series is None else [f"{self.series.name}: {note}" for note in self.series.notes]

    def as_nifti(self, scratch: Path) -> Path:
        """The NIfTI file of the scan; a DICOM series is converted into the folder `scratch`.

        Raises:
            AmosError: a series that is not an even stack of slices.
        """
        if self.series is None:
            return self.path
        path = scratch / f"{self.name}.nii"
        write_series(self.series, path)
        return path


def find_scans(
    paths: Sequence[Path],
    modality: str | None,
    *,
    cohort: Cohort | None = None,
    series: str | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> list[Scan]:
    """The scans at `paths`, in order, those of a folder by name.

    A folder holds NIfTI files or, if it has none, a DICOM series at any depth. DICOM's own modality counts; for NIfTI
    it is `modality`, or what `cohort` says about the file, and never guessed. `series` is the number or UID of the one
    to take, or `all` for every series of a folder, as of an export of many patients; they are named after their folders
    in it. Series of the same name are told apart by the folders above. A file that seems to be a scan but cannot be
    used is a scan with a `problem`, and so is one of several paths that holds no scan; the others continue. `on_note`
    is told what else a folder holds.

    Raises:
        AmosError: nothing found, a missing or contradictory modality, no or several series, or two scans of one name.
    """
    found: list[Scan] = []
    listed: dict[Path, str] = {case.image.resolve(): case.modality for case in cohort.cases} if cohort else {}
    for path in paths:
        try:
            niftis, files, unusable = _files_at(path, on_note)
            scans = [] if niftis or unusable else _dicom_scans(path, files, modality, series)
        except AmosError as error:
            if len(paths) == 1:
                raise
            found.append(Scan(f"{shown(str(path))} (unusable)", path, "CT", problem=str(error)))
            continue
        found += scans
        found += [Scan(_stem(file), file, _modality_of(file, modality, listed)) for file in niftis]
        found += [Scan(f"{shown(bad.name)} (unusable)", bad.path, "CT", problem=bad.sentence) for bad in unusable]
    found = _told_apart(found)
    by_name: dict[str, Scan] = {}
    for scan in found:
        other = by_name.setdefault(scan.name, scan)
        if other is not scan:
            raise AmosError(f"{scan.path} and {other.path} would have the same name; predict them into two folders")
    return found


def _told_apart(scans: Sequence[Scan]) -> list[Scan]:
    """The scans; DICOM series that would have one name get the folders above them into theirs: PAT1_CT, PAT2_CT."""
    found = []
    for scan in scans:
        several = [other for other in scans if other.name == scan.name]
        parents = scan.path.resolve().parent.parts
        if len(several) == 1 or not all(other.series for other in several):
            found.append(scan)
            continue
        same = [other.path.resolve().parent.parts for other in several if other is not scan]
        depth = next((n for n in range(1, len(parents)) if all(parents[-n:] != other[-n:] for other in same)), 0)
        found.append(replace(scan, name="_".join([*parents[len(parents) - depth :], scan.name])))
    return found


def _dicom_scans(path: Path, files: Sequence[Path], modality: str | None, series: str | None) -> list[Scan]:
    if series == EVERY:
        return _every_series(path, files, modality)
    chosen = chosen_series(series_in(files), series, str(path))
    if modality is not None and modality != chosen.modality:
        raise AmosError(f"{path}: DICOM says {chosen.modality}, and the given modality is {modality}; leave it out")
    return [Scan(_stem(path.resolve()), path, cast(Modality, chosen.modality), chosen)]


def _every_series(path: Path, files: Sequence[Path], modality: str | None) -> list[Scan]:
    """Every series below a folder that may be a scan, of one modality if that is given."""
    strays: list[Scan] = []

    def stray(file: Path, why: str) -> None:
        strays.append(Scan(f"{shown(file.name)} (unusable)", file, "CT", problem=f"{shown(file.name)}: {why}"))

    volumes = [s for s in series_in(files, on_stray=stray) if s.volume and modality in (None, s.modality)]
    folders = {s.uid: Path(os.path.commonpath([file.parent for file in s.files])) for s in volumes}
    found = []
    for one in volumes:
        place = folders[one.uid]
        parts = [_stem(path.resolve()), *place.relative_to(path).parts] if path.is_dir() else [_stem(path)]
        if list(folders.values()).count(place) > 1:
            parts.append(f"series{one.number or one.uid}")
        name, of = "_".join(parts[1:] or parts), cast(Modality, one.modality)
        found.append(Scan(name, place, of, one, problem=f"{one.name}: {one.problem}" if one.problem else ""))
    if not found:
        raise AmosError(f"{path}: holds no {modality or 'CT or MR'} series of four or more slices")
    return [*found, *strays]


def _files_at(path: Path, on_note: Callable[[str], None]) -> tuple[list[Path], list[Path], tuple[Unusable, ...]]:
    """NIfTI files or, if there are none, all files that a DICOM series may be among; and what cannot be used."""
    if path.is_dir():
        return _files_in(path, on_note)
    if not path.exists() and not path.is_symlink():
        raise AmosError(f"{shown(path)}: no such file or folder")
    if why := problem_of(path):
        return [], [], (Unusable(case_of(path), path, why),)
    is_dicom = looks_like_dicom(path) or lacks_preamble(path)
    return ([], [path], ()) if is_dicom else ([parts_of(path)[0]], [], ())


def _files_in(folder: Path, on_note: Callable[[str], None]) -> tuple[list[Path], list[Path], tuple[Unusable, ...]]:
    found = scans_in(folder)
    if found.there:
        if dicoms := sum((file := folder / name).is_file() and looks_like_dicom(file) for name in found.others):
            on_note(
                f"{shown(folder)}: {counted(dicoms, 'DICOM file')} in it not predicted, because there are NIfTI files "
                "too; put them into a folder of their own"
            )
        return list(found.scans.values()), [], found.unusable
    below = files_below(folder)
    if not any(sorted_out(below)):
        inside = [name for name in found.others if (folder / name).is_dir() and scans_in(folder / name).there]
        more = f"; there are some in {', '.join(map(shown, inside[:5]))}, name these folders" if inside else ""
        raise AmosError(f"{shown(folder)}: holds no NIfTI file ({', '.join(SUFFIXES)}) and no DICOM file{more}")
    return [], below, ()


def _stem(path: Path) -> str:
    return case_of(path).removesuffix(".dcm")


def _modality_of(path: Path, given: str | None, listed: Mapping[Path, str]) -> Modality:
    known = listed.get(path.resolve())
    if given is not None and known is not None and given != known:
        raise AmosError(f"{path.name}: the cohort says {known}, and the given modality is {given}; leave it out")
    modality = known or given
    if modality is None:
        raise AmosError(
            f"{path.name}: a NIfTI file does not say whether it is CT or MR, and the two are normalised differently; "
            "add --modality CT or --modality MR (in Python modality='CT'), or give a cohort that lists it"
        )
    return cast(Modality, modality)


def read_scan(path: Path, name: str, modality: Modality) -> tuple[Volume, list[str]]:
    """A scan in its file's own orientation, and its oddities that are no reason to refuse it.

    Raises:
        AmosError: it cannot be read, or is not a plausible scan.
    """
    scan = read_image(path, name)  # the user does not know the file that a DICOM series was converted to
    return scan, [f"{name}: {concern}" for concern in intensity_concerns(scan.array, None, modality)]
