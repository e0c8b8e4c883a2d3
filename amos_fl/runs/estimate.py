"""Estimate the cost of a run before it starts: steps, bytes, and time and memory measured on a small part of it."""

import math
import time
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch

from amos_fl.cohort.table import Cohort
from amos_fl.methods import kind_of
from amos_fl.networks.registry import build_network, parameter_count
from amos_fl.prepared.image import BYTES_PER_VOXEL
from amos_fl.runs.config import RunConfig
from amos_fl.runs.work import steps_by_site
from amos_fl.training.loss import DiceCrossEntropy
from amos_fl.training.supervision import supervision_of
from amos_fl.volumes.nifti import read_geometry
from amos_fl.volumes.plan import Plan, Spacing, Triple
from amos_fl.volumes.resample import resampled_shape

MOST_VOXELS = 64**3


@dataclass(frozen=True)
class WorkEstimate:
    """The work of a run. Seconds and bytes of memory are extrapolated from one step on a small patch."""

    parameters: int
    training_sites: tuple[str, ...]
    steps_per_site: int
    steps: int
    patches: int
    bytes_down: int
    bytes_up: int
    seconds_per_step: float
    training_seconds: float
    memory_bytes: int


def sample_patch(plan: Plan) -> tuple[Triple, float]:
    """A patch of at most 64x64x64 voxels, or the smallest that the plan allows, and how much larger the plan's is."""
    size = list(plan.patch)
    while size[0] * size[1] * size[2] > MOST_VOXELS:
        axis = max((a for a in range(3) if size[a] > plan.divisor[a]), key=lambda a: size[a], default=None)
        if axis is None:
            break
        size[axis] -= plan.divisor[axis]
    x, y, z = size
    return (x, y, z), math.prod(plan.patch) / (x * y * z)


def estimate(config: RunConfig, cohort: Cohort) -> WorkEstimate:
    """Measure one training step of the run's network on this device, and multiply.

    The step is taken on a patch of at most 64x64x64 voxels, or the smallest one that the plan allows, and
    scaled to the plan's patch by its voxels; activations are counted as autograd keeps them. Runs with the same
    network, plan and training are measured once.
    """
    step = _measured_step(timed(config), len(cohort.organs))
    weights = 4 * step.parameters
    sites = ("pooled",) if config.arm == "centralized" else cohort.seen_sites
    exchanges = len(sites) * config.rounds * config.exchanges_weights
    steps_by = {site: config.rounds * steps for site, steps in steps_by_site(config, cohort).items()}
    steps_per_site, all_steps = max(steps_by.values()), sum(steps_by.values())
    method = kind_of(config.strategy)
    trained = all_steps * (2 if method is not None and method.second_model else 1)
    parallel = config.engine.parallel_sites or 1 if config.engine.name == "ray" else 1
    return WorkEstimate(
        parameters=step.parameters,
        training_sites=sites,
        steps_per_site=steps_per_site,
        steps=trained,
        patches=trained * config.training.batch_size,
        bytes_down=weights * exchanges,
        bytes_up=config.codec.size(step.form) * exchanges,
        seconds_per_step=step.seconds,
        training_seconds=step.seconds * trained / parallel,
        memory_bytes=step.kept_bytes + 6 * weights,  # network, gradient, momentum, global, update, sum
    )


@dataclass(frozen=True)
class DiskEstimate:
    """The most that a run keeps: prepared scans in the store, as large as uncompressed, and weights in checkpoints."""

    store_bytes: int
    checkpoint_bytes: int


def disk(config: RunConfig, cohort: Cohort, parameters: int) -> DiskEstimate:
    """The disk that a run needs, from the headers of its labelled scans, which are taken whole.

    Checkpoints are counted without what a strategy itself keeps from round to round. Of the needed ones there are the
    last two, the best for all sites, and the best for each.

    Raises:
        AmosError: a scan whose header cannot be read.
    """
    voxels = sum(_prepared_voxels(case.image, config.plan.spacing_mm) for case in cohort.of(labelled=True))
    kept = config.rounds
    if config.keep_checkpoints == "needed":
        sites = len(cohort.seen_sites)
        personal = (kind := kind_of(config.strategy)) is not None and kind.personal
        kept = min(kept, 3 + sites * (2 if personal else 1))
    return DiskEstimate(BYTES_PER_VOXEL * voxels, 4 * parameters * kept)


@cache  # the runs of a sweep share their scans
def _prepared_voxels(image: Path, spacing_mm: Spacing) -> int:
    shape, affine = read_geometry(image, header_only=True)
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return math.prod(resampled_shape(shape, (x, y, z), spacing_mm))


def timed(config: RunConfig) -> str:
    """The settings on which the time of a step or a window depends, as JSON: those of all runs that are measured once.

    >>> from amos_fl.runs.config import resolve
    >>> from amos_fl.runs.layers import Layer
    >>> one, other = (timed(resolve([Layer("here", {"seed": seed, "rounds": 5 + seed})])) for seed in (0, 1))
    >>> one == other
    True
    """
    return config.model_dump_json(include={"model", "plan", "norm_statistics", "training", "evaluation", "device"})


@dataclass(frozen=True)
class _Step:
    parameters: int
    form: dict[str, tuple[tuple[int, ...], str]]
    seconds: float
    kept_bytes: int


@lru_cache(maxsize=32)
def _measured_step(settings_of_runs: str, organs: int) -> _Step:
    config = RunConfig.model_validate_json(settings_of_runs)
    plan, settings = config.plan, config.training
    network = build_network(config.model, plan, organs, seed=0, norm_statistics=config.norm_statistics)
    network.to(config.device).train()
    size, scale = sample_patch(plan)
    image = torch.zeros(settings.batch_size, 1, *size, device=config.device)
    label = torch.zeros(settings.batch_size, *size, dtype=torch.long, device=config.device)
    annotated = torch.ones(settings.batch_size, organs + 1, dtype=torch.bool, device=config.device)
    loss_of = DiceCrossEntropy(
        batch_dice=settings.batch_dice, class_balance=settings.class_balance, supervision=supervision_of(network)
    )
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    seconds = float("inf")
    try:
        for _ in range(2):
            kept, start = 0, time.perf_counter()
            with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                loss = loss_of(network(image), label, annotated)
            loss.backward()
            if image.is_cuda:
                torch.cuda.synchronize()
            seconds = min(seconds, time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    form = {name: (tuple(parameter.shape), "float32") for name, parameter in network.named_parameters()}
    return _Step(parameter_count(network), form, seconds * scale, int(kept * scale))
