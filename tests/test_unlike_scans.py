"""A scan unlike those that a network was trained on is said to be, and what a model tells of these is no patient's."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import ORGANS, write_case
from scipy import stats

from amos_fl.cli.main import run
from amos_fl.cohort.table import Case, read_cohort
from amos_fl.inference.unlike import distance, intensities, training_scans, unlike
from amos_fl.planning.histogram import Histogram
from amos_fl.prepared.prepare import prepare_case
from amos_fl.prepared.store import Geometry, PreparedCase
from amos_fl.runs.model import read_model
from amos_fl.runs.training_scans import TRAINING_SCANS, read_training_scans

SAID = "is unlike the scans that this network was trained on in"


def predicted(model: Path, scan: Path, out: Path, capsys: pytest.CaptureFixture[str], modality: str = "CT") -> str:
    assert run(["predict", str(model), str(scan), "-o", str(out), "--modality", modality]) == 0
    return capsys.readouterr().err


def test_scans_of_the_training_sites_are_not_said_to_be_unlike(
    finished_run: Path, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for case in read_cohort(tiny_root).cases:
        if case.site != "D":
            assert SAID not in predicted(finished_run, case.image, tmp_path / case.case, capsys, case.modality), case


def test_a_scan_that_is_unlike_them_is_and_in_what(
    finished_run: Path, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = read_cohort(tiny_root).of(site="A", split="test")[0].image
    image = nib.Nifti1Image.from_filename(scan)
    voxels = np.asarray(image.dataobj)
    small = image.affine @ np.diag([0.25, 0.25, 0.25, 1])
    made = {
        "its voxels": (voxels, small),
        "its extent": (voxels, small),
        "its intensities": (np.where(voxels > -900, 300, voxels), image.affine),
    }
    for number, (what, (array, affine)) in enumerate(made.items()):
        path = tmp_path / f"made{number}.nii.gz"
        nib.save(nib.Nifti1Image(array.astype(np.int16), affine), path)
        said = predicted(finished_run, path, tmp_path / "out", capsys)
        sentences = [line for line in said.splitlines() if SAID in line]
        assert len(sentences) == 1, said
        assert f"warning: made{number}.nii.gz: {SAID}" in sentences[0]
        assert what in sentences[0]
    assert "voxels" not in sentences[0]


def test_a_modality_that_nothing_was_trained_on_is_named(
    finished_run: Path, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished_run / "model", tmp_path / "model")
    about = json.loads((tmp_path / "model" / TRAINING_SCANS).read_text())
    del about["modalities"]["MR"]
    (tmp_path / "model" / TRAINING_SCANS).write_text(json.dumps(about))
    scan = read_cohort(tiny_root).of(site="G", split="test")[0].image
    said = predicted(tmp_path / "model", scan, tmp_path / "out", capsys, "MR")
    assert f"{SAID} its modality (MR, and they are CT)" in said


def test_a_model_of_an_older_version_says_nothing(
    finished_run: Path, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished_run / "model", tmp_path / "model")
    (tmp_path / "model" / TRAINING_SCANS).unlink()
    scan = read_cohort(tiny_root).of(site="G", split="test")[0].image
    assert SAID not in predicted(tmp_path / "model", scan, tmp_path / "out", capsys, "CT")
    (tmp_path / "model" / TRAINING_SCANS).write_text("{}")
    assert run(["predict", str(tmp_path / "model"), str(scan), "-o", str(tmp_path / "2"), "--modality", "CT"]) == 2
    assert f"{TRAINING_SCANS}: cannot be read" in capsys.readouterr().err


def test_the_distance_is_scipys_wasserstein_distance() -> None:
    random = np.random.default_rng(0)
    one, other = random.normal(0, 1, 500), random.normal(0.4, 1.3, 800)
    a, b = (Histogram.of(np.rint(values * 10).astype(int)) for values in (one, other))
    right = stats.wasserstein_distance(np.rint(one * 10) / 10, np.rint(other * 10) / 10)
    assert distance(a, b) == pytest.approx(right)
    assert distance(a, a) == 0
    assert distance(a, b) == pytest.approx(distance(b, a))


def made_cases(folder: Path, store: Path, plan_of: Path, numbers: range, modality: str = "CT") -> list[PreparedCase]:
    plan = read_model(plan_of).plan
    cases = []
    for number in numbers:
        image, _ = write_case(folder, f"case_{number}", modality, seed=number)
        case = Case(f"case_{number}", "A", modality, "train", image, None, ())  # pyright: ignore[reportArgumentType]
        cases.append(prepare_case(case, plan, store, tuple(ORGANS)))
    return cases


def test_a_record_holds_no_scans_own_value(finished_run: Path, tmp_path: Path) -> None:
    """Of fewer than three cases it tells the modality alone; of more, ranges on a coarse scale that hold them."""
    two = training_scans(made_cases(tmp_path, tmp_path / "store", finished_run, range(2)))
    assert two.modalities["CT"].model_dump(exclude_none=True, exclude_defaults=True) == {"cases": 2}
    cases = made_cases(tmp_path, tmp_path / "store", finished_run, range(4))
    spacings = [(0.71, 0.7, 2.5), (0.9, 0.93, 3.0), (0.68, 0.66, 5.0), (0.8, 0.81, 3.2)]
    changed = [replace(c, geometry=replace(c.geometry, spacing_mm=s)) for c, s in zip(cases, spacings, strict=True)]
    four = training_scans(changed).modalities["CT"]
    assert four.spacing_mm == ((0.5, 1.0), (0.5, 1.0), (2.0, 5.657))
    assert four.extent_mm
    assert four.extent_mm[0] == (16.0, 22.627)  # 24 voxels of 0.68 to 0.9 mm are 16.3 to 21.6 mm
    assert training_scans(changed[::-1]).modalities["CT"] == four
    furthest = max(
        distance(intensities(c), training_scans([o for o in changed if o is not c]).modalities["CT"].intensities)
        for c in changed
    )
    assert four.furthest
    assert furthest <= four.furthest < furthest + 0.05
    assert (20 * four.furthest) % 1 == 0


def test_a_record_is_read_as_it_was_written(finished_run: Path) -> None:
    found = read_training_scans(finished_run / "model")
    assert found
    assert found.modalities["CT"].cases == 4
    assert found.modalities["MR"].intensities.counts == {}  # two cases
    assert sum(found.modalities["CT"].intensities.counts.values()) == pytest.approx(4_000_000, abs=1000)


def test_extent_is_that_of_the_body_however_much_air_is_around(finished_run: Path, tmp_path: Path) -> None:
    cases = made_cases(tmp_path, tmp_path / "store", finished_run, range(3))
    scans = training_scans(cases)
    large = Geometry((200, 200, 200), (8.0, 8.0, 8.0), cases[0].geometry.crop, cases[0].geometry.orientation)
    assert unlike(replace(cases[0], geometry=large), scans) == ""
