"""Organs that no training case annotates: what the network says of them is background, everywhere and by name."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import write_tiny_cohort
from deployments import AT_ONCE, Hospitals, deployed_run
from federations import federate, final_weights, hashes, resume
from test_inference import plan_of, stored
from torch import nn

from amos_fl.annotate.members import read_members
from amos_fl.annotate.prelabel import begin_round, prelabel_round
from amos_fl.annotate.project import create_project
from amos_fl.cli.main import run
from amos_fl.cohort.table import Cohort, write_cohort
from amos_fl.errors import AmosError
from amos_fl.inference.predict import predict_case
from amos_fl.runs.events import Event, Said, Warned, in_words
from amos_fl.runs.folder import open_run
from amos_fl.runs.learned import learned_in, recorded_organs
from amos_fl.runs.model import read_model
from amos_fl.runs.results import results_of
from amos_fl.volumes.nifti import read_label
from amos_fl_server.operation.server_app import run_deployed

NEVER = ("cone", "ring", "cube", "disc", "star", "rod", "cup", "bell", "key", "nut")
ORGANS = {1: "ball", 2: "box", **dict(enumerate(NEVER, start=3))}


class Constant(nn.Module):
    """A network that gives the same logits to every voxel: background, then three organs."""

    def __init__(self, logits: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(logits))

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.logits, torch.Tensor)
        return self.logits.view(1, -1, 1, 1, 1).expand(len(windows), -1, *windows.shape[2:])


def test_the_sum_of_background_and_what_was_not_learned_decides_and_not_the_largest_channel(tmp_path: Path) -> None:
    """Shares of .15, .25, .4 and .2: organ 2 is the largest; where it was not learned it counts as background."""
    prepared, plan = stored(tmp_path, np.zeros((12, 10, 9), np.float32)), plan_of()
    network = Constant(np.log([0.15, 0.25, 0.4, 0.2]).tolist())
    shares = np.zeros((*prepared.geometry.shape, 4), np.uint8)

    def drawn(*unlearned: int) -> set[int]:
        result = predict_case(network, prepared, plan, organs=(1, 2, 3), unlearned=unlearned, probabilities=shares)
        return set(np.unique(result).tolist())

    assert drawn() == {2}
    assert drawn(2) == {0}  # .55 against .25 and .2
    assert drawn(3) == {2}  # .35 against .4
    inside = tuple(slice(low, high) for low, high in prepared.geometry.crop)
    assert drawn(2, 3) == {0}  # .75 against .25
    np.testing.assert_array_equal(np.unique(shares[inside].reshape(-1, 4), axis=0), [[191, 64, 0, 0]])
    assert drawn(1, 3) == {0}  # .6 against .4


def test_a_prediction_of_a_network_that_learned_everything_is_as_it_was(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(12, 10, 9)).astype(np.float32)
    prepared, plan = stored(tmp_path, image), plan_of()
    torch.manual_seed(0)
    network = nn.Conv3d(1, 4, 3, padding=1)
    plain = predict_case(network, prepared, plan, organs=(1, 2, 3))
    np.testing.assert_array_equal(predict_case(network, prepared, plan, organs=(1, 2, 3), unlearned=()), plain)
    assert len(np.unique(plain)) > 2


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Training cases name the ball alone, of three organs; site D, unseen, has its box annotated too."""
    whole = write_tiny_cohort(tmp_path_factory.mktemp("partial"))
    cases = tuple(replace(c, annotated=(1, 2) if c.site == "D" else (1,)) for c in whole.cases)
    cohort = Cohort(cases, dict(ORGANS))
    write_cohort(cohort, whole.cases[0].image.parents[1] / "cohort.csv")
    return cohort


LEARNS = {
    "rounds": 2,
    "local_steps": 25,
    "optimizer_state": "keep",
    "evaluation": {"every": 1},
    "training": {"learning_rate": 0.2, "class_balance": 0.5, "foreground_share": 0.67},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, partial: Cohort, store: Path) -> tuple[Path, list[str]]:
    """A run on it, and what it said."""
    said: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Said | Warned):
            said.append(in_words(event) or "")

    out = tmp_path_factory.mktemp("trained") / "run"
    federate(out, partial, store, listen, **LEARNS)
    return out, said


