"""Which patches a site trains on at a step: a function of (seed, site, step) alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from amos_fl.errors import AmosError
from amos_fl.randomness import derived_seed, generator
from amos_fl.training.own import transformed
from amos_fl.training.patches.recipes import IntensityChange, change_intensities, draw_resampling, mirror
from amos_fl.training.patches.spatial import Resampling
from amos_fl.training.patches.synthetic import synthetic_image
from amos_fl.training.settings import TrainingSettings
from amos_fl.volumes.plan import Plan


class TrainingCase(Protocol):
    """The interface that the sampler needs of a prepared case."""

    @property
    def case(self) -> str: ...
    @property
    def modality(self) -> str: ...
    @property
    def padding(self) -> float: ...
    @property
    def annotated(self) -> tuple[int, ...]: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def has_label(self) -> bool: ...
    def image_patch(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray: ...
    def label_patch(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray: ...
    def foreground(self) -> dict[int, np.ndarray]: ...


@dataclass(frozen=True)
class Batch:
    """Patches for one optimizer step. Labels are channel numbers: 0 background, i the i-th organ of the run."""

    image: Float[Tensor, "sample 1 x y z"]
    label: Int[Tensor, "sample x y z"]
    annotated: Bool[Tensor, "sample channel"]
    changes: tuple[IntensityChange, ...] = ()
    """The intensity changes that are still to be applied to each sample; none: they have been."""


def draw_batch(
    cases: Sequence[TrainingCase],
    plan: Plan,
    settings: TrainingSettings,
    organs: Sequence[int],
    *,
    seed: int,
    site: str,
    step: int,
    changes_later: bool = False,
) -> Batch:
    """The batch of one step at one site, augmented as `settings` say.

    With `changes_later` the intensity changes are left to `recipes.change_batch`, which applies them where the batch
    is then. A user's own augmentation comes after them, so it must be none.

    Each sample's case is drawn uniformly. The last third of a batch (`settings.foreground_share`) is centred on
    foreground: an organ drawn uniformly among those annotated and present, then one of its voxels; a batch of one is
    centred so with that probability. The other patches lie anywhere in the scan. If the scan is smaller than the patch,
    the rest is the case's own padding, and background in the label map. The share `settings.synthetic_share` of the
    images is painted on the label map, before the intensity changes. The order of `cases` does not matter.

    Raises:
        AmosError: no case, or none with a label map.
    """
    labelled = sorted((case for case in cases if case.has_label), key=lambda case: case.case)
    if not labelled:
        raise AmosError(f"site {site}: has no labelled case to train on; give it one or leave the site out of training")
    threads = torch.get_num_threads()
    # With one thread, sums round alike in this process and in a worker, whatever the number of training threads.
    torch.set_num_threads(1)
    try:
        labels = torch.empty((settings.batch_size, *plan.patch), dtype=torch.int64)
        samples = [
            _sample(labelled, plan, settings, organs, seed, site, step, number, changes_later, label)
            for number, label in enumerate(labels)
        ]
    finally:
        torch.set_num_threads(threads)
    images, annotated, changes = zip(*samples, strict=True)
    return Batch(torch.stack(images), labels, torch.stack(annotated), changes if changes_later else ())


def _sample(
    cases: Sequence[TrainingCase],
    plan: Plan,
    settings: TrainingSettings,
    organs: Sequence[int],
    seed: int,
    site: str,
    step: int,
    number: int,
    changes_later: bool,
    channels: Tensor,
) -> tuple[Tensor, Tensor, IntensityChange]:
    """One sample: image (1, X, Y, Z), annotated channels (1 + organs,), and its change.

    Its label map is written to `channels` (X, Y, Z; int64).
    """
    drawing = generator(seed, "patch", site, step, number)
    case = cases[int(drawing.integers(len(cases)))]
    annotated = [True, *(organ in case.annotated for organ in organs)]
    on_foreground = _on_foreground(number, settings, drawing)
    centre = _foreground_voxel(case, organs, drawing) if on_foreground else None
    origin = _patch_origin(case.shape, plan.patch, centre, drawing)

    augmenting = generator(seed, "augment", site, step, number)
    resampling = draw_resampling(plan, settings.augmentation, augmenting)
    image, label = _read(case, origin, plan, resampling)
    image, label = mirror(image, _to_channels(label, organs, case.annotated), settings.augmentation, augmenting)
    label = channels.copy_(label)
    if settings.synthetic_share > 0 and settings.synthetic_in in ("all", case.modality):
        drawing = generator(seed, "synthetic", site, step, number)
        if drawing.random() < settings.synthetic_share:
            image = synthetic_image(image, label, case.modality, case.padding, plan, drawing)
    change = IntensityChange(case.modality, derived_seed(seed, "intensity", site, step, number))
    if not changes_later:
        image = change_intensities(image, label, change.modality, settings.augmentation, change.seed)
    if settings.transforms is not None:
        drawing = generator(seed, "transforms", site, step, number)
        image, label = transformed(settings.transforms, image, label, drawing)
        channels.copy_(label)
    return image, torch.tensor(annotated), change


def _on_foreground(number: int, settings: TrainingSettings, drawing: np.random.Generator) -> bool:
    """nnU-Net's rule: the last samples of a batch, by number; in a batch of one, by chance."""
    chance = bool(drawing.random() < settings.foreground_share)
    if settings.batch_size == 1:
        return chance
    return number >= round(settings.batch_size * (1 - settings.foreground_share))


