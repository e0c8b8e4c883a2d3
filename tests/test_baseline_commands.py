"""`amos-fl centralized`, `local`, `finetune`, `leave-one-out` and `sweep`, as their user meets them."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from federations import TINY, federate, hashes, tiny_config

from amos_fl.api import running
from amos_fl.cli.main import run
from amos_fl.cohort.table import Cohort, read_cohort
from amos_fl.errors import AmosError, Interrupted
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.group import PlannedRun, create_group
from amos_fl.runs.sweep import read_sweep

SETTINGS = {**TINY, "rounds": 2, "evaluation": {"every": 1}}


@pytest.fixture
def settings(tmp_path: Path, tiny_root: Path) -> Path:
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(json.loads(json.dumps({**SETTINGS, "cohort": str(tiny_root)}))))
    return file


@pytest.fixture(scope="module")
def federated(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path, store: Path) -> RunFolder:
    """A finished federated run that the tests may read and not change."""
    folder = tmp_path_factory.mktemp("federated") / "run"
    return federate(folder, read_cohort(tiny_root), store, rounds=2, evaluation={"every": 1})


def test_centralized_prints_both_budgets_and_leaves_a_run(federated, store, tmp_path, capsys):
    out = tmp_path / "c"
    assert run(["centralized", "--like", str(federated.path), "--out", str(out), "--store", str(store)]) == 0
    printed = capsys.readouterr().out
    assert "4 steps at each of 3 sites, 12 in all on 24 patches; the pooled run takes 12 steps and sees 24" in printed
    assert "Test scores by site" in printed
    assert RunFolder(out).finished
    assert run(["centralized", "--resume", str(out), "--store", str(store)]) == 0


def test_a_dry_run_of_the_pooled_training_counts_one_trainer(federated, capsys):
    assert run(["centralized", "--like", str(federated.path), "--dry-run"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "12 steps at each of 1 site, 12 in all, 24 patches" in printed
    assert "weights sent: 0.0 MB to the sites and 0.0 MB back" in printed
    assert re.search(r"min of training without augmentation, [\d.]+ min of scoring \(\d+ scans in all\)", printed)


def test_a_baseline_of_a_run_whose_scans_were_moved_is_told_where_they_are(tiny_root, store, tmp_path, capsys):
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(tiny_root, here)
    folder = federate(tmp_path / "run", read_cohort(here), store, rounds=1)
    here.rename(there)
    like = ["centralized", "--like", str(folder.path), "--store", str(store), "--dry-run"]
    assert run(like) == 2
    assert "say with --cohort" in capsys.readouterr().err
    assert run([*like, "--cohort", str(there)]) == 0
    assert run([*like, "--cohort", str(there), "--rounds", "3"]) == 2
    assert "leave out rounds" in capsys.readouterr().err


def test_the_same_budget_comes_from_settings_as_from_a_run(federated, settings, store, tmp_path, capsys):
    like, own = tmp_path / "like", tmp_path / "own"
    assert run(["centralized", "--like", str(federated.path), "--out", str(like), "--store", str(store)]) == 0
    assert run(["centralized", "--config", str(settings), "--out", str(own), "--store", str(store)]) == 0
    # The recipe of the model fills in what the settings leave open, and here they leave nothing open that counts.
    assert RunFolder(like).config().local_steps == RunFolder(own).config().local_steps == 6


def test_local_and_finetune_show_every_model_on_every_site(federated, store, tmp_path, capsys):
    out = tmp_path / "l"
    assert run(["local", "--like", str(federated.path), "--out", str(out), "--store", str(store)]) == 0
    assert "Test DSC (* the run trained there)" in capsys.readouterr().out
    assert run(["local", "--resume", str(out), "--store", str(store)]) == 0
    assert capsys.readouterr().out.count("finished before; skipped") == 3
    tuned = tmp_path / "t"
    assert run(["finetune", str(federated.path), "--rounds", "1", "--out", str(tuned), "--store", str(store)]) == 0
    assert "own best round" in capsys.readouterr().out
    rows = (tuned / "site_choices.csv").read_text().splitlines()
    assert rows[0].startswith("site,round_for_all,val_dsc_for_all,test_dsc_for_all,own_round")
    assert [row.split(",")[0] for row in rows[1:]] == ["A", "B", "G"]
    assert run(["local", "--resume", str(tuned)]) == 2
    assert "continue it with: amos-fl finetune --resume" in capsys.readouterr().err


def test_a_sweep_runs_once_what_it_lists(tiny_root, store, tmp_path, capsys):
    plain = json.loads(json.dumps({**SETTINGS, "cohort": str(tiny_root), "rounds": 1}))
    file, out = tmp_path / "sweep.yaml", tmp_path / "s"
    file.write_text(yaml.safe_dump({"settings": plain, "grid": {"seed": [0, 1]}, "baselines": ["centralized"]}))
    assert run(["sweep", str(file), "--dry-run"]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"^seed1: .* in all; about [\d.]+ s of training and [\d.]+ s of scoring", listed, re.MULTILINE)
    assert "disk: at most " in listed
    assert re.search(r"^centralized-seed0: centralized, \d+ steps at 1 trainer, ", listed, re.MULTILINE)
    assert re.search(r"^4 runs, about [\d.]+ \w+ one after another$", listed, re.MULTILINE)
    assert run(["sweep", str(file), "--out", str(out), "--store", str(store)]) == 0
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == [
        "centralized-seed0",
        "centralized-seed1",
        "seed0",
        "seed1",
    ]
    capsys.readouterr()
    assert run(["sweep", str(file), "--out", str(out), "--store", str(store)]) == 0
    assert capsys.readouterr().out.count("finished before; skipped") == 4
    file.write_text(yaml.safe_dump({"settings": {**plain, "rounds": 2}, "grid": {"seed": [0, 1]}}))
    assert run(["sweep", str(file), "--out", str(out), "--store", str(store)]) == 2
    assert "a sweep of other runs" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_in_parallel_gives_the_weights_of_one_after_another(tiny_root, store, tmp_path):
    plain = json.loads(json.dumps({**SETTINGS, "cohort": str(tiny_root), "rounds": 1}))
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({"settings": plain, "grid": {"seed": [0, 1]}}))
    for out, more in (("one", []), ("two", ["--parallel", "2"])):
        assert run(["sweep", str(file), "--out", str(tmp_path / out), "--store", str(store), *more]) == 0
    for name in ("seed0", "seed1"):
        assert hashes(RunFolder(tmp_path / "one" / name)) == hashes(RunFolder(tmp_path / "two" / name))


def test_a_run_that_fails_does_not_keep_the_group_from_the_others(tiny_cohort: Cohort, store, tmp_path, capsys):
    federated = federate(tmp_path / "f", tiny_cohort, store, rounds=1, evaluation={"every": 1})
    out = tmp_path / "l"
    assert run(["local", "--like", str(federated.path), "--out", str(out), "--store", str(store)]) == 0
    for name in ("summary.md", "ledger.jsonl"):
        (out / "B" / name).unlink()
    checkpoint = out / "B" / "checkpoints" / "round_0001" / "weights.safetensors"
    checkpoint.write_bytes(b"broken")
    capsys.readouterr()
    assert run(["local", "--resume", str(out), "--store", str(store)]) == 2
    shown = capsys.readouterr()
    assert "is not a complete safetensors file" in shown.out
    assert "B: did not finish" in shown.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["centralized", "--like", "{run}", "--rounds", "3"],
            "--like takes everything from that run; leave out rounds",
        ),
        (["centralized", "--like", "{tmp}/none"], "none: no such folder; 'amos-fl runs' lists yours"),
        (["centralized", "--resume", "{run}", "--like", "{run}"], "leave out --like"),
        (["local", "--resume", "{run}"], "holds no group of runs"),
        (["finetune"], "needs the federated run"),
        (["finetune", "{run}", "--resume", "{run}"], "leave out RUN"),
        (["sweep"], "needs either the file of a new sweep"),
        (["sweep", "{tmp}/none.yaml"], "no such settings file; give the YAML file of a sweep"),
    ],
)
def test_wrong_input_gets_one_sentence(arguments, sentence, federated, tmp_path, capsys):
    filled = [text.format(run=federated.path, tmp=tmp_path) for text in arguments]
    assert run(filled) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_a_group_that_is_stopped_is_continued_by_one_command_only(
    tiny_cohort: Cohort, store, tmp_path, capsys, monkeypatch
):
    def stopped(*given: object, **how: object) -> None:  # what a run does on Ctrl-C is tested in test_resume.py
        raise Interrupted("stopped")

    monkeypatch.setattr(running, "carry_out", stopped)
    members = [PlannedRun(name, tiny_config(), tiny_cohort) for name in ("a", "b")]
    group = create_group(tmp_path / "group", "sweep", members)
    assert run(["sweep", "--resume", str(group.path), "--store", str(store)]) == 130
    said = capsys.readouterr()
    assert f"continue the rest of the group with: amos-fl sweep --resume {group.path}" in said.out + said.err
    assert (said.out + said.err).count("--resume") == 1
    assert run(["simulate", "--resume", str(group.path / "a"), "--store", str(store)]) == 130
    said = capsys.readouterr()
    assert f"continue with: amos-fl simulate --resume {group.path / 'a'}" in said.out + said.err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("grids: {seed: [0]}", "no key 'grids' in a sweep; did you mean 'grid'"),
        ("grid: {seed: 0}", "grid.seed must list its values"),
        ("grid: {sead: [0]}", "grid.sead: no setting 'sead'; did you mean 'seed'"),
        ("runs: {strategy: fedavg}", "runs must be a list"),
        ("grid: {seed: [1, 1]}", "two of its runs have the same settings (seed1)"),
        ("baselines: [pooled]", "no baseline 'pooled'; did you mean 'centralized'?"),
        ("baselines: [locals]", "no baseline 'locals'; did you mean 'local'?"),
        ("grid: {mu: [0.1]}", "grid.mu: no setting 'mu'; an option of a method goes under strategy_options: {mu: ...}"),
    ],
)
def test_a_sweep_that_is_none_is_refused(text, sentence, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    with pytest.raises(AmosError) as raised:
        read_sweep(file)
    assert sentence in str(raised.value)


def test_a_sweep_is_every_combination(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "runs: [{strategy: fedavg}, {strategy: fedprox, strategy_options: {mu: 0.1}}]\n"
        "grid: {seed: [0, 1], training.learning_rate: [0.1, 0.2]}\n"
    )
    sweep = read_sweep(file)
    assert len(sweep.combinations) == 8
    assert sweep.combinations[0].name == "fedavg-seed0-learning_rate0.1"
    assert sweep.combinations[-1].name == "fedprox-mu0.1-seed1-learning_rate0.2"
    merged = {key: value for layer in sweep.combinations[-1].layers for key, value in layer.settings.items()}
    assert merged == {
        "strategy": "fedprox",
        "strategy_options": {"mu": 0.1},
        "seed": 1,
        "training": {"learning_rate": 0.2},
    }


def test_each_run_of_a_group_is_computed_with_the_settings_in_its_folder(settings, store, tmp_path):
    out = tmp_path / "whole"
    command = ["local", "--config", str(settings), "--rounds", "1", "--local-steps", "2", "--budget", "whole"]
    assert run([*command, "--out", str(out), "--store", str(store)]) == 0
    for site in "ABG":
        folder = RunFolder(out / site)
        assert folder.config().local_steps == 6  # of three sites
        assert folder.ledger()[0]["sites"][site]["steps"] == 6
