"""Time of a training step, and of augmented patches beside MONAI's own dictionary pipeline.

    python benchmarks/training_step.py

prints milliseconds per optimizer step of each network on this device (on a GPU in half and in single
precision, with the most memory of each), and per batch of two augmented patches in one thread, ours
(Table 11, drawn from a case in the training store) and MONAI's dictionary transforms with the same
probabilities and ranges (from volumes in memory).
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai
import nibabel as nib
import numpy as np
import torch
from _rows import OURS, note
from monai.transforms.compose import Compose, OneOf
from monai.transforms.croppad.dictionary import RandCropByPosNegLabeld
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
)
from monai.transforms.spatial.dictionary import RandAffined, RandFlipd, RandSimulateLowResolutiond

from amos_fl.cohort.table import Case
from amos_fl.networks.registry import build_network, parameter_count
from amos_fl.prepared.prepare import prepare_case
from amos_fl.prepared.store import PreparedCase
from amos_fl.training.loop import StepReport, train
from amos_fl.training.patches.sampler import draw_batch
from amos_fl.training.settings import TrainingSettings
from amos_fl.volumes.plan import Plan, Triple, plan_named

ORGANS = tuple(range(1, 16))


def ball_case(folder: Path, plan: Plan, shape: Triple) -> PreparedCase:
    """A CT of `shape` at the plan's spacing: fifteen balls in a noisy body."""
    draw = np.random.default_rng(0)
    label = np.zeros(shape, np.uint8)
    radius = min(shape) // 6
    ball = np.sum(np.stack(np.meshgrid(*[np.arange(-radius, radius)] * 3)) ** 2, axis=0) < radius**2
    for organ in ORGANS:
        start = [int(draw.integers(side - 2 * radius)) for side in shape]
        label[tuple(slice(s, s + 2 * radius) for s in start)][ball] = organ
    image = (50 + 10 * label + 15 * draw.standard_normal(shape, dtype=np.float32)).astype(np.int16)
    affine = np.diag([*plan.spacing_mm, 1.0])
    for name, array in (("image", image), ("label", label)):
        nib.save(nib.Nifti1Image(array, affine), folder / f"{plan.name}-{name}.nii")  # pyright: ignore[reportPrivateImportUsage]
    case = Case(
        "balls", "A", "CT", "train", folder / f"{plan.name}-image.nii", folder / f"{plan.name}-label.nii", ORGANS
    )
    return prepare_case(case, plan, folder / "store", ORGANS)


def with_patch(plan: Plan, patch: Triple) -> Plan:
    return plan.model_copy(update={"name": f"{plan.name} {'x'.join(map(str, patch))}", "patch": patch})


def print_step_times(folder: Path, device: str, threads: int, steps: int) -> None:
    on_gpu = device.startswith("cuda")
    plans = {"small": plan_named("coarse"), "unet": plan_named("amos-ct")}
    if not on_gpu:
        plans["unet"] = with_patch(plans["unet"], (64, 64, 32))
    precisions = (True, False) if on_gpu else (True,)  # mixed precision is for GPUs alone
    for (model, plan), mixed in itertools.product(plans.items(), precisions):
        settings = TrainingSettings(threads=threads, mixed_precision=mixed, workers=4 if on_gpu else 0)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        case = ball_case(folder, plan, tuple(side + 16 for side in plan.patch))  # pyright: ignore[reportArgumentType]
        network = build_network(model, plan, len(ORGANS), seed=0)
        ends: list[float] = []

        def on_step(report: StepReport, ends: list[float] = ends) -> None:
            ends.append(report.seconds)

        train(
            network,
            [case],
            plan,
            settings,
            organs=ORGANS,
            seed=0,
            site="A",
            steps=steps,
            first_step=0,
            total_steps=steps,
            device=device,
            on_step=on_step,
        )
        durations = np.diff(ends)
        how = ""
        if on_gpu:
            precision = "half" if mixed else "single"
            how = f", {precision} precision, at most {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB"
        print(
            f"{model:6} {parameter_count(network) / 1e6:6.2f} M parameters, patch {plan.patch}, batch 2: "
            f"median {1e3 * statistics.median(durations):7.1f} ms, least {1e3 * min(durations):7.1f} ms per step{how}"
        )


