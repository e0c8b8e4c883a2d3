"""Write the enlarged set of a round: the cohort with all annotations so far, ready for training."""

import shutil
from pathlib import Path

import numpy as np

from amos_fl.annotate.compose import composed
from amos_fl.annotate.ledger import Role
from amos_fl.annotate.project import Project
from amos_fl.annotate.state import CaseState, ProjectState
from amos_fl.cohort.table import Case, Cohort, read_cohort, write_cohort
from amos_fl.errors import AmosError
from amos_fl.files import whole_folder
from amos_fl.volumes.nifti import read_geometry, write_label


def annotated_organs(state: CaseState, *, reviewed: bool) -> tuple[int, ...]:
    """The organs of a case used in training: all that people annotated, or those that a senior reviewed."""
    return state.annotated("senior" if reviewed else None)


def enlarge(project: Project, state: ProjectState, *, reviewed: bool) -> Cohort:
    """Write `labels/` and `cohort.csv` of the current round; return the cohort.

    A corrected case keeps its site and split, and lists the organs that were annotated; every other organ may be
    anywhere in it. Uncorrected cases stay unlabelled.

    Raises:
        AmosError: nothing was imported, no corrected case is to be trained on, or a version was changed.
    """
    folder = project.round(state.round)
    corrected = {n: organs for n, s in state.cases.items() if (organs := annotated_organs(s, reviewed=reviewed))}
    if not corrected:
        what = "a senior has reviewed" if reviewed else "has been imported"
        raise AmosError(f"{project.path}: no correction {what} yet; see 'amos-fl annotate status {project.path}'")
    if not state.new_imports:
        raise AmosError(
            f"{project.path}: nothing was imported since the last retraining; import more corrections before the next"
        )
    if not any(c.split == "train" for c in project.cohort.cases if c.case in corrected):
        raise AmosError(
            f"{project.path / 'cohort.csv'}: no corrected case has the split train, so nothing new is trained on; "
            "set the split of the cases that should be"
        )
    if (folder / "labels").exists():  # from a call that was killed before it reached the ledger
        shutil.rmtree(folder / "labels")
    role: Role | None = "senior" if reviewed else None
    with whole_folder(folder / "labels") as beside:
        for name in corrected:
            _write(project, state.cases[name], beside / f"{name}.nii.gz", role)
    cases = [
        _corrected(case, folder, corrected[case.case]) if case.case in corrected else case
        for case in project.cohort.cases
    ]
    write_cohort(Cohort(tuple(cases), project.cohort.organs), folder / "cohort.csv")
    return read_cohort(folder / "cohort.csv")


def _corrected(case: Case, folder: Path, organs: tuple[int, ...]) -> Case:
    """The case with its merged label map, which has the cohort's own label values."""
    label = folder / "labels" / f"{case.case}.nii.gz"
    return Case(case.case, case.site, case.modality, case.split, case.image, label, organs)


def _write(project: Project, state: CaseState, path: Path, role: Role | None) -> None:
    case = project.case(state.case)
    shape, _ = read_geometry(case.image)
    write_label(path, composed(project, case, state, np.zeros(shape, np.uint8), role=role), case.image)
