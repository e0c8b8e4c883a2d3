"""Find the DICOM files below a folder, and those that were probably meant to be DICOM but cannot be used.

A file that was truncated, emptied or lost while copying must not lead to a shorter scan. So it is not enough to pick
out what is DICOM: files with names like those of the DICOM files beside them are looked at, too.
"""

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from amos_fl.escape.terminal import one_line
from amos_fl.scan_files import DICOM_MARK, PREAMBLE_BYTES, UNFINISHED, looks_like_dicom, start_of
from amos_fl.wording import counted, listed

_FIRST_GROUPS = (2, 8)
"""The groups that a DICOM file without preamble and mark may begin with: the file's own, and the image's."""
_DICOM_SUFFIXES = {".dcm", ".dicom", ".dic", ".ima"}
_COMPANIONS = {"dicomdir", "readme", "license", "licence", "version", "changelog", "lockfile", "index", "autorun"}
"""Files without a suffix found beside DICOM files, for example on the discs that hospitals hand out."""


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, except hidden ones; includes dangling links and folders that cannot be listed."""
    found: list[Path] = []

    def refused(error: OSError) -> None:
        found.append(Path(str(error.filename)))

    for parent, folders, names in os.walk(folder, onerror=refused):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found)


def lacks_preamble(path: Path) -> bool:
    """Whether a file begins as a DICOM data set does, without the preamble and the mark before it."""
    start = start_of(path)
    if len(start) < 8 or start[PREAMBLE_BYTES:] == DICOM_MARK:
        return False
    group, element = (int.from_bytes(start[i : i + 2], "little") for i in (0, 2))
    # Next come either the two letters of a value's type or (implicit) the length of a short value.
    described = start[4:6].isalpha() and start[4:6].isupper()
    return group in _FIRST_GROUPS and element <= 0x20 and (described or int.from_bytes(start[4:8], "little") <= 64)


def sorted_out(paths: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """The DICOM files of `paths`, and what is wrong with those that look like DICOM but are not.

    A file looks like DICOM if it has a suffix of DICOM, begins like DICOM, or is named like the DICOM files beside it.
    """
    dicom = [path for path in paths if looks_like_dicom(path)]
    named: dict[Path, set[str]] = {}
    for path in dicom:
        named.setdefault(path.parent, set()).add(_suffix(path))
    known = set(dicom)
    unusable = {}
    for path in paths:
        if path in known:
            continue
        if path.is_dir():
            unusable[path] = "is a folder that cannot be read"
        elif _looks_meant(path, named.get(path.parent, set())):
            unusable[path] = _why_not_dicom(path)
    return dicom, unusable


def _suffix(path: Path) -> str:
    """A file's suffix; numbers, such as those at the end of a UID, do not count."""
    suffix = path.suffix.casefold()
    return "" if suffix[1:].isdigit() else suffix


def _looks_meant(path: Path, suffixes: Collection[str]) -> bool:
    suffix, name = _suffix(path), path.name.casefold()
    if suffix in _DICOM_SUFFIXES or ".dcm." in name or lacks_preamble(path):
        return True
    return (suffix in suffixes or suffix in UNFINISHED) and name not in _COMPANIONS


def _why_not_dicom(path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return "is a link whose target is gone"
    if not path.is_file():
        return "is not a regular file"
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except PermissionError:
        return "cannot be read; check its permissions"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not start:
        return "is empty"
    if _suffix(path) in UNFINISHED:
        return "is an unfinished download"
    if lacks_preamble(path):
        return "lacks DICOM's preamble; add it, for example with DCMTK: dcmconv FILE FILE"
    if start[:2] in (b"\x1f\x8b", b"PK"):
        return "is compressed; unpack it"
    if len(start) < PREAMBLE_BYTES + len(DICOM_MARK):
        return "is cut off"
    return "is not a DICOM file, or damaged at its start" if start.strip(b"\0") else "holds nothing but zeros"


def described(unusable: Iterable[tuple[Path, str]]) -> str:
    """What is wrong with which files, each fault once: the first names, and a count of the rest.

    >>> described([(Path("IM13"), "is empty"), (Path("IM14"), "is empty"), (Path("IM2"), "is cut off")])
    'IM13 and IM14: is empty; IM2: is cut off'
    """
    faults: dict[str, list[str]] = {}
    for path, why in unusable:
        faults.setdefault(why, []).append(path.name)
    return "; ".join(f"{names_of(names)}: {why}" for why, names in faults.items())


def names_of(names: Sequence[str]) -> str:
    """The first names of files, and a count of the rest."""
    return listed([one_line(name, 80) for name in names], 4)


def unusable_files(unusable: Sequence[tuple[Path, str]], usable: int) -> str:
    """The end of a sentence that names files, says what is wrong, and how many of all they are."""
    there = counted(len(unusable) + usable, "file")
    return (
        f"{len(unusable)} of {there} cannot be used ({described(unusable)}); "
        "fetch the series again, or remove what is not part of it"
    )
