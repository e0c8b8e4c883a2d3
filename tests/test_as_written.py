"""A finished run whose files contradict one another is not reported, compared, listed with scores, or applied."""

import csv
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import write_tiny_cohort
from federations import federate

from amos_fl.cli.main import run
from amos_fl.cohort.table import read_cohort
from amos_fl.metrics.scores import UNIT
from amos_fl.runs.about import versions
from amos_fl.runs.as_written import changed_table
from amos_fl.runs.difference import Change, compare_folders
from amos_fl.runs.evaluation import Evaluation
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.listing import ListedRun, list_runs
from amos_fl.runs.record import read_run
from amos_fl.runs.results import Results, results_of, write_tables

ON_A_RUN = ["report", "compare", "diff", "evaluate", "predict"]


@pytest.fixture
def copy(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "copy")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path, store: Path) -> Path:
    """A run with another seed; not to be changed."""
    return federate(tmp_path_factory.mktemp("another") / "run", read_cohort(tiny_root), store, seed=1).path


def said_by(command: str, copy: Path, other: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence with which a command refuses a run."""
    scan = next((read_run(other).cohort.of(site="A", split="test"))[0].image.parent.glob("d_*"))
    arguments = {
        "report": [str(copy)],
        "compare": [str(copy), str(other), "--out", str(out)],
        "diff": [str(other), str(copy)],
        "evaluate": [str(copy), "--out", str(out)],
        "predict": [str(copy), str(scan), "--modality", "CT", "--out", str(out)],
    }[command]
    capsys.readouterr()
    assert run([command, *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert not list(out.rglob("*.csv"))
    return said


def listed(path: Path) -> ListedRun:
    [found] = list_runs([path])
    assert isinstance(found, ListedRun)
    return found


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def write(file: Path, rows: list[dict[str, str]]) -> None:
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


TABLES = ["scores.csv", "scores_by_site.csv", "scores_by_organ.csv"]


@pytest.mark.parametrize("command", ["report", "compare", "diff", "runs"])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_says_otherwise_than_the_evaluations_is_named(
    name: str, command: str, copy: Path, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = table(copy / name)
    rows[0]["dsc"] = "0.850"
    write(copy / name, rows)
    words = "does not say what the run's evaluations say"
    if command == "runs":
        assert listed(copy).state_in_words == f"damaged: {name} {words}"
        assert listed(copy).dsc == {}
    else:
        assert f"copy/{name}: {words}" in said_by(command, copy, finished_run, tmp_path / "out", capsys)


@pytest.mark.parametrize("name", TABLES)
def test_a_row_that_was_taken_out_of_a_table_is_missed(name: str, copy: Path) -> None:
    write(copy / name, table(copy / name)[1:])
    assert listed(copy).state == "damaged"


def test_tables_of_an_older_version_have_fewer_columns_and_digits(copy: Path) -> None:
    for name in TABLES:
        rows = [
            {
                key: f"{float(value):.4f}" if value and key in ("dsc", "nsd", "predicted_ml") else value
                for key, value in row.items()
                if key not in ("dsc_present", "volume_error_ml", "hd95_mm")
            }
            for row in reversed(table(copy / name))
        ]
        write(copy / name, rows)
    read_run(copy)
    assert listed(copy).state_in_words == "finished"
    rows = table(copy / "scores_by_site.csv")
    rows[0]["dsc"] = f"{float(rows[0]['dsc']) + 0.0002:.4f}"
    write(copy / "scores_by_site.csv", rows)
    assert listed(copy).state == "damaged"


def test_tables_of_the_sites_own_models_are_compared_too(copy: Path) -> None:
    folder = RunFolder(copy)
    shared = results_of(folder, folder.config(), folder.cohort())
    results: Results = replace(shared, personal=shared)
    write_tables(copy, results)
    assert changed_table(copy, results) is None
    for name in ("scores_personal.csv", "scores_by_site_personal.csv"):
        before, rows = (copy / name).read_bytes(), table(copy / name)
        rows[0]["nsd"] = "0.99"
        write(copy / name, rows)
        assert changed_table(copy, results) == name
        (copy / name).write_bytes(before)


def in_test_evaluation(copy: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    [file] = (copy / "evaluations").glob("*_test.json")
    data = json.loads(file.read_text())
    change(data["sites"]["A"])
    file.write_text(json.dumps(data))
    return file


def better(site: dict[str, Any]) -> None:
    next(score for score in site["cases"][0]["scores"].values() if score["outcome"] == "scored")["dsc"] = 0.85


@pytest.mark.parametrize("command", ["report", "compare", "diff", "runs"])
def test_a_score_of_a_case_that_does_not_add_up_is_named(
    command: str, copy: Path, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = in_test_evaluation(copy, better)
    words = f"evaluations/{file.name}: the scores of its cases do not add up to its sums"
    if command == "runs":
        assert words in listed(copy).state_in_words
    else:
        assert words in said_by(command, copy, finished_run, tmp_path / "out", capsys)


def test_sums_that_an_older_version_did_not_write_are_not_missed(copy: Path) -> None:
    def older(site: dict[str, Any]) -> None:
        for sums in site["scores"]["organs"].values():
            for part in ("reference_ml_sum", "predicted_ml_sum", "volume_error_sum", "hd95_sum", "hd95_counted"):
                del sums[part]

    in_test_evaluation(copy, older)
    read_run(copy)
    in_test_evaluation(copy, better)
    assert listed(copy).state == "damaged"


def test_a_site_that_withholds_its_cases_has_sums_alone(copy: Path) -> None:
    folder = RunFolder(copy)
    in_test_evaluation(copy, lambda site: site.update(cases=[]))
    write_tables(copy, results_of(folder, folder.config(), folder.cohort()))
    read_run(copy)


@pytest.mark.parametrize("command", ON_A_RUN)
def test_weights_of_another_run_are_refused(
    command: str,
    copy: Path,
    finished_run: Path,
    elsewhere: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(elsewhere / "model/weights.safetensors", copy / "model/weights.safetensors")
    said = said_by(command, copy, finished_run, tmp_path / "out", capsys)
    assert "copy/model/weights.safetensors: is not the weights of round" in said
    assert "by their hash in ledger.jsonl" in said


@pytest.mark.parametrize("command", ON_A_RUN)
def test_a_flipped_bit_of_the_weights_is_found(
    command: str, copy: Path, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = copy / "model/weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    assert "copy/model/weights.safetensors: " in said_by(command, copy, finished_run, tmp_path / "out", capsys)


def test_a_model_apart_from_its_run_has_no_ledger_that_could_say_otherwise(
    elsewhere: Path, finished_run: Path, tiny_root: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(finished_run / "model", tmp_path / "model")
    shutil.copy(elsewhere / "model/weights.safetensors", model / "weights.safetensors")
    scan = next((tiny_root / "images").glob("d_*"))
    assert run(["predict", str(model), str(scan), "--modality", "CT", "--out", str(tmp_path / "out")]) == 0


def test_diff_compares_scores_case_by_case(copy: Path, tmp_path: Path) -> None:
    (copy / "summary.md").unlink()  # not finished: neither run has tables that would give it away
    folder = RunFolder(copy)
    [number] = [number for number, split in folder.evaluations() if split == "test"]
    evaluation = folder.read_evaluation(number, "test")
    assert evaluation is not None
    data = evaluation.model_dump()
    [case] = data["sites"]["A"]["cases"]
    score = next(score for score in case["scores"].values() if score["outcome"] == "scored")
    score["nsd"] += (1 if score["nsd"] * UNIT % 1 < 0.5 else -1) / UNIT / 16  # too little to change the sums
    other = shutil.copytree(copy, tmp_path / "other")
    RunFolder(other).write_evaluation(number, "test", Evaluation.model_validate(data))
    found = compare_folders(copy, other)
    assert found.scores == f"the test scores of round {number} part at site A in case a_test_8"
    assert not found.same


def test_diff_compares_the_contents_of_scans(copy: Path, finished_run: Path) -> None:
    scans = json.loads((copy / "scans.json").read_text())
    before, scans["b_train_0"] = scans["b_train_0"], "f" * 64
    (copy / "scans.json").write_text(json.dumps(scans))
    found = compare_folders(finished_run, copy)
    assert found.cases == (Change("b_train_0: content of scan and label map", before[:16], "f" * 16),)
    assert not found.same
    (copy / "scans.json").unlink()
    assert compare_folders(finished_run, copy).same  # one of the runs does not know


@pytest.mark.parametrize("part", ["label", "image"])
def test_evaluate_notices_that_a_scan_or_label_map_of_the_runs_own_cohort_is_another(
    part: str, tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = write_tiny_cohort(tmp_path / "cohort")
    path = federate(tmp_path / "run", cohort, store, rounds=1).path
    file = getattr(cohort.of(site="A", split="test")[0], part)
    scan = nib.Nifti1Image.from_filename(file)
    nib.save(nib.Nifti1Image(np.roll(np.asarray(scan.dataobj), 1, axis=0), scan.affine), file)
    command = ["evaluate", str(path), "--store", str(store), "--out", str(tmp_path / "out")]
    assert run(command) == 2
    said = capsys.readouterr().err
    assert "run/scans.json: does not fit the scans any more" in said
    assert "a_test_8 (a_test_8.nii.gz or its label map) has another content" in said
    assert "--cohort" in said
    assert not (tmp_path / "out").exists()
    assert run([*command, "--sites", "D"]) == 0  # whose scans are as they were
    shutil.rmtree(tmp_path / "out")
    assert run([*command, "--cohort", str(tmp_path / "cohort")]) == 0


def marked(copy: Path, file: str, *, synthetic: bool) -> None:
    data = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps({**data, "synthetic": synthetic}))


@pytest.fixture
def of_phantom(copy: Path) -> Path:
    """A run that says everywhere that its scans are synthetic."""
    from amos_fl.runs.summary import PHANTOM_NOTE

    for file in ("versions.json", "model/network.json"):
        marked(copy, file, synthetic=True)
    (copy / "summary.md").write_text(f"> {PHANTOM_NOTE}\n")
    read_run(copy)
    assert listed(copy).synthetic
    return copy


@pytest.mark.parametrize("command", ON_A_RUN)
@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"versions.json": False}, "real, and model/network.json that they are synthetic"),
        ({"model/network.json": False}, "synthetic, and model/network.json that they are real"),
        ({"versions.json": False, "model/network.json": False}, "real, and summary.md that they are synthetic"),
    ],
)
def test_the_mark_of_synthetic_scans_cannot_be_taken_off_in_one_place(
    changed: dict[str, bool],
    says: str,
    command: str,
    of_phantom: Path,
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for file, synthetic in changed.items():
        marked(of_phantom, file, synthetic=synthetic)
    said = said_by(command, of_phantom, finished_run, tmp_path / "out", capsys)
    assert f"versions.json: says that the run's scans are {says}" in said
    assert "whether its scans are synthetic" in listed(of_phantom).state_in_words


def test_a_run_without_a_cohort_of_its_own_is_of_a_phantom(copy: Path) -> None:
    file = copy / "config.yaml"
    lines = file.read_text().splitlines()
    file.write_text("\n".join("cohort: null" if line.startswith("cohort:") else line for line in lines))
    assert "versions.json says otherwise than config.yaml" in listed(copy).state_in_words


def test_the_processors_model_is_among_the_versions_and_is_shown_where_it_differs(
    copy: Path, finished_run: Path
) -> None:
    file = copy / "versions.json"
    about = json.loads(file.read_text())
    if sys.platform == "linux":
        known = " ".join(Path("/proc/cpuinfo").read_text().split())
        named = f"model name : {versions().get('cpu')} " in known
        assert named == ("model name" in known)
        assert about["versions"].get("cpu") == versions().get("cpu")
    file.write_text(json.dumps({**about, "versions": {**about["versions"], "cpu": "another"}}))
    found = compare_folders(finished_run, copy)
    assert [change.name for change in found.where] == ["version.cpu"]
    assert found.same
    about["versions"].pop("cpu", None)  # as of an older version
    file.write_text(json.dumps(about))
    assert compare_folders(finished_run, copy).same
    assert listed(copy).state_in_words == "finished"