def test_a_run_names_at_its_start_what_nobody_annotates(trained: tuple[Path, list[str]]) -> None:
    _, said = trained
    assert said[0] == (
        f"warning: no training case annotates box, {', '.join(NEVER)}; the network does not learn them and predicts "
        "background there"
    )


def test_summary_model_card_and_model_say_what_was_not_learned(trained: tuple[Path, list[str]]) -> None:
    out, _ = trained
    names = f"box, {', '.join(NEVER)}"
    never = f"ot learned, because no training case annotates them: {names}; a prediction has background there"
    empty = "annotated in test cases but not learned, so the prediction counts as empty: box"
    assert f"- n{never}\n- {empty}\n" in (out / "summary.md").read_text()
    assert f"- N{never}" in (out / "model/MODEL_CARD.md").read_text()
    assert json.loads((out / "model/network.json").read_text())["learned"] == [1]
    assert json.loads((out / "learned.json").read_text()) == {
        "learned": [1],
        "not_learned": {str(label): name for label, name in ORGANS.items() if label > 1},
    }


def test_what_only_an_unseen_site_annotates_is_scored_as_an_empty_prediction(
    trained: tuple[Path, list[str]], partial: Cohort
) -> None:
    out, _ = trained
    run_folder = open_run(out)
    results = results_of(run_folder, run_folder.config(), partial)
    boxes = {case.site: case.scores[2] for case in results.cases if 2 in case.scores}
    assert set(boxes) == {"D"}
    assert (boxes["D"].dsc, boxes["D"].outcome, boxes["D"].predicted_ml) == (0.0, "missed", 0.0)
    assert not any(3 in case.scores for case in results.cases)


