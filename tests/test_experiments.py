"""Presets: what they must say, how they become tasks, what of them is done again, and when the paper stands beside."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_amos import write_release

from amos_fl.api.settings import resolve_run
from amos_fl.cli.main import run
from amos_fl.cohort.table import Cohort, read_cohort
from amos_fl.comparison.published import published_scores
from amos_fl.errors import AmosError, Interrupted
from amos_fl.experiments.carry_out import Callbacks, carry_out
from amos_fl.experiments.cost import preset_cost
from amos_fl.experiments.data import MissingDataError, data_cohort
from amos_fl.experiments.outcome import outcome, outcome_in_markdown, published_of
from amos_fl.experiments.planning import Planner, StepTask
from amos_fl.experiments.preset import Preset, Train, preset_from, preset_names, read_preset
from amos_fl.experiments.quick_data import quick_data
from amos_fl.experiments.shared import presets_folder
from amos_fl.experiments.workspace import Workspace
from amos_fl.files import write_text
from amos_fl.methods import METHODS
from amos_fl.runs.events import silent
from amos_fl.runs.folder import RunFolder
from amos_fl_server.federation.simulate import simulate

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
TABLES = {f"Table {number}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)} | {"Figure 3", "Figure 4"}
SMALL: dict[str, Any] = {
    "title": "Two arms",
    "question": "Does it run?",
    "budget": {"steps": 1000, "rounds": 10},
    "settings": {"model": "small", "plan": "coarse"},
    "steps": {
        "pooled": {"train": "centralized", "data": "amos/paper", "modality": "MR"},
        "fedavg": {"train": "federated", "data": "amos/paper", "modality": "MR"},
        "validation": {"evaluate": "pooled", "data": "amos/paper", "modality": "MR", "split": "val"},
        "numbers": {"statistics": "cohort", "data": "amos/paper", "modality": "MR"},
        "tuned": {"train": "centralized", "data": "msd-spleen", "start": "pooled"},
        "spleen": {"evaluate": "pooled", "data": "msd-spleen"},
        "comparison": {"compare": ["pooled", "fedavg"]},
    },
    "results": [{"row": "pooled", "column": "MR", "step": "pooled"}],
}

BESIDE = {"row": "", "column": "", "published": {"table": 5, "training": "MR", "cases": "MR-val"}}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the phantom of quick experiments."""
    folder = tmp_path_factory.mktemp("cache")
    for name in ("amos", "msd-spleen"):
        quick_data(name, folder)
    return folder


def preset_file(folder: Path, **changes: Any) -> Path:
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump({**SMALL, **changes}, sort_keys=False))
    return file


def planned(preset: Preset, workspace: Workspace, given: dict[str, Path]) -> dict[str, StepTask]:
    return {task.step: task for task in Planner(workspace, given, partial(resolve_run, headers=False)).plan(preset)}


def quick(cache: Path) -> dict[str, Path]:
    return {name: quick_data(name, cache) for name in ("amos", "msd-spleen")}


# What a preset says


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_says_what_it_asks_needs_and_costs(name: str) -> None:
    preset = read_preset(name)
    assert preset.question.strip().endswith("?") or not preset.results
    assert preset.data_sets()
    trainings = [step for step in map(preset.resolved, preset.steps) if isinstance(step[1], Train)]
    assert bool(trainings) == (preset_cost(preset).gpu_hours > 0 or bool(preset.takes))
    asked = sum(result.published is not None for result in preset.results)
    known = [dsc for _, _, dsc, _ in published_of(preset) if dsc == dsc]
    assert len(known) == asked, "a result names a number that published.csv does not have"


def test_every_number_of_the_papers_tables_belongs_to_a_preset() -> None:
    named = {
        (result.published.table, result.published.cases, result.published.training)
        for name in preset_names()
        for result in read_preset(name).results
        if result.published
    }
    for score in published_scores():
        table = int(score.source.split(",")[0].removeprefix("Table "))
        table = 4 if table == 10 else table
        assert {(table, score.cases, score.training), (table, score.cases, None)} & named, score.source


@pytest.mark.parametrize("step", ["pooled", "validation"])
def test_a_published_number_stands_beside_a_pooled_training_and_its_scores(tmp_path: Path, step: str) -> None:
    preset = preset_from(preset_file(tmp_path, settings={"model": "unet"}, results=[{**BESIDE, "step": step}]))
    assert published_of(preset) == [("", "", 0.8559, 0.8056)]


