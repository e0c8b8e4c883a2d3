"""A method, network, augmentation and loss of one's own, by import path: what they equal, and where they run."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from deployments import AT_ONCE, Hospitals, deployed_run
from federations import TINY, federate, final_weights, hashes, killed_after, resume
from flwr.app import ArrayRecord
from hospitals import Hospital, hospital, tiny_task, write_hospital
from synthetic_cases import TINY as TINY_PLAN
from synthetic_cases import boxes_case

from amos_fl.cli.main import run
from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.own_code import sha256_of_module
from amos_fl.runs.difference import compare_folders
from amos_fl.runs.model import read_model
from amos_fl.runs.record import read_run
from amos_fl.training.patches.prefetch import draw_batches
from amos_fl.training.settings import TrainingSettings
from amos_fl_clients.federation.policy import Refusal
from amos_fl_server.operation.server_app import run_deployed

EXAMPLES = Path(__file__).parents[1] / "examples"
OF_A_LAB: dict[str, Any] = {
    "strategy": "my_lab.methods:FedCM",
    "model": "my_lab.nets:build",
    "training": {"transforms": "my_lab.aug:transforms", "loss": "my_lab.losses:Focal"},
}


# What they equal


def test_all_four_of_ones_own_give_the_same_weights_inline_deployed_and_killed_and_resumed(
    lab: None, tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    settings = {**OF_A_LAB, "rounds": 3, "local_steps": 1, "evaluation": {"every": 3}}
    whole = federate(tmp_path / "whole", tiny_cohort, store, **settings)
    killed = killed_after(tmp_path / "killed", 1, tiny_cohort, store, **settings)
    assert hashes(resume(killed.path, store)) == hashes(whole)
    files = sorted((EXAMPLES / "my_lab").glob("*.py"))
    allowed = {f"my_lab.{file.stem}": hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert whole.about().modules == allowed
    deployed = deployed_run(tmp_path / "deployed", tiny_cohort, **settings)
    run_deployed(Hospitals(tmp_path, tiny_cohort, "ABDG", allowed_modules=allowed), deployed, 5, AT_ONCE)
    assert hashes(deployed) == hashes(whole)


def test_fedcm_is_fedavg_at_alpha_1_and_in_the_first_round_and_moves_on_with_the_direction_after_that(
    lab: None, tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    def weights_of(name: str, **settings: Any) -> list[str]:
        return hashes(federate(tmp_path / name, tiny_cohort, store, rounds=2, local_steps=1, **settings))

    fedavg = weights_of("fedavg")
    assert weights_of("one", strategy="my_lab.methods:FedCM", strategy_options={"alpha": 1.0}) == fedavg
    half = weights_of("half", strategy="my_lab.methods:FedCM", strategy_options={"alpha": 0.5})
    assert half[0] == fedavg[0]
    assert half[1] != fedavg[1]


SAME = """
from amos_fl.training.loss import dice_cross_entropy
from amos_fl.methods.base import Method
from dataclasses import dataclass

def transforms(image, label, draw):
    draw.random()
    return image, label

def loss(logits, target, annotated):
    return dice_cross_entropy(logits, target, annotated)

def turned(image, label, draw):
    return image.flip(1), label.flip(0)

def halved(logits, target, annotated):
    return loss(logits, target, annotated) / 2

@dataclass(frozen=True)
class Plain(Method):
    "FedAvg."
"""


def test_what_does_the_same_as_the_programs_own_gives_its_weights_and_what_does_not_others(
    written: Callable[[str], str], tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    name, settings = written(SAME), {"rounds": 1, "local_steps": 2, "training": {"augmentation": "paper"}}
    plain = federate(tmp_path / "plain", tiny_cohort, store, **settings)
    own = {**settings["training"], "transforms": f"{name}:transforms", "loss": f"{name}:loss"}
    ours = federate(tmp_path / "own", tiny_cohort, store, **{**settings, "strategy": f"{name}:Plain", "training": own})
    assert hashes(ours) == hashes(plain)
    weights = final_weights(plain)
    assert all(np.array_equal(weights[key], array) for key, array in final_weights(ours).items())
    for key, function in (("transforms", "turned"), ("loss", "halved")):
        training = {**settings["training"], key: f"{name}:{function}"}
        other = federate(tmp_path / function, tiny_cohort, store, **{**settings, "training": training})
        assert hashes(other) != hashes(plain)


DRAWS = """
import torch

