"""Estimate how long a run scores: windows through its network, and each scan's label map compared on its own grid."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from amos_fl.cohort.table import Case, Cohort
from amos_fl.inference.restore import restore
from amos_fl.inference.windows import InMemory, finished_planes, windows_over
from amos_fl.metrics.scores import score_case
from amos_fl.networks.registry import build_network
from amos_fl.prepared.store import Geometry
from amos_fl.runs.config import RunConfig
from amos_fl.runs.estimate import sample_patch, timed
from amos_fl.volumes.nifti import read_geometry
from amos_fl.volumes.plan import Triple
from amos_fl.volumes.resample import resampled_shape

_SAMPLE: Triple = (64, 64, 32)
"""The scan on which the comparison of label maps is timed."""


@dataclass(frozen=True)
class ScoringEstimate:
    """`scans` are predicted and compared in all, those of every validation and of the final test counted each time."""

    scans: int
    seconds: float


def scoring(config: RunConfig, cohort: Cohort) -> ScoringEstimate:
    """Measure a window through the run's network and the comparison of a small scan, and multiply.

    Scans are taken whole, as their headers say, though they are cropped to the body; the sites of a personal method
    are scored a second time, with their own models, which is not counted.

    Raises:
        AmosError: a scan whose header cannot be read.
    """
    validations = -(-config.rounds // config.evaluation.every)
    seen = [case for site in cohort.seen_sites for case in cohort.of(site=site, split="val", labelled=True)]
    unseen = [case for site in cohort.unseen_sites for case in cohort.of(site=site, split="test", labelled=True)]
    test = cohort.of(split="test", labelled=True)
    times = {case.case: 0 for case in (*seen, *unseen, *test)}
    for case in (*seen, *(unseen if config.evaluation.unseen else ())):
        times[case.case] += validations
    for case in test:
        times[case.case] += 1
    window_s, voxel_s = (measured(timed(config), len(cohort.organs)) for measured in (_window_s, _voxel_s))
    found = [
        times[case.case] * (window_s * windows + voxel_s * voxels)
        for case in {case.case: case for case in (*seen, *unseen, *test)}.values()
        for windows, voxels in [_size_of(case, config)]
    ]
    sites = len(cohort.sites)
    parallel = min(config.engine.parallel_sites or 1, sites) if config.engine.name == "ray" else 1
    return ScoringEstimate(sum(times.values()), math.fsum(found) / parallel)


def _size_of(case: Case, config: RunConfig) -> tuple[int, int]:
    """The windows that a case is predicted in, and its scan's voxels."""
    shape, affine = read_geometry(case.image, header_only=True)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    grid = resampled_shape(shape, (spacing[0], spacing[1], spacing[2]), config.plan.spacing_mm)
    return windows_over(grid, config.plan.patch, config.evaluation.overlap), math.prod(shape)


@lru_cache(maxsize=32)
def _window_s(settings_of_runs: str, organs: int) -> float:
    config = RunConfig.model_validate_json(settings_of_runs)
    size, scale = sample_patch(config.plan)
    network = build_network(config.model, config.plan, organs, seed=0, norm_statistics=config.norm_statistics)
    network.to(config.device).eval()
    image, device = InMemory(np.zeros(size, np.float32)), torch.device(config.device)

    def once() -> None:
        inference = config.evaluation
        for plane in finished_planes(
            network, image, size, 1 + organs, axis=2, device=device, inference=inference, check=None
        ):
            plane.cpu()

    return _better_of_two(once, config) * scale


@lru_cache(maxsize=32)
def _voxel_s(settings_of_runs: str, organs: int) -> float:
    """Seconds for a voxel of a scan: probabilities back on its grid, and the comparison of two label maps."""
    config = RunConfig.model_validate_json(settings_of_runs)
    grid: Triple = (_SAMPLE[0] // 2, _SAMPLE[1] // 2, _SAMPLE[2])  # coarser in the plane than the scan
    labels = tuple(range(1, organs + 1))
    geometry = Geometry(
        _SAMPLE, config.plan.spacing_mm, ((0, _SAMPLE[0]), (0, _SAMPLE[1]), (0, _SAMPLE[2])), ((0, 1), (1, 1), (2, 1))
    )
    columns = torch.arange(grid[0]) * (organs + 1) // grid[0]  # every organ is a slab of the scan
    plane = torch.nn.functional.one_hot(columns, organs + 1).T[:, :, None].expand(-1, -1, grid[1]).float()
    plane = plane.contiguous().to(config.device)

    def once() -> None:
        drawn = restore((plane for _ in range(grid[2])), 2, grid, geometry, labels)
        score_case(drawn, drawn, config.plan.spacing_mm, labels, config.evaluation.tolerance_mm)

    return _better_of_two(once, config) / math.prod(_SAMPLE)


def _better_of_two(work: Callable[[], None], config: RunConfig) -> float:
    """The seconds that a piece of work takes with the run's threads: the shorter of two times."""
    threads, seconds = torch.get_num_threads(), float("inf")
    torch.set_num_threads(config.training.threads)
    try:
        for _ in range(2):
            start = time.perf_counter()
            work()
            seconds = min(seconds, time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return seconds
