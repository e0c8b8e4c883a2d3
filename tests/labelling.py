"""A tiny labelling project for tests: three scans without a label, whose labels the tests keep back."""

from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from amos_fl.annotate.ledger import Imported
from amos_fl.annotate.project import Project, open_project
from amos_fl.cli.main import run
from amos_fl.cohort.table import Cohort, read_cohort, write_cohort

OPEN = ("a_train_1", "a_train_2", "g_train_1")


def open_cohort(root: Path, out: Path) -> Path:
    """The cohort of `root` without the labels of `OPEN`."""
    everyone = read_cohort(root)
    cases = tuple(replace(case, label=None) if case.case in OPEN else case for case in everyone.cases)
    write_cohort(Cohort(cases, everyone.organs), out / "cohort.csv")
    return out / "cohort.csv"


@dataclass(frozen=True)
class Desk:
    """A project, and what a person does at it."""

    path: Path
    root: Path

    @property
    def project(self) -> Project:
        return open_project(self.path)

    def do(self, command: str, *arguments: str) -> int:
        return run(["annotate", command, str(self.path), *arguments])

    def start(self, *arguments: str) -> int:
        return self.do("start", "--device", "cpu", *arguments)

    def take(self, by: str, case: str, role: str = "junior") -> Path:
        """The case's working copy in this person's hands."""
        assert self.do("next", "--by", by, "--role", role, "--case", case) == 0
        return self.path / "work" / by / f"{case}.nii.gz"

    def bring(self, by: str, *arguments: str, role: str = "junior") -> int:
        return self.do("import", "--by", by, "--role", role, *arguments)

    def imports(self) -> list[Imported]:
        return [event for event in self.project.events() if isinstance(event, Imported)]

    def truth(self, case: str) -> np.ndarray:
        return voxels(self.root / "labels" / f"{case}.nii.gz")


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.Nifti1Image.from_filename(path).dataobj)


def draw(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    """Save an array as a viewer would, over the file's own grid unless another affine is given."""
    image = nib.Nifti1Image.from_filename(path)
    nib.save(nib.Nifti1Image(array, image.affine if affine is None else affine), path)


def correct(path: Path, truth: np.ndarray, organs: tuple[int, ...]) -> np.ndarray:
    """Redraw these organs of a working copy as they are in `truth`."""
    array = voxels(path).copy()
    array[np.isin(array, organs)] = 0
    drawn = np.isin(truth, organs)
    array[drawn] = truth[drawn]
    draw(path, array)
    return array


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """All that was printed since this was asked last."""
    captured = capsys.readouterr()
    return captured.out + captured.err
