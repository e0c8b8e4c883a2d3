"""Cohorts that `amos-fl data dicom` makes of small exports, and the masks that must be in them."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pacs import SHAPE, STRAIGHT, Contour

from amos_fl.cli.main import run
from amos_fl.cohort.table import Case, Cohort, read_cohort

LIVER, SPLEEN = ((2.3, 3.4), (13.6, 12.2)), ((15.2, 4.4), (21.7, 15.6))


def data_dicom(export: Path, *more: str) -> Cohort:
    """The cohort that an export becomes, in place of one that another test of it has left."""
    out = export.parent / "cohort"
    for name in ("cohort.csv", "organs.csv"):
        (out / name).unlink(missing_ok=True)
    assert run(["data", "dicom", str(export), "--out", str(out), *more]) == 0
    return read_cohort(out)


def only_case(cohort: Cohort) -> Case:
    [case] = cohort.cases
    return case


def label_of(case: Case, affine: np.ndarray = STRAIGHT) -> np.ndarray:
    """The label map as (column, row, slice) of the series as it was written: the program orders slices head to feet."""
    assert case.label is not None
    image = nib.Nifti1Image.from_filename(case.label)
    there = np.linalg.inv(image.affine) @ affine @ [0, 0, SHAPE[2] - 1, 1]
    np.testing.assert_allclose(there, [0, 0, 0, 1], atol=1e-3)
    np.testing.assert_allclose(image.affine[:3, 2], -affine[:3, 2], atol=1e-4)
    return np.asarray(image.dataobj)[..., ::-1]


def on(slices: range, points: np.ndarray) -> list[Contour]:
    return [(z, points) for z in slices]


def solid(plane: np.ndarray, slices: range) -> np.ndarray:
    """The mask (column, row, slice) that is `plane` on these slices."""
    mask = np.zeros(SHAPE, bool)
    mask[:, :, slices.start : slices.stop] = plane[..., None]
    return mask


def refused(tmp_path: Path, words: str, capsys: pytest.CaptureFixture[str], *more: str) -> None:
    """Nothing of the export becomes a case: one sentence, and the reason in the list above it."""
    out = tmp_path / "cohort"
    assert run(["data", "dicom", str(tmp_path / "export"), "--out", str(out), *more]) == 2
    said = capsys.readouterr()
    assert words in said.out + said.err, said.out + said.err
    assert said.err.count("\n") == 1
    assert not (out / "cohort.csv").exists()
