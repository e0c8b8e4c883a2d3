"""`amos-fl simulate` as a user types it: results, dry run, resume, and one plain sentence for every wrong input."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from federations import TINY, tiny_config

from amos_fl.cli.main import run
from amos_fl.runs.folder import open_run


@pytest.fixture
def settings(tmp_path: Path, tiny_root: Path) -> Path:
    """A settings file for a tiny run, as a user writes one."""
    file = tmp_path / "tiny.yaml"
    plain = json.loads(json.dumps({**TINY, "cohort": str(tiny_root), "rounds": 2, "evaluation": {"every": 1}}))
    file.write_text(yaml.safe_dump(plain))
    return file


def test_a_run_prints_scores_and_leaves_its_folder(
    tmp_path: Path, settings: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(["simulate", "--config", str(settings), "--out", str(out), "--store", str(store)]) == 0
    printed = capsys.readouterr().out
    for words in ("round 1/2", "round 2/2", "Test scores by site", "unseen CT", "missed", "report.html"):
        assert words in printed
    for name in (
        "report.html",
        "summary.md",
        "scores.csv",
        "config.yaml",
        "versions.json",
        "ledger.jsonl",
        "model/MODEL_CARD.md",
    ):
        assert (out / name).stat().st_size > 0
    card = (out / "model/MODEL_CARD.md").read_text()
    assert "Not a medical device" in card
    assert open_run(out).ledger()[0]["weights_sha256"]
    assert run(["simulate", "--resume", str(out), "--store", str(store)]) == 0
    assert run(["simulate", "--config", str(settings), "--out", str(out), "--store", str(store)]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_a_runs_own_settings_run_again_as_they_are(tmp_path: Path, settings: Path, store: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    run(["simulate", "--config", str(settings), "--out", str(first), "--store", str(store)])
    run(["simulate", "--config", str(first / "config.yaml"), "--out", str(again), "--store", str(store)])
    assert (first / "scores.csv").read_bytes() == (again / "scores.csv").read_bytes()


def test_a_dry_run_prints_the_work_and_writes_nothing(
    tmp_path: Path, settings: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert run(["simulate", "--config", str(settings), "--rounds", "7", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "14 steps at each of 3 sites, 42 in all, 84 patches" in printed
    assert "GiB for training one site" in printed
    assert re.search(r"^disk: at most [\d.]+ MB of prepared scans in the store and [\d.]+ MB of weights", printed, re.M)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--strategy", "fedavgg"], "did you mean 'fedavg'"),
        (["--strategy", "fedprox", "--set", "strategy_options.nu=1"], "no option 'nu'"),
        (["--model", "unett"], "did you mean 'unet'"),
        (["--plan", "fine"], "no plan 'fine'; there are coarse"),
        (["--set", "training.learning_rat=1"], "did you mean 'training.learning_rate'"),
        (["--set", "rounds"], "must have the form key=value"),
        (["--rounds", "0"], "--rounds is 0: must be a whole number, at least 1 and"),
        (["--rounds", "x"], "--rounds is 'x': must be a whole number, at least 1 and"),
        (["--set", "training.momentum=2"], "training.momentum is 2"),
        (["--device", "cuda:77"], "no such GPU"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--engine", "rai"], "--engine is 'rai': choose inline or ray"),
        (["--hold-out", "Z"], "no site Z in this cohort; it has A, B, D, G"),
        (["--sites", "D"], "no site has a labelled training case"),
        (["--cohort", "nowhere"], "no such cohort file"),
        (["--cohort", "ct.nii.gz"], "ct.nii.gz: is a scan and not a cohort.csv; give the cohort.csv that lists it"),
        (["--config", "nowhere.yaml"], "no such settings file; 'amos-fl init' writes one"),
        (["--resume"], "--resume' requires an argument; see amos-fl simulate --help"),
        (["--set", "training.lr=1"], "did you mean 'training.learning_rate'?"),
        (["--set", "lr=1"], "did you mean 'training.learning_rate'?"),
        (["--set", "mu=1"], "no setting 'mu'; an option of a method goes under strategy_options: {mu: ...}"),
        (["--set", "zzzz=1"], "no setting 'zzzz'; amos-fl simulate --help lists them"),
        (["--set", "training.zzzz=1"], "no setting 'training.zzzz'; amos-fl simulate --help lists them"),
        (["--resume", "nowhere"], "--resume continues a run with its own settings"),
    ],
)
def test_wrong_input_is_one_plain_sentence_and_exit_code_2(
    settings: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.with_name("ct.nii.gz").write_bytes(b"\x1f\x8b\xff")
    arguments = [str(settings.with_name(one)) if one == "ct.nii.gz" else one for one in arguments]
    assert run(["simulate", "--config", str(settings), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert error.count("\n") == 1


def test_an_unknown_name_in_a_file_is_said_without_a_list_of_all_settings(
    settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = settings.read_text()
    for line, words in (
        ("mu: 0.1", "no setting 'mu'; an option of a method goes under strategy_options: {mu: ...}"),
        ("zzzz: 1", "no setting 'zzzz'; amos-fl simulate --help lists them"),
    ):
        settings.write_text(f"{text}\n{line}\n")
        assert run(["simulate", "--config", str(settings)]) == 2
        assert capsys.readouterr().err == f"amos-fl: {settings}: {words}\n"


def test_resuming_what_is_no_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--resume", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["simulate", "--resume", "NOPE"],
        ["sweep", "--resume", "NOPE"],
        ["watch", "NOPE"],
        ["compare", "NOPE"],
        ["report", "NOPE"],
        ["diff", "NOPE", "NOPE"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_folder_that_is_not_there_is_not_called_one_without_a_run(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    nope = str(tmp_path / "nope")
    assert run([nope if word == "NOPE" else word for word in arguments]) == 2
    assert capsys.readouterr().err == f"amos-fl: {nope}: no such folder; 'amos-fl runs' lists yours\n"


def test_a_file_that_is_not_nifti_is_named(
    tmp_path: Path, settings: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from conftest import write_tiny_cohort

    cohort = write_tiny_cohort(tmp_path / "cohort")
    cohort.cases[0].image.write_text("not an image")
    arguments = ["--cohort", str(tmp_path / "cohort"), "--out", str(tmp_path / "run"), "--store", str(store)]
    assert run(["simulate", "--config", str(settings), *arguments]) == 2
    assert f"{cohort.cases[0].case}.nii.gz" in capsys.readouterr().err


def test_scores_on_a_phantom_are_marked_as_synthetic(tmp_path: Path, tiny_root: Path) -> None:
    from amos_fl.cohort.table import read_cohort
    from amos_fl.runs.create import create_run

    config = tiny_config()
    assert not create_run(tmp_path / "real", config, read_cohort(tiny_root)).synthetic
    copy = tmp_path / "phantom"
    shutil.copytree(tiny_root, copy)
    (copy / "dataset.json").write_text('{"description": "synthetic phantom in the layout of AMOS22"}')
    assert create_run(tmp_path / "synthetic", config, read_cohort(copy)).synthetic
