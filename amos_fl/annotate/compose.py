"""Merge people's corrections of a case from its versions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from amos_fl.annotate.ledger import Imported, PreLabelled, Role
from amos_fl.annotate.project import Project
from amos_fl.annotate.state import CaseState
from amos_fl.cohort.table import Case
from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_file
from amos_fl.scan_files import sha256_of_scan
from amos_fl.volumes.nifti import Volume, read_image, read_label, reconcile

Labels = UInt8[np.ndarray, "x y z"]


def lay_over(below: Labels, above: Labels, organs: Sequence[int]) -> Labels:
    """Replace these organs in `below` by their voxels in `above`, which win over other organs of `below`.

    >>> below, above = np.array([[[1, 1, 2]]], np.uint8), np.array([[[0, 1, 1]]], np.uint8)
    >>> lay_over(below, above, [1]).tolist()
    [[[0, 1, 1]]]
    """
    result = below.copy()
    result[np.isin(below, organs)] = 0
    drawn = np.isin(above, organs)
    result[drawn] = above[drawn]
    return result


def read_version(project: Project, case: Case, version: Imported) -> Volume:
    """A version on its scan's grid, checked to be what was imported.

    Raises:
        AmosError: the file is missing or has been changed.
    """
    path = project.path / version.file
    if not path.is_file() or sha256_of_file(path) != version.sha256:
        raise AmosError(f"{version.file}: is gone or was changed after its import; restore it from a copy")
    scan = read_image(case.image)
    return reconcile(scan, read_label(path, project.cohort.organs), path.name, ("the correction", "scan"))


def composed(
    project: Project,
    case: Case,
    state: CaseState,
    below: Labels,
    *,
    versions: int | None = None,
    role: Role | None = None,
) -> Labels:
    """`below` overlaid with people's corrections, version by version, so that the latest one of each organ counts.

    `versions` limits their number; `role` takes only organs whose latest correction is by this role.

    Raises:
        AmosError: a version is gone or changed.
    """
    result = below
    owners = state.owners()
    for version in state.versions[:versions]:
        organs = [o for o in version.organs if role is None or (owners[o] == version and version.role == role)]
        if organs:
            result = lay_over(result, read_version(project, case, version).array, organs)
    return result


def check_scan(case: Case, event: PreLabelled) -> None:
    """Refuse a pre-label whose scan was replaced by another one of the same name.

    Raises:
        AmosError: the scan is missing, or not the one that was pre-labelled.
    """
    try:
        same = event.scan_sha256 in ("", sha256_of_scan(case.image))
    except OSError as error:
        raise AmosError(f"{case.image}: cannot be read ({error.strerror})") from None
    if not same:
        raise AmosError(
            f"{case.case}: {case.image.name} is another scan than the one that was pre-labelled; put that one back, "
            "and give the new scan a name of its own"
        )


def basis(project: Project, case: Case, state: CaseState, round_number: int, versions: int) -> Labels:
    """A person's starting point: the pre-label of a round, overlaid with earlier corrections.

    Raises:
        AmosError: the scan, the pre-label or a version is missing or was changed.
    """
    event = state.prelabelled.get(round_number)
    file = project.prelabel(round_number, case.case)
    if event is None or not file.is_file():
        raise AmosError(f"{case.case}: has no pre-label of round {round_number}; draw it with 'amos-fl annotate start'")
    check_scan(case, event)
    if sha256_of_file(file) != event.sha256:
        raise AmosError(changed_by_hand(project, file))
    label = read_label(file, project.cohort.organs).array
    return composed(project, case, state, label, versions=versions)


def changed_by_hand(project: Project, file: Path) -> str:
    """The sentence about a pre-label that was changed after the networks made it."""
    return (
        f"{file.relative_to(project.path)}: was changed after it was drawn, and is left as it is; move it to "
        "work/NAME/ if somebody corrected it there, then 'amos-fl annotate start' draws the pre-label again"
    )
