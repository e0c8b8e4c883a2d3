"""Several runs predict as one: the mean of their probabilities, one network in memory at a time."""

import gc
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from numpy.random import default_rng

import amos_fl
from amos_fl.cli.main import run
from amos_fl.cohort.table import Split, read_cohort
from amos_fl.inference.predict_scans import predict_scans
from amos_fl.inference.predicted_files import Wanted
from amos_fl.inference.scans import Scan, find_scans
from amos_fl.runs.about import read_about, write_about
from amos_fl.runs.ensemble import read_ensemble
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.inference_settings import InferenceKeywords
from amos_fl.weights import hash_of, read_arrays, save_arrays


@pytest.fixture(scope="module")
def group(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of one group that differ in their seed, and whose networks see different things."""
    folder = tmp_path_factory.mktemp("group") / "seeds"
    for seed in range(3):
        path = folder / f"seed{seed}"
        shutil.copytree(finished_run, path)
        begun_again(path, seed=seed)
        weights = path / "model/weights.safetensors"
        arrays = read_arrays(weights)
        random = default_rng(seed)
        noise = {name: random.standard_normal(array.shape).astype(array.dtype) for name, array in arrays.items()}
        weights.unlink()
        changed = {name: array * (1 + 0.3 * seed * noise[name]) for name, array in arrays.items()}
        changed = {name: changed[name] if array.ndim > 1 else array for name, array in arrays.items()}
        save_arrays(changed, weights)
        run = RunFolder(path)
        run.write_ledger([{**entry, "weights_sha256": hash_of(changed)} for entry in run.ledger()])
    (folder / "group.yaml").write_text(yaml.safe_dump({"kind": "sweep", "runs": [f"seed{n}" for n in range(3)]}))
    return folder


def begun_again(path: Path, **changes: object) -> None:
    """The run, as if it had been begun with other settings."""
    folder = RunFolder(path)
    config = folder.config().model_copy(update=changes)
    folder.write_config(config)
    write_about(path, read_about(path).model_copy(update={"settings": config.science()}))


@pytest.fixture
def scan(tiny_root: Path) -> Path:
    return read_cohort(tiny_root).of(site="A", split="test")[0].image


def predicted(out: Path, *arguments: object) -> tuple[np.ndarray, np.ndarray]:
    """The label map and the probabilities that the command writes, as (x, y, z) and (x, y, z, class)."""
    assert run(["predict", *map(str, arguments), "-o", str(out), "--modality", "CT", "--probabilities"]) == 0
    [label] = [file for file in out.glob("*.nii.gz") if "probabilities" not in file.name]
    files = label, next(out.glob("*_probabilities.nii.gz"))
    return tuple(np.asarray(nib.nifti1.load(file).dataobj) for file in files)  # pyright: ignore[reportReturnType]


def test_an_ensemble_draws_the_largest_of_the_mean_probabilities(group: Path, scan: Path, tmp_path: Path) -> None:
    runs = [group / f"seed{seed}" for seed in range(3)]
    alone = [predicted(tmp_path / path.name, path, scan) for path in runs]
    label, mean = predicted(tmp_path / "together", runs[0], scan, "--with", runs[1], "--with", runs[2])
    wanted = np.mean([probabilities for _, probabilities in alone], axis=0)
    assert np.abs(mean - wanted).max() < 1.1 / 255  # each file is rounded to 1/255
    first, second = np.sort(wanted, axis=-1)[..., -1], np.sort(wanted, axis=-1)[..., -2]
    sure = first - second > 2.2 / 255
    assert np.array_equal(label[sure], wanted.argmax(axis=-1)[sure])
    assert all((label != one).any() for one, _ in alone)  # otherwise any of them would do
    by_group, _ = predicted(tmp_path / "group", group, scan)
    assert np.array_equal(by_group, label)
    record = json.loads((tmp_path / "together/predict.json").read_text())
    assert record["members"] == [
        json.loads((tmp_path / p.name / "predict.json").read_text())["weights_sha256"] for p in runs
    ]


def test_one_network_is_in_memory_however_many_take_turns(group: Path, scan: Path, tmp_path: Path) -> None:
    model = read_ensemble([group])
    kind, counts, steps = type(model.members[0].network()), [], []

    def count(_: Scan, done: int, total: int) -> None:
        counts.append(sum(isinstance(thing, kind) for thing in gc.get_objects()))
        steps.append((done, total))

    gc.collect()
    before = sum(isinstance(thing, kind) for thing in gc.get_objects())
    list(predict_scans(model, find_scans([scan], "CT"), tmp_path / "out", Wanted(model.inference), on_window=count))
    assert max(counts) == before + 1
    assert steps == [(n, len(steps)) for n in range(len(steps))]


def test_an_ensemble_is_scored_as_its_label_maps_are(
    group: Path, tiny_root: Path, tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scored"
    assert run(["evaluate", str(group), "--out", str(out), "--store", str(store), "--predictions"]) == 0
    assert "the mean of the probabilities of 3 networks: seeds/seed0, seeds/seed1 and seeds/seed2" in (
        said := capsys.readouterr().out
    )
    assert "of seeds/seed1 and round" in said
    cases = read_cohort(tiny_root)
    for case in cases.of(split="test"):
        drawn = amos_fl.predict(group, case.image, tmp_path / f"drawn-{case.case}", modality=case.modality)
        assert drawn[0].state == "predicted"
        files = tmp_path / f"drawn-{case.case}/{case.case}.nii.gz", out / f"predictions/{case.site}/{case.case}.nii.gz"
        mine, theirs = (np.asarray(nib.nifti1.load(file).dataobj) for file in files)
        assert np.array_equal(mine, theirs)
    found = amos_fl.evaluate([group / "seed0", group / "seed1"], split="train", out=tmp_path / "train", store=store)
    assert any("6 cases of these 6 trained a network of the ensemble" in note for note in found.notes)
    assert found.evaluation.question.seen == {"A", "B", "G"}
    assert json.loads((tmp_path / "train/evaluation.json").read_text())["members"] == [
        str(group / f"seed{n}/model") for n in (0, 1)
    ]


def test_what_cannot_be_averaged_is_refused_in_one_sentence(
    group: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: object) -> str:
        assert run(["predict", *map(str, arguments), "-o", str(tmp_path / "out"), "--modality", "CT"]) == 2
        assert not (tmp_path / "out").exists()
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    other = tmp_path / "other"
    shutil.copytree(group / "seed0/model", other)
    about = json.loads((other / "network.json").read_text())
    (other / "network.json").write_text(json.dumps({**about, "plan": {**about["plan"], "spacing_mm": [8, 8, 4]}}))
    assert "in its plan (spacing_mm is" in refused(group / "seed0", scan, "--with", other)
    (other / "network.json").write_text(json.dumps({**about, "organs": {"1": "ball", "2": "cube"}}))
    assert "in its organs, so the two cannot be averaged" in refused(group / "seed0", scan, "--with", other)
    assert "is named twice" in refused(group, scan, "--with", group / "seed1")
    assert "test-time adaptation fits one network" in refused(group, scan, "--test-time-adaptation")
    assert "the expected DSC is of one network, and this is an ensemble of 3" in refused(group, scan, "--expected-dsc")
    mixed = tmp_path / "mixed"
    shutil.copytree(group, mixed)
    begun_again(mixed / "seed1", weighting="equal")
    assert "its runs differ in weighting, not only in seed and fold" in refused(mixed, scan)


def test_in_python_an_ensemble_predicts_and_has_no_network_of_its_own(
    group: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = amos_fl.TrainedModel.ensemble([group])
    assert repr(model) == "TrainedModel(ensemble of 3 small)"
    assert model.predict(scan, "CT").labels.any()
    splits: Split = "val"
    for refused in (model.network, lambda: model.export("nowhere", "onnx"), lambda: amos_fl.calibrate(model)):
        with pytest.raises(amos_fl.AmosError, match="an ensemble of 3; name one run"):
            refused()
    keywords = InferenceKeywords(test_time_adaptation=True)
    with pytest.raises(amos_fl.AmosError, match="fits one network"):
        amos_fl.evaluate(model, split=splits, out="nowhere", **keywords)
    assert not Path("nowhere").exists()
