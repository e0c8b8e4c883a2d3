"""Make a plan from a fingerprint by the rules of nnU-Net's first version (Isensee et al., Nature Methods 2021).

The rules are those of its planner "v2.1", with which AMOS was planned: target spacing, patch, pooling and kernels.
AMOS's published numbers yield its two plans, `amos-ct` and `amos-mr`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from amos_fl.errors import AmosError
from amos_fl.planning.fingerprint import SPACING_BINS_PER_MM, CaseGroup, Fingerprint
from amos_fl.planning.settings import PlanningSettings
from amos_fl.volumes.plan import ANISOTROPIC, Plan, Triple

COARSE_AXIS_SHARE = 0.1
"""A coarse axis takes this percentile of the spacings instead of the median."""
START_VOXELS = 512
"""Voxels along the coarsest axis of the cube from which a patch is shortened."""
SMALLEST_MAP = 4
"""The fewest voxels that pooling leaves along an axis."""
FEATURES, MOST_FEATURES = 32, 320
CONVOLUTIONS_PER_STAGE = 2
REFERENCE_GB = 8.0
REFERENCE_MEASURE = 520_000_000 * 32 / 30
"""The `memory_measure` at which nnU-Net stops; its second version calls it 8 GB, for batches of two patches."""
SEEN_AT_ONCE = 4
"""At low resolution a scan holds this many times the voxels of a patch."""


@dataclass(frozen=True)
class Pooling:
    """Pooling and kernels per stage (the first without pooling), and the divisor of a patch's sides."""

    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]
    divisor: Triple

    def rounded_up(self, size: Triple) -> Triple:
        return _triple(-(-side // d) * d for side, d in zip(size, self.divisor, strict=True))


def plan_from(
    fingerprint: Fingerprint, organ_count: int, settings: PlanningSettings | None = None, *, name: str = "planned"
) -> Plan:
    """The plan for the cases of a fingerprint.

    CT and MR together have one plan, made from all their cases: one physical scale. Window, mean and standard deviation
    are those of CT; without CT they are AMOS's and unused.

    Raises:
        AmosError: the fingerprint lacks values, or no patch fits into the memory.
    """
    settings = settings or PlanningSettings()
    cases = fingerprint.pooled()
    unknown = [name for name, h in cases.histograms().items() if name != "intensity" and not h.counts]
    if unknown:
        raise AmosError(
            f"the fingerprint does not contain the {unknown[0]} of any case, so no plan can be made; "
            "let sites share their histograms and withhold fewer counts, or name a plan"
        )
    spacing_mm = target_spacing(cases)
    extent_mm = np.array([h.quantile(0.5) for h in cases.extent_mm])
    # nnU-Net keeps the coarsest axis first, then z, y, x; where axes are equal, the order decides.
    order = np.array(sorted(range(3), key=lambda axis: (axis != int(np.argmax(spacing_mm)), -axis)))
    back = np.argsort(order)
    spacing, shape = np.array(spacing_mm)[order], extent_mm[order] / np.array(spacing_mm)[order]
    if settings.resolution == "low":
        spacing, shape = _low_resolution(spacing, shape, organ_count, settings.memory_gb)
    patch, pooling = patch_for(spacing, shape, organ_count, settings.memory_gb)
    return Plan.model_validate(
        {
            "name": name,
            "spacing_mm": tuple(round(float(mm), 3) for mm in spacing[back]),
            "patch": _turned(patch, back),
            "strides": tuple(_turned(stride, back) for stride in pooling.strides),
            "kernels": tuple(_turned(kernel, back) for kernel in pooling.kernels),
            **_ct_intensities(fingerprint),
            "mr_percentile": settings.mr_percentile,
        }
    )


def target_spacing(cases: CaseGroup) -> tuple[float, float, float]:
    """The spacing (x, y, z) in mm at which a network should see these cases: the median of each axis.

    An axis of thick slices (see `ANISOTROPIC`) takes the 10th percentile instead, but never finer than the others.
    """
    median = [h.quantile(0.5) / SPACING_BINS_PER_MM for h in cases.spacing]
    voxels = [h.quantile(0.5) for h in cases.shape]
    worst = int(np.argmax(median))
    others = [axis for axis in range(3) if axis != worst]
    finest = max(median[axis] for axis in others)
    if median[worst] > ANISOTROPIC * finest and voxels[worst] * ANISOTROPIC < min(voxels[axis] for axis in others):
        median[worst] = max(finest, cases.spacing[worst].quantile(COARSE_AXIS_SHARE) / SPACING_BINS_PER_MM)
    return (median[0], median[1], median[2])


def pooling_for(spacing: np.ndarray, size: Triple) -> Pooling:
    """How often each axis is halved: while it is at most twice as coarse as the finest and 8 voxels are left.

    A kernel spans an axis where its spacing is within a factor of two of that of most axes.
    """
    mm, left = [float(value) for value in spacing], [float(side) for side in size]
    strides: list[Triple] = [(1, 1, 1)]
    kernels: list[Triple] = []
    divisor = [1, 1, 1]
    while True:
        near = [[b for b in range(3) if 0.5 < mm[b] / mm[a] < 2] for a in range(3)]
        most = max(near, key=len)
        pooled = [a for a in range(3) if mm[a] / min(mm) < 2 and left[a] >= 2 * SMALLEST_MAP]
        if not pooled:
            break
        kernels.append(_triple(3 if axis in most else 1 for axis in range(3)))
        strides.append(_triple(2 if axis in pooled else 1 for axis in range(3)))
        for axis in pooled:
            divisor[axis], mm[axis], left[axis] = 2 * divisor[axis], 2 * mm[axis], left[axis] / 2
    return Pooling(tuple(strides), (*kernels, (3, 3, 3)), _triple(divisor))


def memory_measure(patch: Triple, pooling: Pooling, organ_count: int) -> float:
    """nnU-Net's measure of a U-Net's memory: the numbers in its feature maps for one patch of one channel."""
    blocks = 2 * CONVOLUTIONS_PER_STAGE + 1
    voxels, features = float(np.prod(patch)), FEATURES
    total = voxels * (blocks * features + 1 + 1 + organ_count)
    pools = pooling.strides[1:]
    for number, stride in enumerate(pools, start=1):
        voxels /= float(np.prod(stride))
        features = min(2 * features, MOST_FEATURES)
        total += (blocks if number < len(pools) else CONVOLUTIONS_PER_STAGE) * voxels * features
    return total


def memory_gb(plan: Plan, organ_count: int) -> float:
    """nnU-Net's estimate of the memory for training its U-Net on two patches of a plan."""
    pooling = Pooling(plan.strides, plan.kernels, plan.divisor)
    return memory_measure(plan.patch, pooling, organ_count) / REFERENCE_MEASURE * REFERENCE_GB


def patch_for(spacing: np.ndarray, shape: np.ndarray, organ_count: int, gigabytes: float) -> tuple[Triple, Pooling]:
    """The largest patch, in the proportions of the median scan (`shape`, in voxels of `spacing`), that fits.

    It begins as a cube, as wide as 512 voxels of the coarsest axis, within the median scan; the axis that covers most
    of the scan is shortened until the measure fits. The axes are in nnU-Net's order.

    Raises:
        AmosError: not even the smallest patch fits.
    """
    shape = np.maximum(np.round(shape).astype(int), 1)
    cube = np.round(START_VOXELS * spacing.max() / spacing).astype(int)
    patch = _triple(min(int(a), int(b)) for a, b in zip(cube, shape, strict=True))
    pooling = pooling_for(spacing, patch)
    patch = pooling.rounded_up(patch)
    most = REFERENCE_MEASURE * gigabytes / REFERENCE_GB
    while memory_measure(patch, pooling, organ_count) > most:
        axis = int(np.argsort(np.array(patch) / shape, kind="stable")[-1])
        # Shortened by the shorter patch's divisor, which may be smaller.
        shorter = _shortened(patch, axis, pooling.divisor[axis])
        if min(shorter) < 1:
            raise AmosError(
                f"no patch of these scans fits into {gigabytes:g} GB; allow more, or plan at low resolution"
            )
        shorter = _shortened(patch, axis, pooling_for(spacing, shorter).divisor[axis])
        pooling = pooling_for(spacing, shorter)
        patch = pooling.rounded_up(shorter)
    return patch, pooling


def _low_resolution(
    spacing: np.ndarray, shape: np.ndarray, organ_count: int, gigabytes: float
) -> tuple[np.ndarray, np.ndarray]:
    """Spacing and median shape, coarsened in steps of 1 % until a patch holds a quarter of the median scan's voxels.

    Axes that are more than twice as fine as the coarsest are coarsened first.
    """
    full, coarser = spacing, spacing.copy()
    while True:
        voxels = full / coarser * shape
        patch, _ = patch_for(coarser, voxels, organ_count, gigabytes)
        if float(np.prod(voxels)) <= SEEN_AT_ONCE * float(np.prod(patch)):
            return coarser, voxels
        fine = coarser.max() / coarser > 2
        coarser = coarser * np.where(fine if fine.any() else True, 1.01, 1.0)


def _ct_intensities(fingerprint: Fingerprint) -> dict[str, object]:
    """Window, mean and standard deviation of the organs in CT: the 0.5 and 99.5 percentiles, and all their voxels."""
    if not fingerprint.CT.cases:
        return {}
    intensity = fingerprint.CT.intensity
    if not intensity.counts:
        raise AmosError("the fingerprint does not contain the CT intensity of any organ; label one, or name a plan")
    low, high = (round(intensity.quantile(share), 1) for share in (0.005, 0.995))
    sd = round(intensity.sd(), 2)
    if not low < high or not sd > 0:
        raise AmosError("the organs of these CT scans have one single intensity; are they scans?")
    return {"ct_clip_hu": (low, high), "ct_mean_hu": round(intensity.mean(), 2), "ct_sd_hu": sd}


def _shortened(patch: Triple, axis: int, by: int) -> Triple:
    return _triple(side - by * (a == axis) for a, side in enumerate(patch))


def _triple(values: Iterable[int]) -> Triple:
    x, y, z = (int(value) for value in values)
    return (x, y, z)


def _turned(values: Triple, order: np.ndarray) -> Triple:
    return _triple(values[int(i)] for i in order)
