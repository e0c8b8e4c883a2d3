"""Read a case's label map in the cohort's values, and check the headers of cases."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np

from amos_fl.cohort.table import Case
from amos_fl.errors import AmosError
from amos_fl.volumes.nifti import Volume, read_geometry, read_label, reconcile
from amos_fl.warned import heard, warn
from amos_fl.wording import counted


def check_headers(cases: Iterable[Case]) -> None:
    """Check the header of every scan and label map before anything is computed on them.

    Warns as `read_geometry` does.

    Raises:
        AmosError: naming the site, case and file of the first implausible one, and how many more there are.
    """
    wrong: list[str] = []
    for case in cases:
        try:
            check_header_of(case)
        except AmosError as error:
            wrong.append(f"site {case.site}, case {case.case}: {error}")
    if wrong:
        more = f" ({counted(len(wrong) - 1, 'more case')} cannot be used: amos-fl data check)" if wrong[1:] else ""
        raise AmosError(f"{wrong[0]}{more}")


def check_header_of(case: Case) -> None:
    """Check that the headers of a case's scan and label map are plausible.

    Raises:
        AmosError: naming the file that is missing or wrong.
    """
    _check_header(case.image)
    if case.label is not None:
        with _told_apart(case, case.label):
            _check_header(case.label)


def _check_header(path: Path) -> None:
    try:
        status = path.stat()
    except OSError:
        read_geometry(path, header_only=True)  # raises if something is wrong
    else:
        for sentence in _warnings_of(path, status.st_size, status.st_mtime_ns):
            warn(sentence)


@lru_cache(maxsize=8192)
def _warnings_of(path: Path, size: int, changed_ns: int) -> tuple[str, ...]:
    """Warnings about the header of a plausible file; cached, because a sweep asks for the same files in every run."""
    with heard() as sentences:
        read_geometry(path, header_only=True)
    return tuple(sentences)


def label_of(case: Case, organs: Collection[int]) -> Volume:
    """The label map of a case (uint8) in its file's own orientation; values are 0 or one of `organs`.

    Raises:
        AmosError: it has none, it cannot be read, or it holds a value that is not an organ's.
    """
    if case.label is None:
        raise AmosError(f"{case.case}: has no label map")
    with _told_apart(case, case.label):
        return read_label(case.label, organs, case.label_values)


@contextmanager
def _told_apart(case: Case, label: Path) -> Iterator[None]:
    """Add the folder to messages about a label map whose file is named like its scan's, as in AMOS."""
    folder = f"{label.parent.name}/" if label.name == case.image.name else ""
    try:
        with heard() as sentences:
            yield
    except AmosError as error:
        raise AmosError(f"{folder}{error.what}", error.remedy, code=error.code) from None
    for sentence in sentences:
        warn(f"{folder}{sentence}")


def reference_of(case: Case, organs: Collection[int]) -> Volume:
    """The label map of a case on the grid of its scan, in the file's orientation.

    Raises:
        AmosError: it has none, it cannot be read, or its grid is not the scan's.
    """
    if case.label is None:
        raise AmosError(f"{case.case}: has no label map")
    shape, affine = read_geometry(case.image)
    grid = Volume(np.broadcast_to(np.uint8(0), shape), affine)  # the grid alone; no voxel of the scan is read
    return reconcile(grid, label_of(case, {*organs, *case.annotated}), case.label.name)