def _foreground_voxel(case: TrainingCase, organs: Sequence[int], drawing: np.random.Generator) -> np.ndarray | None:
    voxels = case.foreground()
    present = [organ for organ in organs if organ in case.annotated and len(voxels.get(organ, ())) > 0]
    if not present:
        return None
    positions = voxels[present[int(drawing.integers(len(present)))]]
    return positions[int(drawing.integers(len(positions)))]


def _patch_origin(
    shape: Sequence[int], patch: Sequence[int], centre: np.ndarray | None, drawing: np.random.Generator
) -> tuple[int, int, int]:
    """The patch's first voxel: inside the scan if the patch fits, otherwise so that the scan is centred in it."""
    origin = []
    for axis, (size, side) in enumerate(zip(shape, patch, strict=True)):
        spare = size - side
        if spare <= 0:
            origin.append(-((-spare) // 2))
        elif centre is None:
            origin.append(int(drawing.integers(spare + 1)))
        else:
            origin.append(int(np.clip(centre[axis] - side // 2, 0, spare)))
    return origin[0], origin[1], origin[2]


def _read(
    case: TrainingCase, origin: Sequence[int], plan: Plan, resampling: Resampling | None
) -> tuple[Tensor, Tensor]:
    """Read image (1, X, Y, Z) and label values (X, Y, Z) of a patch, with the surroundings that resampling needs.

    Reading beyond the patch avoids empty corners if a rotated patch still lies inside the scan.
    """
    if resampling is None:
        image, label = case.image_patch(origin, plan.patch), case.label_patch(origin, plan.patch)
        return torch.from_numpy(image)[None], torch.from_numpy(label)
    margin = [(wide - side) // 2 for wide, side in zip(resampling.source_shape, plan.patch, strict=True)]
    wider_origin = [first - more for first, more in zip(origin, margin, strict=True)]
    image = case.image_patch(wider_origin, resampling.source_shape)
    label = case.label_patch(wider_origin, resampling.source_shape)
    return resampling(torch.from_numpy(image)[None], torch.from_numpy(label))


def _to_channels(label: Tensor, organs: Sequence[int], annotated: Sequence[int]) -> Tensor:
    """Channels (X, Y, Z; uint8) of label values (X, Y, Z; uint8); organs not annotated or not in the run become 0."""
    table = bytearray(256)
    for channel, organ in enumerate(organs, start=1):
        if organ in annotated:
            table[organ] = channel
    # A byte string has the fastest table of all: a tensor's needs the voxels as 64-bit indices first.
    return torch.frombuffer(bytearray(label.numpy().tobytes()).translate(table), dtype=torch.uint8).view(label.shape)
