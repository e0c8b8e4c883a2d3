"""List the scans and label maps in a folder, and hash a scan's content.

Every command that reads a folder of scans uses this module and its one rule: a file that seems to be a scan but cannot
be used is named with its fault, and the number of scans taken is given beside the number present.
"""

import itertools
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from amos_fl.errors import AmosError
from amos_fl.escape.terminal import visible
from amos_fl.files import sha256_of_file, sha256_of_json

SUFFIXES = (".nii.gz", ".nii")
"""Suffixes of single-file scans, in lower case; upper case counts too."""
_HALVES = {".hdr": ".img", ".img": ".hdr", ".hdr.gz": ".img.gz", ".img.gz": ".hdr.gz"}
_READ = (*SUFFIXES, *_HALVES)
_OTHER_FORMATS = (".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".mnc", ".gipl")
_OTHER_PACKING = (".nii.bz2", ".nii.xz", ".nii.zst", ".nii.zip", ".nii.gz.gz")
DICOM_MARK = b"DICM"
PREAMBLE_BYTES = 128
"""What stands before the mark in a DICOM file."""
_DICOM_LOOKED_AT = 30
"""How many files of a folder are opened to see whether they are DICOM."""
_OF_DICOM = "make a cohort of DICOM files with 'amos-fl data dicom FOLDER --out COHORT'"
UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".filepart")
"""Suffixes that programs append to files they are still writing."""


@dataclass(frozen=True)
class Unusable:
    """A file, or several of one name, that seems to be a scan but cannot be used, and why."""

    name: str
    path: Path
    why: str
    several: bool = False

    @property
    def sentence(self) -> str:
        return self.why if self.several else f"{shown(self.path.name)}: {self.why}"


@dataclass(frozen=True)
class ScanFolder:
    """A folder's content: its scans by name, unusable files, and the names of all other files and folders."""

    path: Path
    scans: dict[str, Path]
    unusable: tuple[Unusable, ...] = ()
    others: tuple[str, ...] = field(default=())

    @property
    def there(self) -> int:
        """The number of scans, usable or not."""
        return len(self.scans) + len(self.unusable)

    def counted(self, what: str = "scan") -> str:
        """The usable scans of all: `3 of 4 scans`."""
        return f"{len(self.scans)} of {self.there} {what}{'' if self.there == 1 else 's'}"


def scans_in(folder: Path) -> ScanFolder:
    """The scans of a folder, sorted by name, without hidden files and subfolders.

    A scan is a `.nii` or `.nii.gz` file, or a pair of `.hdr` and `.img`, represented by the header's path. Broken
    links, files without read permission, halves of pairs, several files of one name, formats of other programs and
    unfinished downloads are unusable.

    Raises:
        AmosError: no permission to read the folder.
    """
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise AmosError(f"{shown(folder)}: cannot be read ({error.strerror})", "check its permissions") from None
    by_name: dict[str, list[Path]] = defaultdict(list)
    unusable: list[Unusable] = []
    others: list[str] = []
    for path in entries:
        if _suffix(path):
            by_name[case_of(path)].append(path)
    for path in entries:
        if _suffix(path):
            continue
        name = _meant(path)
        if name is None or name in by_name:  # a copy in another format beside the scan itself
            others.append(path.name)
        else:
            unusable.append(Unusable(name, path, _format_problem(path)))
    scans: dict[str, Path] = {}
    for name, paths in by_name.items():
        if len(paths) > 1 and not _are_a_pair(paths):
            why = f"{' and '.join(shown(path.name) for path in paths)} are one case; keep the right one"
            unusable.append(Unusable(name, paths[0], why, several=True))
        elif why := _problem_of_files(name, paths):
            unusable.append(Unusable(name, paths[0], why))
        else:
            scans[name] = parts_of(paths[0])[0]
    return ScanFolder(folder, scans, tuple(sorted(unusable, key=lambda u: u.name)), tuple(others))


def importable(found: ScanFolder) -> list[str]:
    """Notes for the import of a folder: how many of its scans can be used, and why the others cannot.

    Raises:
        AmosError: several files of one name, because only a person can say which one is meant.
    """
    if twins := [bad for bad in found.unusable if bad.several]:
        more = f" ({len(twins)} such cases)" if len(twins) > 1 else ""
        raise AmosError(f"{found.path}: {twins[0].why}{more}")
    if not found.unusable:
        return []
    listed = "; ".join(bad.sentence for bad in found.unusable[:5])
    more = f"; and {len(found.unusable) - 5} more" if len(found.unusable) > 5 else ""
    return [f"{found.path.name}: only {found.counted('scan')} can be used. Left out: {listed}{more}"]


def case_of(path: Path) -> str:
    """The name of a case: its file's without the suffix.

    >>> case_of(Path("labelsVa/amos_0042.nii.gz")), case_of(Path("amos.v2.NII")), case_of(Path("a.hdr"))
    ('amos_0042', 'amos.v2', 'a')
    """
    return path.name[: len(path.name) - len(_suffix(path))]


def parts_of(path: Path) -> tuple[Path, ...]:
    """All files of a scan: both of a complete `.hdr`/`.img` pair, the header first; otherwise one."""
    suffix = _suffix(path)
    if suffix.lower() not in _HALVES:
        return (path,)
    other = _other_half(path)
    if other is None:
        return (path,)
    return (path, other) if suffix.lower().startswith(".hdr") else (other, path)


def sha256_of_scan(path: Path) -> str:
    """The SHA-256 of a scan's content: of its file, or of both files of a `.hdr`/`.img` pair.

    Raises:
        OSError: a file that is missing or unreadable.
    """
    hashes = [sha256_of_file(part) for part in parts_of(path)]
    return hashes[0] if len(hashes) == 1 else sha256_of_json(hashes)


