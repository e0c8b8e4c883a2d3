"""A method, network, augmentation and loss of one's own, by import path: what they equal, and what is refused."""

import hashlib
import importlib
import itertools
import json
import os
import shutil
import signal
import subprocess
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
from amos_fl.methods import METHODS, method_named
from amos_fl.methods.own import check_kind, try_out
from amos_fl.own_code import sha256_of_module
from amos_fl.runs.difference import compare_folders
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.model import read_model
from amos_fl.runs.record import read_run
from amos_fl.training.own import check_loss, check_transforms
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
_numbers = itertools.count()


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples are on the import path."""
    monkeypatch.syspath_prepend(EXAMPLES)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a module; its name, which no other test uses."""
    (tmp_path / "code").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "code")

    def write(text: str) -> str:
        name = f"own_{next(_numbers)}"
        (tmp_path / "code" / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return name

    return write


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


# What is refused


METHOD = """
import random
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from amos_fl.methods.base import Method
from amos_fl.training.pull import Pull

{decorator}
class Mine(Method):
{body}
"""
FROZEN = "@dataclass(frozen=True)"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("    x: str = 'a'", "its option x must have a number, true or false as its default"),
        ("    x: float", "its option x must have a number, true or false as its default"),
        (
            "    reports: ClassVar = ('dice',)",
            "no site reports 'dice'; it can report val_loss_before and val_loss_after",
        ),
        ("    def step(self, given, mean): return mean", r"its step must take \(self, given, mean, memory\)"),
        ("    def pull(self): ...", r"its pull must take \(self, given\)"),
        ("    sends: ClassVar = ('c',)", "sends c, and has no 'more' that makes it"),
        ("    def keep(self, given, before, after): return dict(after)", "has a 'keep', and site_models is 0"),
        ("    def step(self, given, mean, memory): return mean['x']", r"its step fails \(KeyError: 'x'\)"),
        (
            "    def step(self, given, mean, memory): return {n: a * np.float64(0.5) for n, a in mean.items()}",
            "its step returns float64 .* for a parameter of float32",
        ),
        ("    def step(self, given, mean, memory): return None", "its step must return an array for each parameter"),
        (
            "    def step(self, given, mean, memory): return {n: a * np.float32(np.nan) for n, a in mean.items()}",
            "its step returns numbers that are not finite",
        ),
        (
            "    def step(self, given, mean, memory):\n"
            "        return {n: a + np.float32(random.random()) for n, a in mean.items()}",
            "gives other weights the second time; it must depend on what it is given alone",
        ),
        (
            "    def step(self, given, mean, memory):\n        given.before['layer.bias'][0] = 1\n        return mean",
            "its step fails .ValueError: assignment destination is read-only",
        ),
        (
            "    def step(self, given, mean, memory):\n"
            "        for n, a in mean.items(): memory.array('m', n, a)\n"
            "        return mean",
            "has arrays in its memory, and server_models is 0",
        ),
        (
            "    def step(self, given, mean, memory):\n        memory.values['n'] = 1\n        return mean",
            "has values in its memory; set keeps_values to True",
        ),
        ("    def pull(self, given): return 0.5", r"its pull must return an amos_fl\.training\.pull\.Pull"),
        (
            "    def pull(self, given): return Pull(drift={'w': np.zeros(3)})",
            "its pull has 'w', which is no parameter",
        ),
        ("    def counts(self, weights, memory): return {}", "its counts fails .KeyError: 'site 00'"),
        (
            "    def admit(self, before, update, done, work): return {}",
            "its admit must return an array for each parameter",
        ),
        (
            "    def combine(self, given, updates):\n        return updates.of_site(updates.sites[0]), ['elsewhere']",
            "its combine must return the sites that are in the weights",
        ),
    ],
)
def test_a_method_that_a_round_cannot_be_made_of_is_refused_before_anything_is_trained(
    written: Callable[[str], str], body: str, why: str
) -> None:
    path = f"{written(METHOD.format(decorator=FROZEN, body=body))}:Mine"
    with pytest.raises(AmosError, match=rf"^strategy {path}: {why}"):
        try_out(path, method_named(path, {}))


@pytest.mark.parametrize("name", METHODS)
def test_the_programs_own_methods_are_written_as_ones_own_must_be(name: str) -> None:
    check_kind(name, METHODS[name])
    try_out(name, method_named(name, {}))


@pytest.mark.parametrize("decorator", ["", "@dataclass"])
def test_a_method_that_is_no_frozen_dataclass_is_refused(written: Callable[[str], str], decorator: str) -> None:
    path = f"{written(METHOD.format(decorator=decorator, body='    pass'))}:Mine"
    with pytest.raises(AmosError, match="frozen"):
        method_named(path, {})


def test_the_options_of_ones_own_method_are_checked_as_those_of_the_programs(lab: None) -> None:
    for options, why in [
        ({"alfa": 1.0}, "strategy my_lab.methods:FedCM has no option 'alfa'; it has alpha"),
        ({"alpha": "much"}, "strategy_options.alpha is 'much'; it must be a number"),
        ({"alpha": 0.0}, "strategy_options.alpha is 0.0; it must be 0.01 or more"),
    ]:
        with pytest.raises(AmosError, match=why):
            method_named("my_lab.methods:FedCM", options)