def monai_pipeline(patch: Triple) -> Compose:
    """Table 11 in MONAI's dictionary transforms, after its own crop around foreground or anywhere."""
    keys, image = ("image", "label"), ("image",)
    degrees = np.deg2rad(30)
    affine: dict[str, Any] = {"keys": keys, "mode": ("bilinear", "nearest"), "padding_mode": "zeros"}
    turn: dict[str, Any] = {"rotate_range": (degrees,) * 3}
    zoom: dict[str, Any] = {"scale_range": ((-0.3, 0.4),) * 3}
    return Compose(
        [
            RandCropByPosNegLabeld(keys, "label", patch, pos=1, neg=2, num_samples=1),
            # Rotation and scaling are drawn apart (0.2 each) and done in one resampling, as in ours.
            OneOf(
                [
                    Compose([]),
                    RandAffined(prob=1.0, **affine, **turn),
                    RandAffined(prob=1.0, **affine, **zoom),
                    RandAffined(prob=1.0, **affine, **turn, **zoom),
                ],
                weights=(0.64, 0.16, 0.16, 0.04),
            ),
            RandGaussianNoised(image, prob=0.1, std=0.1),
            RandGaussianSmoothd(image, (0.5, 1.0), (0.5, 1.0), (0.5, 1.0), prob=0.1),
            RandScaleIntensityd(image, factors=0.25, prob=0.15),
            RandScaleIntensityFixedMeand(image, factors=0.25, preserve_range=True, prob=0.15),
            RandSimulateLowResolutiond(image, prob=0.125, zoom_range=(0.5, 1.0)),
            RandAdjustContrastd(image, prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
            RandAdjustContrastd(image, prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
            *[RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)],
        ]
    )


def cpu_ms(draw: Callable[[int], object], batches: int) -> tuple[float, float]:
    """Milliseconds of wall clock and of processor time per batch."""
    draw(0)
    wall, cpu = time.perf_counter(), time.process_time()
    for step in range(1, batches + 1):
        draw(step)
    return (time.perf_counter() - wall) / batches * 1e3, (time.process_time() - cpu) / batches * 1e3


def print_augmentation_times(folder: Path, batches: int) -> None:
    torch.set_num_threads(1)
    for patch, scan in (((96, 96, 32), (192, 192, 96)), ((160, 160, 64), (288, 288, 128))):
        plan = with_patch(plan_named("amos-ct"), patch)
        case = ball_case(folder, plan, scan)
        settings = TrainingSettings(augmentation="paper")

        def ours(
            step: int, case: PreparedCase = case, plan: Plan = plan, settings: TrainingSettings = settings
        ) -> object:
            return draw_batch([case], plan, settings, ORGANS, seed=0, site="A", step=step)

        pipeline = monai_pipeline(patch).set_random_state(0)
        volume = {
            "image": torch.from_numpy(case.image())[None],
            "label": torch.from_numpy(case.label().astype(np.float32))[None],
        }

        def monais(step: int, pipeline: Compose = pipeline, volume: dict[str, torch.Tensor] = volume) -> object:
            samples: Any = [pipeline(dict(volume)) for _ in range(2)]
            return [torch.stack([sample[0][key] for sample in samples]) for key in ("image", "label")]

        for name, draw in (("amos-fl, from the store", ours), (f"MONAI {monai.__version__}, from memory", monais)):
            wall, cpu = cpu_ms(draw, batches)
            print(f"two augmented patches {patch}, {name:27}: {wall:7.1f} ms ({cpu:7.1f} ms processor)")
            work = f"two augmented patches of {'x'.join(map(str, patch))}, processor time"
            note(work, OURS if draw is ours else "MONAI, from memory", cpu, "ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batches", type=int, default=40)
    options = parser.parse_args()
    print(f"device {options.device}, {options.threads} threads of {os.cpu_count()}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        print_step_times(Path(folder), options.device, options.threads, options.steps)
        print_augmentation_times(Path(folder), options.batches)


if __name__ == "__main__":
    main()