def transforms(image, label, draw):
    return torch.full_like(image, float(draw.random())), label
"""


def test_the_draws_of_ones_own_augmentation_depend_on_seed_site_step_and_sample_alone(
    written: Callable[[str], str], tmp_path: Path
) -> None:
    case = boxes_case(tmp_path / "case")
    settings = TrainingSettings(transforms=f"{written(DRAWS)}:transforms", batch_size=2)

    def drawn(seed: int = 0, site: str = "A", steps: range = range(2), workers: int = 0) -> list[float]:
        more = settings.model_copy(update={"workers": workers})
        batches = draw_batches([case], TINY_PLAN, more, case.annotated, seed=seed, site=site, steps=steps)
        return [float(sample.max()) for batch in batches for sample in batch.image]

    first = drawn()
    assert len({*first, *drawn(seed=1), *drawn(site="B"), *drawn(steps=range(2, 4))}) == 16
    assert drawn(steps=range(1, 2)) == first[2:]
    assert drawn(workers=1) == first


def test_every_command_that_trains_takes_ones_own_code(
    lab: None, tmp_path: Path, tiny_root: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = {**TINY, **OF_A_LAB, "cohort": str(tiny_root), "rounds": 1, "local_steps": 1}
    plain["training"] = {**TINY["training"], **OF_A_LAB["training"]}
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(json.loads(json.dumps(plain))))
    where = ["--config", str(file), "--store", str(store), "--out"]
    own = {"my_lab.aug", "my_lab.losses", "my_lab.nets"}
    assert run(["centralized", *where, str(tmp_path / "pooled")]) == 0
    assert read_run(tmp_path / "pooled").folder.about().modules.keys() == own
    assert run(["local", *where, str(tmp_path / "local"), "--sites", "A"]) == 0
    assert read_run(tmp_path / "local" / "A").folder.about().modules.keys() == own
    sweep = {"settings": yaml.safe_load(file.read_text()), "grid": {"strategy": ["fedavg", "my_lab.methods:FedCM"]}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    assert run(["sweep", str(tmp_path / "sweep.yaml"), "--store", str(store), "--out", str(tmp_path / "sweep")]) == 0
    runs = [path.parent for path in (tmp_path / "sweep").glob("*/config.yaml")]
    assert sorted(len(read_run(path).folder.about().modules or {}) for path in runs) == [3, 4]


# What is recorded


@pytest.mark.parametrize("what", ["strategy", "transforms"])
def test_a_run_goes_on_with_the_code_it_was_begun_with_or_says_so(
    written: Callable[[str], str], tmp_path: Path, tiny_cohort: Cohort, store: Path, capsys: Any, what: str
) -> None:
    name = written(SAME)
    own = {"strategy": {"strategy": f"{name}:Plain"}, "transforms": {"training": {"transforms": f"{name}:transforms"}}}
    stopped = killed_after(tmp_path / "run", 1, tiny_cohort, store, rounds=3, local_steps=1, **own[what])
    before = stopped.about().modules
    assert before == {name: sha256_of_module(name)}
    file = tmp_path / "code" / f"{name}.py"
    file.write_text(f"{SAME}\n# a thought\n")
    del sys.modules[name]  # another process would have the new one
    command = ["simulate", "--resume", str(stopped.path), "--store", str(store)]
    assert run(command) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"amos-fl: module {name}: is not what the run was begun with (module {name}: its file had ")
    assert "--accept-changes" in said
    assert stopped.rounds_with_checkpoints() == [1]
    assert run([*command, "--accept-changes"]) == 0
    assert any(f"module {name}: its file had" in noted for noted in stopped.ledger()[1]["changes"])
    assert stopped.about().modules == {name: sha256_of_module(name)} != before


def test_two_runs_whose_code_differs_are_two_settings(
    written: Callable[[str], str], tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    name, settings = written(SAME), {"rounds": 1, "local_steps": 0}
    one = federate(tmp_path / "one", tiny_cohort, store, strategy=f"{name}:Plain", **settings)
    (tmp_path / "code" / f"{name}.py").write_text(f"{SAME}\n# a thought\n")
    del sys.modules[name]
    other = federate(tmp_path / "other", tiny_cohort, store, strategy=f"{name}:Plain", **settings)
    assert one.run_id != other.run_id
    assert read_run(one.path).settings_key() != read_run(other.path).settings_key()
    assert [change.name for change in compare_folders(one.path, other.path).settings] == [f"module (SHA-256).{name}"]


def test_a_model_draws_nothing_with_another_file_than_its_network_was_trained_with(
    written: Callable[[str], str], tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    build = "from amos_fl.networks.unet import SmallUNet as build\n"
    name = written(build)
    run_folder = federate(tmp_path / "run", tiny_cohort, store, model=f"{name}:build", rounds=1, local_steps=0)
    read_model(run_folder.path).network()
    (tmp_path / "code" / f"{name}.py").write_text(f"{build}# a thought\n")
    del sys.modules[name]
    copied = shutil.copytree(run_folder.path / "model", tmp_path / "copied")
    for where in (run_folder.path, copied):
        with pytest.raises(AmosError, match=f"the file of {name}, which builds its network, is not"):
            read_model(where).network()


# What a hospital allows


MARKED = """
from pathlib import Path
Path({mark!r}).touch()
from amos_fl.networks.unet import SmallUNet as build
"""


class Unweighted(Hospital):
    """A hospital that is sent no weights, because they would be those of a network that must not be built."""

    def weights(self) -> ArrayRecord:
        return ArrayRecord()


def test_a_hospital_runs_no_module_that_it_has_not_listed_and_says_what_to_do(
    written: Callable[[str], str], tmp_path: Path, tiny_cohort: Cohort
) -> None:
    mark = tmp_path / "was run"
    name = written(MARKED.format(mark=str(mark)))
    digest = sha256_of_module(name)
    assert digest is not None
    task = tiny_task(tiny_cohort, model=f"{name}:build", modules={name: digest})
    other = "0" * 64
    for allowed, asked, why in [
        ({}, digest, f"it does not run the module {name}; where the hospital agrees, it .* its SHA-256, {digest}$"),
        ({name: other}, digest, f"its file of the module {name} has the SHA-256 {digest}, and it allows {other}"),
        ({name: digest}, other, f"its file of the module {name} has the SHA-256 {digest}, and the run's {other}"),
    ]:
        site = Unweighted(write_hospital(tmp_path / "site", tiny_cohort, "A", allowed_modules=allowed), task)
        site.task = task.model_copy(update={"modules": {name: asked}})
        for kind, more in (("train", {"steps": 1, "first_step": 0, "total_steps": 1}), ("evaluate", {"split": "val"})):
            with pytest.raises(Refusal, match=f"^refused by site A: {why}"):
                site.ask(kind, round=1, **more)
    assert not mark.exists()
    gone = Unweighted(
        write_hospital(tmp_path / "site", tiny_cohort, "A", allowed_modules={"no_module_here": digest}),
        task.model_copy(update={"model": "no_module_here:build", "modules": {"no_module_here": digest}}),
    )
    with pytest.raises(Refusal, match="the module no_module_here is not installed there"):
        gone.evaluate("val")
    site = hospital(tmp_path / "site", tiny_cohort, allowed_modules={name: digest})
    site.task = task
    assert not site.train().has_error()
    assert mark.exists()


def test_a_site_that_does_not_allow_a_module_is_missing_by_name_and_the_others_go_on(
    lab: None, tmp_path: Path, tiny_cohort: Cohort
) -> None:
    allowed = {"my_lab.methods": str(sha256_of_module("my_lab.methods"))}
    folder = deployed_run(
        tmp_path / "run", tiny_cohort, rounds=1, local_steps=1, sites=("A", "B", "G"), strategy="my_lab.methods:FedCM"
    )
    hospitals = Hospitals(tmp_path, tiny_cohort, "ABG", allowed_modules=allowed)
    settings = hospitals.settings[1]
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "allowed_modules": {}}))
    run_deployed(hospitals, folder, 5, AT_ONCE)
    [entry] = folder.ledger()
    assert sorted(entry["sites"]) == ["A", "G"]
    assert "refused by site B: it does not run the module my_lab.methods" in entry["missing"]["B"]
