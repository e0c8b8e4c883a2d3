"""A method, network, augmentation and loss of one's own that cannot be trained with: refused before anything is."""

from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_cases import TINY as TINY_PLAN

from amos_fl.cli.main import run
from amos_fl.errors import AmosError
from amos_fl.methods import METHODS, method_named
from amos_fl.methods.own import check_kind, try_out
from amos_fl.training.own import check_loss, check_transforms

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
        ("    sends: ClassVar = ('c',)", "sends c but has no 'more' to make it"),
        ("    def keep(self, given, before, after): return dict(after)", "has a 'keep', but site_models is 0"),
        (
            "    def step(self, given, mean, memory): return mean['x']",
            r"its step fails \(KeyError: 'x', in own_\d+\.py, line 11\)",
        ),
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
            "gives different weights the second time; it must depend only on what it is given",
        ),
        (
            "    def step(self, given, mean, memory):\n        given.before['layer.bias'][0] = 1\n        return mean",
            "its step fails .ValueError: assignment destination is read-only",
        ),
        (
            "    def step(self, given, mean, memory):\n"
            "        for n, a in mean.items(): memory.array('m', n, a)\n"
            "        return mean",
            "has arrays in its memory, but server_models is 0",
        ),
        (
            "    def step(self, given, mean, memory):\n        memory.values['n'] = 1\n        return mean",
            "has values in its memory; set keeps_values to True",
        ),
        ("    def pull(self, given): return 0.5", r"its pull must return an amos_fl\.training\.pull\.Pull"),
        (
            "    def pull(self, given): return Pull(drift={'w': np.zeros(3)})",
            "its pull has 'w', which is not a parameter",
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