TRANSFORMS = """
import random
import numpy as np
import torch

def two(image, label): return image, label
def image_alone(image, label, draw): return image
def halved(image, label, draw): return image[:, ::2], label
def doubled(image, label, draw): return image.double(), label
def nan(image, label, draw): return image * float("nan"), label
def new_channel(image, label, draw): return image, label + 1
def fails(image, label, draw): return image.no_such, label
def by_torch(image, label, draw): return image + torch.rand(1), label
def by_numpy(image, label, draw): return image + float(np.random.rand()), label
def now_and_then(image, label, draw): return image + (random.random() if draw.random() > 0.8 else 0), label
number = 3
"""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("absent", "cannot be imported"),
        ("number", r"must be a function of \(image, label, draw\)"),
        ("two", r"must take \(image, label, draw\)"),
        ("image_alone", "must return a tuple, the image and the label map"),
        ("halved", r"returns float32 \(1, 8, 16, 16\) for the image, which was float32 \(1, 16, 16, 16\)"),
        ("doubled", "returns float64 .* for the image, which was float32"),
        ("nan", "returns an image with numbers that are not finite"),
        ("new_channel", "returns channels other than 0 to 2 in the label map"),
        ("fails", "fails on a small patch"),
        *((name, "gives another result for the same draws") for name in ("by_torch", "by_numpy", "now_and_then")),
    ],
)
def test_an_augmentation_that_cannot_be_trained_with_is_refused(
    written: Callable[[str], str], name: str, why: str
) -> None:
    path = f"{written(TRANSFORMS)}:{name}"
    with pytest.raises(AmosError, match=rf"^training\.transforms {path}: {why}"):
        check_transforms(path, TINY_PLAN, 2)


LOSSES = """
import torch
from torch import nn

def two(logits, target): return logits.mean()
def per_voxel(logits, target, annotated): return logits
def a_number(logits, target, annotated): return 0.5
def detached(logits, target, annotated): return logits.detach().mean()
def constant(logits, target, annotated): return logits.mean() * 0
def nan(logits, target, annotated): return (logits * float("inf")).mean()
def by_chance(logits, target, annotated): return logits.mean() * torch.rand(())
def fails(logits, target, annotated): return logits.no_such
class NeedsGamma:
    def __init__(self, gamma): ...
class Trained(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
    def forward(self, logits, target, annotated): return logits.mean() * self.weight
"""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("absent", "cannot be imported"),
        ("two", r"must take \(logits, target, annotated\)"),
        ("NeedsGamma", "cannot be made without arguments"),
        ("Trained", "has parameters of its own, which nothing trains"),
        ("per_voxel", r"returns float32 \(2, 3, 16, 16, 16\); it must return a scalar tensor"),
        ("a_number", "returns float; it must return a scalar tensor"),
        ("detached", "does not depend on the logits"),
        ("constant", "has no gradient with respect to the logits"),
        ("nan", "its value or its gradient is not finite"),
        ("by_chance", "gives another result the second time"),
        ("fails", "fails on a small patch"),
    ],
)
def test_a_loss_that_cannot_be_trained_with_is_refused(written: Callable[[str], str], name: str, why: str) -> None:
    path = f"{written(LOSSES)}:{name}"
    with pytest.raises(AmosError, match=rf"^training\.loss {path}: .*{why}"):
        check_loss(path, TINY_PLAN, 2)


@pytest.mark.parametrize(
    ("setting", "of_the_sentence"),
    [
        ("strategy", "strategy"),
        ("model", "model"),
        ("training.transforms", "training.transforms"),
        ("training.loss", "training.loss"),
    ],
)
def test_a_path_with_nothing_there_or_a_module_that_fails_is_one_sentence(
    written: Callable[[str], str],
    tmp_path: Path,
    tiny_root: Path,
    capsys: pytest.CaptureFixture[str],
    setting: str,
    of_the_sentence: str,
) -> None:
    for path, why in (
        ("no_such_module:thing", "No module named 'no_such_module'"),
        (f"{written('def (')}:thing", "SyntaxError: "),
        (f"{written('1 / 0')}:thing", "ZeroDivisionError: division by zero"),
    ):
        command = ["simulate", "--cohort", str(tiny_root), "--out", str(tmp_path / "run"), "--set", f"{setting}={path}"]
        assert run(command) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"amos-fl: {of_the_sentence} {path}: cannot be imported ({why}"), said
        assert "give module:name of an installed package or of a file here" in said
        assert not (tmp_path / "run").exists()


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
    build = "from amos_fl.networks.unet import small_unet as build\n"
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
from amos_fl.networks.unet import small_unet as build
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


# As a user runs them


def amos_fl(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The installed command, in a folder that holds a user's own files alone."""
    command = [str(Path(sys.executable).with_name("amos-fl")), "simulate", *arguments]
    own = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        command, cwd=folder, env={**os.environ, **own}, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.slow
def test_the_examples_run_from_an_empty_folder_on_two_engines_killed_and_resumed_with_the_same_weights(
    tmp_path: Path, tiny_root: Path, store: Path
) -> None:
    shutil.copytree(EXAMPLES / "my_lab", tmp_path / "my_lab")
    training = {**TINY["training"], **OF_A_LAB["training"]}
    settings = {**TINY, **OF_A_LAB, "training": training, "cohort": str(tiny_root), "rounds": 4, "local_steps": 8}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(settings))))
    where = ("--config", "settings.yaml", "--store", str(store))
    amos_fl(tmp_path, *where, "--out", "inline").communicate()
    assert RunFolder(tmp_path / "inline").finished
    ray = ("--engine", "ray", "--cpus-per-site", "1")
    killed = amos_fl(tmp_path, *where, *ray, "--out", "ray")
    assert killed.stdout is not None
    assert any(line.startswith("round 1/4") for line in killed.stdout)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert 1 <= len(hashes(RunFolder(tmp_path / "ray"))) < 4
    amos_fl(tmp_path, "--resume", "ray", *ray, "--store", str(store)).communicate()
    assert RunFolder(tmp_path / "ray").finished
    assert hashes(RunFolder(tmp_path / "ray")) == hashes(RunFolder(tmp_path / "inline"))
