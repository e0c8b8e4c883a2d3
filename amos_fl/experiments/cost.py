"""Estimate the cost of a full experiment: the steps of its training runs times the seconds per step.

The seconds follow from the network's multiply-accumulates, the patch, and a speed (`shared/costs.yaml`). They include
neither GPU idle time nor scoring: sliding windows over AMOS's hundreds of test cases take hours more.
"""

import math
from dataclasses import dataclass

from amos_fl.errors import AmosError
from amos_fl.experiments.data import data_sets
from amos_fl.experiments.outcome import model_of
from amos_fl.experiments.preset import Family, Preset, Train
from amos_fl.experiments.shared import shared
from amos_fl.networks.catalogue import network_named
from amos_fl.volumes.plan import plan_named


def _of_the_federation(family: str, sites: int) -> float:
    """The steps of a family relative to its federation: each site its own; all but one site, in turn; a fifth."""
    return {"local": 1.0, "leave-one-out": sites - 1.0, "finetune": 0.2}[family]


@dataclass(frozen=True)
class PresetCost:
    """Training runs, optimizer steps, patches, and estimated GPU hours; `basis` says how the hours were estimated."""

    trainings: int
    steps: int
    patches: int
    gpu_hours: float
    basis: str


def preset_cost(preset: Preset) -> PresetCost:
    """The cost of a preset's training runs, including borrowed ones, as if nothing were shared with other presets."""
    trainings, steps, seconds = 0, 0.0, 0.0
    for name in preset.steps:
        owner, step = preset.resolved(name)
        share = 1.0
        if isinstance(step, Family):
            base = owner.resolved(step.of)[1]
            sites = data_sets()[base.needs].training_sites
            share = _of_the_federation(step.family, sites)
            trainings += sites
        elif isinstance(step, Train):
            base = step
            trainings += 1
        else:
            continue
        budget = base.budget or owner.budget
        assert budget is not None, "the preset was checked"
        steps += share * budget.steps
        if owner.takes:  # it was measured
            continue
        model = model_of(owner, step.of if isinstance(step, Family) else name)
        plan = str(base.settings.get("plan", owner.settings.get("plan", "amos-ct")))
        seconds += share * budget.steps * seconds_per_step(model, plan)
    return PresetCost(trainings, round(steps), round(steps) * _batch_size(), seconds / 3600, _basis())


def _batch_size() -> int:
    return int(shared("paper")["training"]["batch_size"])


def seconds_per_step(model: str, plan: str) -> float:
    """The seconds of a training step on one GPU: 2 operations x 3 passes x batch x multiply-accumulates / speed.

    Raises:
        AmosError: a network without multiply-accumulates in the catalogue.
    """
    gmac = network_named(model).gmac
    if gmac is None:
        raise AmosError(f"model {model}: its multiply-accumulates are unknown, so its GPU hours cannot be estimated")
    voxels = math.prod(plan_named(plan).patch) / 128**3
    return 6 * _batch_size() * voxels * gmac / (1000 * shared("costs")["teraflop_per_second"])


def _basis() -> str:
    speed = shared("costs")["teraflop_per_second"]
    return (
        f"estimated as 2 operations x 3 passes x {_batch_size()} patches x the network's multiply-accumulates, at "
        f"{speed} TFLOP/s sustained ({seconds_per_step('unet', 'amos-ct'):.2g} s a step for the U-Net on CT's patch)"
    )
