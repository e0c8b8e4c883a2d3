"""Time of a patch by augmentation, and painted on its label map, beside a training step of the small network.

    python benchmarks/patches.py

prints milliseconds of processor time per patch in one thread, read from the training store: as it is, with each level
of augmentation, and with a synthetic image (`training.synthetic_share` 1), in CT and MR of the phantom; and beside them
an optimizer step of the small network on such patches, also in one thread and per patch.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import get_args

import torch
from training_step import ORGANS, cpu_ms, with_patch

from amos_fl.cohort.amos22 import import_amos22
from amos_fl.networks.registry import build_network
from amos_fl.phantom.release import write_release
from amos_fl.prepared.prepare import prepare_case
from amos_fl.prepared.store import PreparedCase
from amos_fl.training.loop import train
from amos_fl.training.patches.sampler import draw_batch
from amos_fl.training.settings import AugmentationLevel, TrainingSettings
from amos_fl.volumes.plan import Plan, plan_named

CASES = (7, 553)
"""A CT and an MR scan of the phantom."""
ROWS = {
    **{f"`{level}`": {"augmentation": level} for level in get_args(AugmentationLevel)},
    "synthetic": {"augmentation": "none", "synthetic_share": 1.0},
}


def plans() -> list[Plan]:
    """The small network's plan and two larger patches, each as wide as the body."""
    coarse = plan_named("coarse")
    fine = coarse.model_copy(update={"spacing_mm": (3.5, 3.5, 6.0)})
    finer = coarse.model_copy(update={"spacing_mm": (2.2, 2.2, 4.0)})
    return [coarse, with_patch(fine, (96, 96, 32)), with_patch(finer, (160, 160, 64))]


def step_ms(case: PreparedCase, plan: Plan, steps: int) -> float:
    """Processor time of a step of the small network per patch of its batch, which is drawn without augmentation."""
    settings = TrainingSettings(augmentation="none", threads=1)
    network = build_network("small", plan, len(ORGANS), seed=0)
    common = {"organs": ORGANS, "seed": 0, "site": "A", "first_step": 0, "total_steps": steps + 1}
    train(network, [case], plan, settings, steps=1, **common)  # pyright: ignore[reportArgumentType]
    start = time.process_time()
    train(network, [case], plan, settings, steps=steps, **common)  # pyright: ignore[reportArgumentType]
    return (time.process_time() - start) / steps / settings.batch_size * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=60, help="of each kind and modality")
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_release(folder / "phantom", cases=CASES)
        listed = import_amos22(folder / "phantom", protocol="release").cohort.cases
        for plan in plans():
            cases = [prepare_case(case, plan, folder / "store", ORGANS) for case in listed]
            print(f"patch {'x'.join(map(str, plan.patch))}")
            for row, chosen in ROWS.items():
                settings = TrainingSettings.model_validate({"batch_size": 1, **chosen})
                times = [
                    cpu_ms(
                        lambda step, case=case, plan=plan, settings=settings: draw_batch(
                            [case], plan, settings, ORGANS, seed=0, site="A", step=step
                        ),
                        options.patches,
                    )[1]
                    for case in cases
                ]
                said = ", ".join(f"{case.modality} {ms:6.1f} ms" for case, ms in zip(cases, times, strict=True))
                print(f"  {row:10} {said}")
            print(f"  a step of the small network, per patch: {step_ms(cases[0], plan, options.steps):6.1f} ms")


if __name__ == "__main__":
    main()
