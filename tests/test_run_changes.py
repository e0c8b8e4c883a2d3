"""A run whose settings, cases or scans were changed between a stop and its resume is refused, or says so for ever."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from conftest import write_tiny_cohort
from federations import federate, tiny_config

from amos_fl.cli.main import run
from amos_fl.cohort.table import read_cohort
from amos_fl.errors import Interrupted
from amos_fl.runs.create import create_run
from amos_fl.runs.events import Event, RoundFinished
from amos_fl.runs.folder import RunFolder, open_run
from amos_fl_server.federation.simulate import simulate


@pytest.fixture
def stopped(tmp_path: Path, store: Path) -> RunFolder:
    """A run of three rounds on scans of its own, stopped after the first."""
    write_tiny_cohort(tmp_path / "cohort")
    cohort = read_cohort(tmp_path / "cohort")
    config = tiny_config(cohort=str(tmp_path / "cohort"))
    folder = create_run(tmp_path / "run", config, cohort)

    def stop_after_round_1(event: Event) -> None:
        if isinstance(event, RoundFinished):
            folder.stop_file.request()

    with pytest.raises(Interrupted):
        simulate(folder, config, folder.cohort(), store, stop_after_round_1)
    assert folder.rounds_with_checkpoints() == [1]
    return folder


def settings_changed(folder: RunFolder) -> None:
    file = folder.path / "config.yaml"
    data = yaml.safe_load(file.read_text())
    data["training"]["learning_rate"] = 0.5
    file.write_text(yaml.safe_dump(data))


def case_left_out(folder: RunFolder) -> None:
    file = folder.path / "cohort.csv"
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if "a_train_1" not in line))


def organ_renamed(folder: RunFolder) -> None:
    file = folder.path / "organs.csv"
    file.write_text(file.read_text().replace("ball", "liver"))


def label_redrawn(folder: RunFolder) -> None:
    case = folder.cohort().of(site="A", split="train")[0]
    assert case.label is not None
    image = nib.load(case.label)
    voxels = np.asarray(image.dataobj)  # pyright: ignore[reportAttributeAccessIssue]
    nib.save(nib.Nifti1Image(np.roll(voxels, 1, axis=0), image.affine), case.label)  # pyright: ignore[reportAttributeAccessIssue]


CHANGES = [
    (settings_changed, "config.yaml", "training.learning_rate was 0.02 and is 0.5"),
    (case_left_out, "cohort.csv", "a_train_1 was train at A (CT), organs 1 2 and is -"),
    (organ_renamed, "organs.csv", "1 was ball and is liver"),
    (label_redrawn, "scans.json", "a_train_0 (a_train_0.nii.gz or its label map) has another content"),
]


@pytest.mark.parametrize(("change", "file", "words"), CHANGES)
def test_a_change_between_stop_and_resume_is_named_and_refused_or_noted_in_the_ledger_on_request(
    stopped: RunFolder,
    store: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[RunFolder], None],
    file: str,
    words: str,
) -> None:
    change(stopped)
    command = ["simulate", "--resume", str(stopped.path), "--store", str(store)]
    assert run(command) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith(f"amos-fl: {stopped.path / file}: ")
    assert "--accept-changes" in said
    assert stopped.rounds_with_checkpoints() == [1]
    assert run([*command, "--accept-changes"]) == 0
    first, second, third = stopped.ledger()
    assert "changes" not in first
    assert "changes" not in third
    assert any(words in noted for noted in second["changes"])
    assert f"before round 2 the run was changed: {second['changes'][0]}" in (stopped.path / "summary.md").read_text()
    assert run(command) == 0  # what was accepted holds


def test_a_run_that_nobody_touched_goes_on_and_one_whose_engine_changed_too(stopped: RunFolder, store: Path) -> None:
    file = stopped.path / "config.yaml"
    file.write_text(file.read_text().replace("prepare_workers: 1", "prepare_workers: 2"))
    assert run(["simulate", "--resume", str(stopped.path), "--store", str(store)]) == 0
    assert not any("changes" in entry for entry in stopped.ledger())


def test_a_run_of_a_version_that_noted_nothing_goes_on(stopped: RunFolder, store: Path) -> None:
    file = stopped.path / "versions.json"
    about = json.loads(file.read_text())
    old = {key: about[key] for key in ("run_id", "cohort_sha256", "synthetic", "versions", "start_sha256")}
    file.write_text(json.dumps(old))
    (stopped.path / "scans.json").unlink()
    assert run(["simulate", "--resume", str(stopped.path), "--store", str(store)]) == 0


def test_a_plan_that_the_run_made_itself_is_noted_too(
    tmp_path: Path, tiny_root: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = federate(tmp_path / "run", read_cohort(tiny_root), store, plan="auto", rounds=1, evaluation={"every": 1})
    file = folder.path / "config.yaml"
    data = yaml.safe_load(file.read_text())
    assert data["planning"]["auto"]
    data["plan"]["ct_mean_hu"] += 1
    file.write_text(yaml.safe_dump(data))
    assert run(["simulate", "--resume", str(folder.path), "--store", str(store)]) == 2
    assert "plan.ct_mean_hu was" in capsys.readouterr().err
    assert open_run(folder.path).about().plan is not None