def check_file(path: Path) -> None:
    """Check that `path` is a readable, non-empty file.

    Raises:
        AmosError: naming it, and what is wrong.
    """
    if not path.exists() and not path.is_symlink():
        raise AmosError(
            f"{shown(path.name)}: no such file in {shown(path.parent)}", "check the paths in the cohort file"
        )
    if why := _problem_of_file(path):
        raise AmosError(f"{shown(path.name)}: {why[0]}", why[1])


def problem_of(path: Path) -> str | None:
    """Why a path cannot be a scan, whatever its content: no file, a broken link, no permission; None if it can be.

    The text continues after the file's name: `its link leads to /data/a.nii.gz, which is not there; ...`.
    """
    why = _problem_of_file(path)
    return problem_of_name(path.name) if why is None else "; ".join(why)


_FETCH = "fetch it again, or correct the path that leads to it"


def _problem_of_file(path: Path) -> tuple[str, str] | None:
    """What is wrong with a file, and the remedy."""
    if path.is_symlink() and not path.exists():
        there = shown(os.readlink(path))
        return f"its link leads to {there}, which is not there", "fetch that file again, or correct the link"
    if not path.exists():
        return "is not there", _FETCH
    if path.is_dir():
        files = (Path(parent, name) for parent, _, names in os.walk(path) for name in sorted(names))
        if any(looks_like_dicom(file) for file in itertools.islice(files, _DICOM_LOOKED_AT)):
            return "is a folder of DICOM files, and a NIfTI file is needed", _OF_DICOM
        return "is a folder by the name of a file", "give the file that is in it"
    if not path.is_file():
        return "is no regular file", _FETCH
    if not os.access(path, os.R_OK):
        return "cannot be read", "check its permissions"
    return None if path.stat().st_size else ("is an empty file", "fetch it again")


def looks_like_dicom(path: Path) -> bool:
    """Whether a file has DICOM's mark after its first 128 bytes."""
    return start_of(path)[PREAMBLE_BYTES:] == DICOM_MARK


def start_of(path: Path) -> bytes:
    """The first bytes of a file, as many as tell whether it is DICOM; none if it cannot be read."""
    try:
        if not path.is_file():  # a pipe would wait for ever
            return b""
        with path.open("rb") as file:
            return file.read(PREAMBLE_BYTES + len(DICOM_MARK))
    except OSError:
        return b""


def not_nifti(path: Path) -> AmosError:
    """What is to be said of a file that is not NIfTI."""
    if looks_like_dicom(path):
        return AmosError(f"{shown(path.name)}: is a DICOM file, and a NIfTI file is needed", _OF_DICOM)
    return AmosError(f"{shown(path.name)}: is not a NIfTI file", "fetch it again, or convert it to NIfTI")


def problem_of_name(name: str) -> str | None:
    """Why a file's name cannot be used for output: it is not UTF-8, or holds control characters."""
    if any(0xD800 <= ord(ch) <= 0xDFFF for ch in name):
        return "its name is not UTF-8, so that no table can hold it; rename the file"
    if any(ord(ch) < 32 or 127 <= ord(ch) < 160 for ch in name):
        return "its name holds control characters; rename the file"
    return None


def shown(name: str | Path) -> str:
    """A file's name in a form that can be printed and written, whatever its bytes.

    >>> shown("caf\\udce9.nii")
    'caf\\\\udce9.nii'
    """
    return visible(str(name), keep="")


def _suffix(path: Path) -> str:
    """The suffix of a scan's file name as written; empty if it is not one of a format that is read."""
    lower = path.name.lower()
    found = next((s for s in sorted(_READ, key=len, reverse=True) if lower.endswith(s) and lower != s), "")
    return path.name[len(path.name) - len(found) :] if found and not lower.endswith(_OTHER_PACKING) else ""


def _meant(path: Path) -> str | None:
    """The case's name if a file seems to be a scan in a format that is not read."""
    lower = path.name.lower()
    if lower.endswith(_OTHER_FORMATS + _OTHER_PACKING):
        return path.name.partition(".")[0]
    unfinished = next((suffix for suffix in UNFINISHED if lower.endswith(suffix)), None)
    inside = Path(path.name[: -len(unfinished)]) if unfinished else None
    return case_of(inside) if inside is not None and _suffix(inside) else None


def _format_problem(path: Path) -> str:
    if path.name.lower().endswith(UNFINISHED):
        return "is an unfinished download; fetch it again"
    return "is in a format that is not read; convert it to NIfTI (.nii.gz)"


def _are_a_pair(paths: list[Path]) -> bool:
    suffixes = sorted(_suffix(path).lower().removesuffix(".gz") for path in paths)
    return suffixes == [".hdr", ".img"]


def _problem_of_files(name: str, paths: list[Path]) -> str | None:
    for path in paths:
        if why := problem_of(path):
            return why if len(paths) == 1 else f"{shown(path.name)} {why}"
    suffix = _suffix(paths[0])
    if suffix.lower() in _HALVES and len(paths) == 1:
        other = _HALVES[suffix.lower()]
        return f"lacks its other half, {shown(name)}{other.upper() if suffix.isupper() else other}; put it beside"
    return None


def _other_half(path: Path) -> Path | None:
    suffix = _suffix(path)
    stem = path.name[: len(path.name) - len(suffix)]
    return next((p for s in _spellings(_HALVES[suffix.lower()]) if (p := path.with_name(stem + s)).exists()), None)


def _spellings(suffix: str) -> Iterator[str]:
    yield from (suffix, suffix.upper(), suffix.removesuffix(".gz"), suffix.removesuffix(".gz").upper())