def test_dsc_rises_where_unlearned_channels_count_as_background(
    trained: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same weights by their largest channel, as an older version took it, draw organs that nobody taught."""
    out, _ = trained
    older = tmp_path / "older"
    shutil.copytree(out / "model", older)
    about = json.loads((older / "network.json").read_text())
    del about["learned"]
    (older / "network.json").write_text(json.dumps(about))
    for source, name in ((out, "new"), (older, "old")):
        command = ["evaluate", str(source), "--cohort", str(out), "--device", "cpu", "--sites", "A,G", "--predictions"]
        assert run([*command, "--store", str(tmp_path / "store"), "--out", str(tmp_path / name)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "not learned, because no training case annotates them: box, cone, ring" in told
    assert "this model does not say which organs its run learned, being of an older version: all count as" in told

    def dsc(name: str) -> float:
        lines = (tmp_path / name / "scores_by_organ.csv").read_text().splitlines()
        return np.mean([float(line.split(",")[4]) for line in lines[1:] if line.startswith("ball")]).item()

    def organs_drawn(name: str) -> set[int]:
        files = (tmp_path / name / "predictions").rglob("*.nii.gz")
        return {int(v) for file in files for v in np.unique(np.asarray(nib.load(file).dataobj))}  # type: ignore[attr-defined]

    assert organs_drawn("old") - {0, 1}, "the largest channel draws what nobody taught"
    assert organs_drawn("new") <= {0, 1}
    assert dsc("new") > dsc("old")


def test_predict_draws_no_organ_that_was_not_learned(
    trained: tuple[Path, list[str]], partial: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = trained
    scan = partial.of(site="A", split="test")[0].image
    assert run(["predict", str(out / "model"), str(scan), "--modality", "CT", "-o", str(tmp_path / "maps")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "note: not learned, because no training case annotates them: box, cone, ring" in told
    assert "of 1 organs found" in told
    [file] = (tmp_path / "maps").glob("*.nii.gz")
    assert set(np.unique(read_label(file, ORGANS).array)) <= {0, 1}


def test_a_prelabel_holds_only_what_a_network_learned(
    trained: tuple[Path, list[str]], partial: Cohort, tmp_path: Path
) -> None:
    out, _ = trained
    scans = tuple(replace(case, label=None) for case in partial.of(site="A", split="test"))
    for name, organs in (("some", (1, 2)), ("none", (2,))):
        project = create_project(tmp_path / name, replace(partial, cases=scans), organs)
        members = read_members([str(out)], project.cohort)
        begun = begin_round(project, members, variant="none")
        if name == "none":
            with pytest.raises(AmosError, match=r"run: learned none of the organs that this project asks for \(box\)"):
                list(prelabel_round(project, begun, members, inference=lambda m: m.model.inference))
            continue
        [done] = prelabel_round(project, begun, members, inference=lambda m: m.model.inference)
        assert done.state == "drawn"
        file = project.prelabel(begun.round, done.case)
        assert set(np.unique(read_label(file, ORGANS).array)) <= {0, 1}


def test_the_weights_of_a_run_are_those_of_before(partial: Cohort, store: Path, tmp_path: Path) -> None:
    """What is learned changes predictions and nothing that is trained; and a run that was stopped knows it again."""
    folder = federate(tmp_path / "run", partial, store, rounds=2, evaluation={"every": 1})
    before, scores = hashes(folder), [folder.read_evaluation(n, "val") for n in (1, 2)]
    for gone in ("checkpoints/round_0002", "evaluations"):
        shutil.rmtree(folder.path / gone)
    (folder.path / "summary.md").unlink()
    again = resume(folder.path, store)
    assert hashes(again) == before
    last = again.read_evaluation(2, "val")
    assert last is not None
    assert scores[1] is not None
    assert {s: r.scores for s, r in last.sites.items()} == {s: r.scores for s, r in scores[1].sites.items()}


def test_a_run_counts_what_it_began_with_as_learned(
    trained: tuple[Path, list[str]], tiny_cohort: Cohort, partial: Cohort, store: Path, tmp_path: Path
) -> None:
    """The first run learns ball and box, the second, on cases with cones alone, begins with its weights."""
    whole = Cohort(tiny_cohort.cases, dict(ORGANS))
    first = federate(tmp_path / "first", whole, store, rounds=1)
    assert learned_in(first, whole).organs == (1, 2)
    said: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Said | Warned):
            said.append(in_words(event) or "")

    second = federate(tmp_path / "second", partial, store, listen, rounds=1, start_from=str(first.path))
    assert recorded_organs(second) == (1, 2)
    assert said[0].endswith(f"the head as it is; not learned there either: {', '.join(NEVER)}")
    assert said[1].startswith("warning: no training case annotates cone, ring")
    assert read_model(second.path).unlearned == NEVER


def test_an_older_run_is_worked_out_from_its_cohort_and_that_is_said(
    trained: tuple[Path, list[str]], tmp_path: Path
) -> None:
    out, _ = trained
    shutil.copytree(out, tmp_path / "run", ignore=shutil.ignore_patterns("sites", "checkpoints"))
    (tmp_path / "run/learned.json").unlink()
    about = json.loads((tmp_path / "run/model/network.json").read_text())
    del about["learned"]
    (tmp_path / "run/model/network.json").write_text(json.dumps(about))
    model = read_model(tmp_path / "run")
    assert model.learned == (1,)
    assert "worked out from the training cases of its cohort.csv" in model.notes[0]


def test_a_deployed_server_knows_it_from_what_its_sites_say(partial: Cohort, store: Path, tmp_path: Path) -> None:
    settings = {"rounds": 2, "evaluation": {"every": 1}}
    folder = deployed_run(tmp_path / "run", partial, **settings)
    run_deployed(Hospitals(tmp_path, partial, "ABDG"), folder, 5, AT_ONCE)
    simulated = federate(tmp_path / "simulated", partial, store, **settings)
    assert recorded_organs(folder) == recorded_organs(simulated) == (1,)
    assert final_weights(folder).keys() == final_weights(simulated).keys()
    ours, theirs = folder.read_evaluation(2, "val"), simulated.read_evaluation(2, "val")
    assert ours is not None
    assert theirs is not None
    assert {s: r.scores for s, r in ours.sites.items()} == {s: r.scores for s, r in theirs.sites.items()}
    assert {case.annotated for case in folder.cohort().of(site="D")} == {(1, 2)}
    assert {case.annotated for case in folder.cohort().of(split="train")} == {(1,)}
