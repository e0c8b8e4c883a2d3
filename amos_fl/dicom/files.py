"""Which files below a folder are DICOM, and which look as if they were meant to be and cannot be used.

A file that a copy cut short, emptied or lost must not make a shorter scan, so it is not enough to pick out what is
DICOM: whatever is named as the DICOM files beside it is looked at too.
"""

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from amos_fl.escape.terminal import one_line
from amos_fl.scan_files import DICOM_MARK, PREAMBLE_BYTES, UNFINISHED, looks_like_dicom, start_of
from amos_fl.wording import counted

_FIRST_GROUPS = (2, 8)
"""The groups that a DICOM file may begin with where it lacks preamble and mark: the file's own, and the image's."""
_DICOM_SUFFIXES = {".dcm", ".dicom", ".dic", ".ima"}
_COMPANIONS = {"dicomdir", "readme", "license", "licence", "version", "changelog", "lockfile", "index", "autorun"}
"""Files without a suffix that lie beside DICOM files, on the discs that hospitals hand out for example."""


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, dangling links and folders that cannot be listed among them, without hidden ones."""
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
    # Either the two letters of a value's type follow, or (implicit) the length of a short value.
    described = start[4:6].isalpha() and start[4:6].isupper()
    return group in _FIRST_GROUPS and element <= 0x20 and (described or int.from_bytes(start[4:8], "little") <= 64)


def sorted_out(paths: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """The DICOM files of `paths`, and what is wrong with those that look like ones and are not.

    Meant is what has a suffix of DICOM, begins like DICOM, or is named like the DICOM files in its folder.
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
            unusable[path] = "is a folder that may not be read"
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
        return "is no regular file"
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except PermissionError:
        return "may not be read; check its permissions"
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
    return "is no DICOM file, or damaged at its start" if start.strip(b"\0") else "holds nothing but zeros"


def described(unusable: Iterable[tuple[Path, str]], at_most: int = 4) -> str:
    """What is wrong with which file, the same fault once: the first names, and a count of the rest.

    >>> described([(Path("IM13"), "is empty"), (Path("IM14"), "is empty"), (Path("IM2"), "is cut off")])
    'IM13 and IM14: is empty; IM2: is cut off'
    """
    faults: dict[str, list[str]] = {}
    for path, why in unusable:
        faults.setdefault(why, []).append(path.name)
    return "; ".join(f"{names_of(names, at_most)}: {why}" for why, names in faults.items())


def names_of(names: Sequence[str], at_most: int = 4) -> str:
    """The first names, and a count of the rest.

    >>> names_of(["a", "b", "c"]), names_of(["a", "b", "c"], 2)
    ('a, b and c', 'a, b and 1 more')
    """
    names = [one_line(name, 80) for name in names]
    if len(names) > at_most:
        return f"{', '.join(names[:at_most])} and {len(names) - at_most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def unusable_files(unusable: Sequence[tuple[Path, str]], usable: int) -> str:
    """A sentence's end that names files, says what is wrong, and counts them beside all that there are."""
    there = counted(len(unusable) + usable, "file")
    return (
        f"{len(unusable)} of {there} cannot be used ({described(unusable)}); "
        "fetch the series again, or remove what is no part of it"
    )