def test_no_published_number_stands_beside_a_federated_arm(capsys: Any) -> None:
    assert run(["experiments", "show", "modalities"]) == 0
    table = capsys.readouterr().out.partition("What the paper printed")[2]
    assert "0.8942" in table
    assert "joint, centralized" in table
    assert "federated" not in table


def test_two_presets_that_say_the_same_training_share_it(tmp_path: Path) -> None:
    write_release(tmp_path / "amos22")
    workspace = Workspace(tmp_path / "out", "full")
    first = {
        (name, step): planned(read_preset(name), workspace, {"amos": tmp_path / "amos22"})[step].work.folder
        for name, step in (
            ("networks", "unet-ct"),
            ("cross-cohort", "amos"),
            ("modalities", "centralized-ct"),
            ("transfer", "amos"),
            ("generalization", "unet-ct"),
        )
    }
    assert len(set(first.values())) == 1
    networks = planned(read_preset("networks"), workspace, {"amos": tmp_path / "amos22"})
    [member] = networks["unet-ct"].members
    assert (member.config.arm, member.config.rounds, member.config.local_steps) == ("centralized", 1000, 250)
    assert (member.config.plan.name, member.config.training.augmentation) == ("amos-ct", "paper")
    assert len(member.cohort.of(split="train")) == 200
    federated = planned(read_preset("modalities"), workspace, {"amos": tmp_path / "amos22"})["federated-160-40"]
    [member] = federated.members
    assert [sum(c.modality == m for c in member.cohort.of(split="train")) for m in ("CT", "MR")] == [160, 40]
    assert member.config.local_steps * member.config.rounds * len(member.cohort.seen_sites) == pytest.approx(
        250_000, 0.02
    )


