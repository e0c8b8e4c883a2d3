"""Every network learns one phantom case by heart: what it can represent, and that its gradients lead there.

    python benchmarks/overfit.py                  # all six at full width; minutes on a GPU
    python benchmarks/overfit.py unet cotr        # these two

trains each on one synthetic case at 5 mm until the mean DSC over all its organs, on the scan's own grid, is 0.92 or
its time is over, and prints what it reached. The phantom is synthetic: nothing follows for patients.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from amos_fl.cohort.amos22 import import_amos22
from amos_fl.cohort.table import Case
from amos_fl.inference.evaluate import evaluate_cases
from amos_fl.networks.registry import build_network
from amos_fl.phantom.release import write_release
from amos_fl.prepared.prepare import prepare_case
from amos_fl.prepared.store import PreparedCase
from amos_fl.training.loop import train
from amos_fl.training.settings import TrainingSettings
from amos_fl.volumes.plan import Plan

ORGANS = tuple(range(1, 16))
LARGE = (1, 2, 3, 6)
PLAN = Plan(
    name="by heart",
    spacing_mm=(5.0, 5.0, 5.0),
    patch=(64, 64, 64),
    strides=((1, 1, 1), *[(2, 2, 2)] * 4),
    kernels=((3, 3, 3),) * 5,
)
LEARNING_RATES = {"unet": 0.05, "vnet": 0.05, "cotr": 0.03, "nnformer": 0.05, "unetr": 0.03, "swin-unetr": 0.05}
ENOUGH, MOST_STEPS, STEPS_BETWEEN = 0.92, 2000, 200


def a_case(folder: Path) -> tuple[Case, PreparedCase]:
    write_release(folder / "release", seed=1, size="quick", cases=[4], workers=1)
    [case] = import_amos22(folder / "release", protocol="release").cohort.cases
    return case, prepare_case(case, PLAN, folder / "store", ORGANS)


def scores(network: torch.nn.Module, case: tuple[Case, PreparedCase], device: str) -> dict[int, float]:
    """The DSC of every organ that the case has."""
    [result] = evaluate_cases(network, [case], PLAN, organs=ORGANS, tolerance_mm=1.0, device=device)
    return {organ: s.dsc for organ, s in result.scores.items() if s.outcome in ("scored", "missed")}


def mean(marks: dict[int, float], organs: Sequence[int]) -> float:
    return float(np.mean([marks[organ] for organ in organs if organ in marks]))


def learn(model: str, case: tuple[Case, PreparedCase], device: str, most_s: float) -> None:
    network = build_network(model, PLAN, len(ORGANS), seed=0).to(device)
    settings = TrainingSettings(
        learning_rate=LEARNING_RATES[model],
        momentum=0.9,
        augmentation="none",
        foreground_share=1.0,
        class_balance=0.5,
        workers=2,
    )
    started, done, buffers = time.monotonic(), 0, None
    while True:
        result = train(
            network,
            [case[1]],
            PLAN,
            settings,
            organs=ORGANS,
            seed=0,
            site="A",
            steps=STEPS_BETWEEN,
            first_step=done,
            total_steps=MOST_STEPS,
            device=device,
            momentum_buffers=buffers,
        )
        done, buffers = done + STEPS_BETWEEN, result.momentum_buffers
        marks, seconds = scores(network, case, device), time.monotonic() - started
        print(
            f"{model:10} {done:5} steps {seconds:6.0f} s   loss {result.mean_loss:.3f}   "
            f"DSC {mean(marks, ORGANS):.3f} over {len(marks)} organs, "
            f"{mean(marks, LARGE):.3f} over spleen, kidneys and liver",
            flush=True,
        )
        if mean(marks, ORGANS) >= ENOUGH or seconds > most_s or done == MOST_STEPS:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(LEARNING_RATES), help="default: all six")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=120.0, help="the most for each network")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        case = a_case(Path(folder))
        for model in options.models:
            learn(model, case, options.device, options.seconds)


if __name__ == "__main__":
    main()
