"""An option that a command takes is heeded or refused: nobody waits for a run that does not do what was asked."""

from pathlib import Path

import pytest
import yaml
from federations import TINY

from amos_fl.cli.main import run
from amos_fl.runs.layers import merge

RESUME = ["--resume", "RUN"]
REFUSED = [
    ("simulate", [*RESUME, "--out", "OTHER", "--dry-run"], "leave out --out, --dry-run"),
    ("simulate", [*RESUME, "--out", "OTHER"], "leave out --out"),
    ("simulate", [*RESUME, "--dry-run"], "leave out --dry-run"),
    ("simulate", [*RESUME, "--init", "OTHER"], "leave out --init"),
    ("simulate", [*RESUME, "--rounds", "9"], "leave out rounds"),
    ("simulate", [*RESUME, "--set", "seed=9"], "leave out seed"),
    ("simulate", [*RESUME, "--learning-rate", "0.1"], "leave out training.learning_rate"),
    ("simulate", ["--accept-changes"], "--accept-changes needs --resume"),
    ("simulate", ["--config", "TINY", "--folds", "3"], "--folds needs --fold"),
    ("simulate", ["--config", "TINY", "--fold", "5"], "fold 5: of 5 folds the last is 4"),
    ("simulate", ["--config", "TINY", "--fold", "99", "--folds", "100"], "fold 99 of 100 has no validation case"),
    ("simulate", ["--config", "TINY", "--parallel-sites", "2"], "--parallel-sites needs --engine ray"),
    ("simulate", ["--config", "TINY", "--gpus-per-site", "0.5"], "--gpus-per-site needs --engine ray"),
    ("simulate", ["--config", "TINY", "--ray-address", "a:1"], "--ray-address needs --engine ray"),
    ("simulate", ["--set", "arm=local"], "follows from the command"),
    ("centralized", [*RESUME, "--out", "OTHER", "--dry-run"], "leave out --out, --dry-run"),
    ("centralized", [*RESUME, "--budget", "equal-steps"], "leave out --budget"),
    ("centralized", [*RESUME, "--like", "OTHER"], "leave out --like"),
    ("centralized", [*RESUME, "--init", "OTHER"], "leave out --init"),
    ("centralized", ["--like", "RUN", "--rounds", "9"], "leave out rounds"),
    ("centralized", ["--like", "RUN", "--init", "OTHER"], "leave out --init"),
    ("centralized", ["--like", "RUN", "--set", "cohort=OTHER"], "leave out cohort"),
    ("centralized", ["--accept-changes"], "--accept-changes needs --resume"),
    ("centralized", ["--config", "TINY", "--set", "strategy=fedprox"], "a run with one trainer has no strategy"),
    (
        "centralized",
        ["--config", "TINY", "--set", "strategy_options.mu=1"],
        "a run with one trainer has no strategy_options",
    ),
    ("centralized", ["--config", "TINY", "--set", "optimizer_state=reset"], "has no optimizer_state"),
    ("local", [*RESUME, "--out", "OTHER"], "leave out --out"),
    ("local", [*RESUME, "--budget", "whole"], "leave out --budget"),
    ("local", [*RESUME, "--like", "OTHER"], "leave out --like"),
    ("local", ["--config", "TINY", "--set", "weighting=equal"], "a run with one trainer has no weighting"),
    ("local", ["--accept-changes"], "--accept-changes needs --resume"),
    ("leave-one-out", [*RESUME, "--out", "OTHER"], "leave out --out"),
    ("leave-one-out", [*RESUME, "--like", "OTHER"], "leave out --like"),
    ("leave-one-out", ["--like", "RUN", "--strategy", "fedprox"], "leave out strategy"),
    ("finetune", [*RESUME, "--out", "OTHER"], "leave out --out"),
    ("finetune", ["OTHER", *RESUME], "leave out RUN"),
    ("finetune", [*RESUME, "--rounds", "2", "--learning-rate", "0.1"], "leave out --rounds, --learning-rate"),
    ("finetune", ["RUN", "--accept-changes"], "--accept-changes needs --resume"),
    ("sweep", [*RESUME, "--out", "OTHER", "--dry-run"], "leave out --out, --dry-run"),
    ("sweep", ["TINY", *RESUME], "either the file of a new sweep"),
    ("sweep", ["TINY", "--gpus-per-run", "1"], "--gpus-per-run needs --parallel"),
    ("sweep", ["TINY", "--ray-address", "a:1"], "--ray-address needs --parallel"),
    ("sweep", ["TINY", "--accept-changes"], "--accept-changes needs --resume"),
    ("sweep", ["TINY", "--only", "run", "--parallel", "2"], "leave out --parallel"),
    ("sweep", ["TINY", "--prepare", "--parallel", "2"], "leave out --parallel"),
    ("sweep", ["TINY", "--prepare", "--only", "run"], "leave out --only"),
    ("deploy run", [*RESUME, "--out", "OTHER"], "leave out --out"),
    ("deploy run", [*RESUME, "--dry-run"], "leave out --dry-run"),
    ("deploy run", [*RESUME, "--init", "OTHER"], "leave out --init"),
    ("experiments", ["--out", "OTHER", "run", "RUN"], "give it after the subcommand"),
    ("experiments run", ["RUN", "--all"], "needs the name of one, or --all"),
    ("experiments run", ["RUN", "--quick", "--cohort", "OTHER"], "leave out --data and --cohort"),
]


@pytest.mark.parametrize(("command", "options", "words"), REFUSED)
def test_an_option_that_would_not_be_heeded_is_refused_before_anything_is_done(
    tmp_path: Path,
    tiny_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = merge(TINY, {"cohort": str(tiny_root)})
    Path("TINY").write_text(yaml.safe_dump(yaml.safe_load(yaml.safe_dump(settings).replace("!!python/tuple", ""))))
    Path("RUN").mkdir()
    assert run([*command.split(), *options]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["RUN", "TINY"]
    assert not list(Path("RUN").iterdir())


@pytest.mark.parametrize("command", ["simulate", "centralized"])
def test_a_dry_run_says_where_the_run_would_be_and_whether_it_could(
    tmp_path: Path, tiny_root: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    file, out = tmp_path / "tiny.yaml", tmp_path / "run"
    settings = merge(TINY, {"cohort": str(tiny_root)})
    file.write_text(yaml.safe_dump(settings).replace("!!python/tuple", ""))
    assert run([command, "--config", str(file), "--out", str(out), "--dry-run"]) == 0
    assert f"run folder: {out}" in capsys.readouterr().out
    assert not out.exists()
    out.mkdir()
    (out / "thesis.tex").touch()
    assert run([command, "--config", str(file), "--out", str(out), "--dry-run"]) == 2
    assert "is not empty; choose another folder" in capsys.readouterr().err