def test_a_training_with_code_of_ones_own_is_another_once_the_code_has_changed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (EXAMPLES / "my_lab/aug.py").read_text()
    (tmp_path / "tried_aug.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    own = {"strategy": "my_lab.methods:FedCM", "training": {"transforms": "tried_aug:transforms"}}
    own |= {"model": "my_lab.nets:build", "plan": "coarse"}
    steps = {"fedcm": {"train": "federated", "data": "amos/paper", "modality": "MR"}}
    preset = preset_from(preset_file(tmp_path, settings=own, steps=steps, results=[]))
    workspace = Workspace(tmp_path / "out", "quick")
    first, same = (planned(preset, workspace, quick(cache))["fedcm"] for _ in range(2))
    assert first.work.folder == same.work.folder
    assert first.work.folder.startswith("runs/fedcm-build-amos-")
    carry_out(preset, [first], workspace, callbacks(cache / "store"))
    about = RunFolder(workspace.root / first.work.folder).about()
    assert about.modules is not None
    assert sorted(about.modules) == ["my_lab.methods", "my_lab.nets", "tried_aug"]
    (tmp_path / "tried_aug.py").write_text(f"{code}\n# changed\n")
    del sys.modules["tried_aug"]
    assert planned(preset, workspace, quick(cache))["fedcm"].work.folder != first.work.folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": {"a": {"evaluate": "b", "data": "amos"}}}, "steps.a: no step 'b' above it"),
        ({"steps": {"a": {"train": "centralised", "data": "amos"}}}, "steps.a.train"),
        ({"steps": {"a": {"train": "federated", "data": "btvc"}}, "results": []}, "did you mean 'btcv'"),
        ({"budget": None}, "steps.pooled: a training needs a budget"),
        ({"results": [{"row": "", "column": "", "step": "poled"}]}, "did you mean 'pooled'"),
        ({"results": [{**BESIDE, "step": "fedavg"}]}, "'fedavg' is not a centralized training, and AMOS published no"),
        ({"colour": "red"}, "no setting 'colour'; there are"),
    ],
)
def test_a_mistake_in_a_preset_is_named_with_its_file_and_place(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(AmosError, match=r"small\.yaml: ") as error:
        preset_from(preset_file(tmp_path, **changes))
    assert message in str(error.value)


@pytest.mark.parametrize(("name", "trained"), [("methods", set(METHODS)), ("hippocampus", {"fedavg", "fedprox"})])
def test_the_tables_of_methods_have_every_method_in_three_seeds_beside_pooled_and_local(
    name: str, trained: set[str], cache: Path, tmp_path: Path
) -> None:
    preset = read_preset(name)
    given = {each: quick_data(each, cache) for each in preset.data_sets()}
    tasks = planned(preset, Workspace(tmp_path, "quick"), given)
    runs = [member.config for task in tasks.values() for member in task.members]
    federated = {(run.strategy, run.seed, run.optimizer_state) for run in runs if run.arm == "federated"}
    assert {(method, seed) for method in trained for seed in (0, 1, 2)} <= {(m, s) for m, s, _ in federated}
    assert {("fedavg", seed, state) for seed in (0, 1, 2) for state in ("keep", "reset")} <= federated
    assert {(run.arm, run.seed) for run in runs} >= {
        (arm, seed) for arm in ("centralized", "local") for seed in (0, 1, 2)
    }
    assert {run.training.learning_rate for run in runs} == {0.25}, "the small network's own recipe, not the paper's"
    assert set(tasks["comparison"].needs) == set(preset.steps) - {"comparison"}


# Data


def test_what_is_missing_is_said_with_the_command_that_makes_it(tmp_path: Path, capsys: Any) -> None:
    out = str(tmp_path / "out")
    assert run(["experiments", "run", "networks", "--out", out]) == 2
    assert "amos (AMOS22) is not given; download amos22.zip" in capsys.readouterr().err
    assert Workspace(Path(out), "full").state("networks") == ("not run", 0, 24)
    with pytest.raises(MissingDataError, match="amos-fl data msd Task09_Spleen, and add --data msd-spleen=PATH"):
        data_cohort("msd-spleen", "", {})
    write_release(tmp_path / "amos22", test_labels=False)
    with pytest.raises(MissingDataError, match="no labels of the test images, which AMOS does not publish"):
        data_cohort("amos", "paper", {"amos": tmp_path / "amos22"})
    assert data_cohort("amos", "paper|public", {"amos": tmp_path / "amos22"}).unseen_sites == ("F",)
    assert run(["experiments", "run", "networks", "--data", "amso=."]) == 2
    assert "did you mean 'amos'" in capsys.readouterr().err


# Carrying out


def callbacks(store: Path, train: Callable[..., None] | None = None) -> Callbacks:
    def simulated(folder: RunFolder, config: Any, cohort: Cohort, title: str) -> None:
        simulate(folder, config, cohort, store, silent)

    return Callbacks(train or simulated, lambda line: None, store)


def test_an_experiment_that_was_stopped_goes_on_and_does_nothing_twice(tmp_path: Path, cache: Path) -> None:
    preset = preset_from(preset_file(tmp_path))
    workspace = Workspace(tmp_path / "out", "quick")
    trained: list[str] = []

    def stopping(folder: RunFolder, config: Any, cohort: Cohort, title: str) -> None:
        trained.append(folder.path.name)
        if config.arm == "federated" and trained.count(folder.path.name) == 1:
            raise Interrupted("stop")
        simulate(folder, config, cohort, cache / "store", silent)

    assert workspace.state("small") == ("not run", 0, 0)
    with pytest.raises(Interrupted):
        carry_out(
            preset, list(planned(preset, workspace, quick(cache)).values()), workspace, callbacks(cache, stopping)
        )
    assert workspace.state("small") == ("partial", 1, 7)
    again = list(planned(preset, workspace, quick(cache)).values())
    report = carry_out(preset, again, workspace, callbacks(cache / "store", stopping))
    assert report.done_before == ["pooled"]
    assert report.done_now == ["fedavg", "validation", "numbers", "tuned", "spleen", "comparison"]
    assert [name.partition("-small")[0] for name in trained] == ["pooled", "fedavg", "fedavg", "pooled"]
    assert workspace.state("small") == ("done", 7, 7)
    folders = {task.step: workspace.root / task.work.folder for task in again}
    assert read_cohort(folders["pooled"]).sites == ("F", "G", "H")
    assert json.loads((folders["validation"] / "evaluation.json").read_text())["split"] == "val"
    assert (folders["comparison"] / "report.html").is_file()
    assert (folders["numbers"] / "stats.html").is_file()
    assert RunFolder(folders["tuned"]).config().start_from == folders["pooled"].resolve() / "model/weights.safetensors"
    spleen = json.loads((folders["spleen"] / "evaluation.json").read_text())
    assert any("spleen = spleen" in note for note in spleen["notes"])
    assert not (folders["pooled"] / "checkpoints").exists()
    [cell] = outcome(preset, workspace)
    assert cell.synthetic
    assert "synthetic" in outcome_in_markdown([cell])
    report = carry_out(preset, again, workspace, callbacks(cache / "store", stopping))
    assert (report.done_before, report.done_now) == ([*preset.steps], [])


def test_runs_that_do_not_need_another_are_carried_out_together(tmp_path: Path, cache: Path) -> None:
    steps = {name: SMALL["steps"][name] for name in ("pooled", "fedavg", "tuned")}
    preset = preset_from(preset_file(tmp_path, steps=steps, quick_budget={"steps": 2, "rounds": 1}))
    workspace = Workspace(tmp_path / "out", "quick")
    together: list[str] = []

    def train_together(folders: list[RunFolder], device: str) -> None:
        together.extend(folder.path.name for folder in folders)
        for folder in folders[:1]:  # of the others one would say that they failed
            simulate(folder, folder.config(), folder.cohort(), cache / "store", silent)

    tasks = list(planned(preset, workspace, quick(cache)).values())
    with_both = replace(callbacks(cache / "store"), train_together=train_together)
    report = carry_out(preset, tasks, workspace, with_both)
    folders = {task.step: Path(task.work.folder).name for task in tasks}
    assert together == [folders["pooled"], folders["fedavg"]], "tuned begins with pooled's weights"
    assert (report.done_before, report.done_now, report.failed) == ([], list(preset.steps), {})
    report = carry_out(preset, tasks, workspace, with_both)
    assert (report.done_before, len(together)) == (list(preset.steps), 2)


def test_a_step_that_fails_keeps_only_those_from_theirs_that_need_it(tmp_path: Path, cache: Path) -> None:
    preset = preset_from(preset_file(tmp_path))
    workspace = Workspace(tmp_path / "out", "quick")

    def failing(folder: RunFolder, config: Any, cohort: Cohort, title: str) -> None:
        if config.arm == "centralized":
            raise AmosError("no")
        write_text(folder.path / "summary.md", "as if it had been trained")

    tasks = list(planned(preset, workspace, quick(cache)).values())
    report = carry_out(preset, tasks, workspace, callbacks(cache / "store", failing))
    assert report.done_now == ["fedavg", "numbers"]
    assert list(report.failed) == ["pooled", "validation", "tuned", "spleen", "comparison"]


@pytest.mark.slow
def test_a_preset_runs_through_on_the_phantom_in_its_quick_form(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("AMOS_FL_CACHE", str(cache))
    out = str(tmp_path / "out")
    assert run(["experiments", "run", "modalities", "--quick", "--parallel", "2", "--out", out]) == 0
    printed = capsys.readouterr().out
    assert "10 of 10 steps done now" in printed
    assert "The scans of this run are synthetic" in printed
    assert run(["experiments", "--out", out]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "modalities" in line)
    assert "not run" in row
    assert "done" in row
    assert run(["experiments", "show", "modalities", "--out", out]) == 0
    assert "done: " in capsys.readouterr().out
    page = tmp_path / "results.md"
    assert run(["experiments", "results", out]) == 2, "a quick form's scores are no results"
    assert run(["experiments", "results", out, "--quick", "-o", str(page)]) == 0
    title = read_preset("modalities").title
    assert page.read_text().startswith(f"# {title}, quick form\n\nWritten by `amos-fl experiments results ")
    assert "| centralized-160-40* | centralized on " in page.read_text()
    assert "teach a network nothing" in page.read_text()


# The wheel


def test_the_wheel_carries_the_presets(wheel_contents: Path) -> None:
    carried = wheel_contents / "amos_fl" / "experiments" / "presets"
    ours = {file.relative_to(presets_folder()): file.read_text() for file in presets_folder().rglob("*.yaml")}
    assert {file.relative_to(carried): file.read_text() for file in carried.rglob("*.yaml")} == ours
