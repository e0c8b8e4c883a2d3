"""A network learns one phantom case by heart; `benchmarks/overfit.py` does so with all six at full width."""

from pathlib import Path

import numpy as np
import pytest
import torch

from amos_fl.cohort.amos22 import import_amos22
from amos_fl.inference.windows import finished_planes
from amos_fl.metrics.overlap import dsc
from amos_fl.networks.registry import build_network
from amos_fl.phantom.release import write_release
from amos_fl.prepared.prepare import prepare_case
from amos_fl.runs.inference_settings import InferenceSettings
from amos_fl.training.loop import train
from amos_fl.training.settings import TrainingSettings
from amos_fl.volumes.plan import plan_named

ORGANS = (1, 2, 3, 6)
STEPS = 60


@pytest.mark.slow
def test_the_small_network_learns_spleen_kidneys_and_liver_of_one_case_by_heart(tmp_path: Path) -> None:
    plan = plan_named("coarse").model_copy(update={"spacing_mm": (10.0, 10.0, 10.0), "patch": (32, 32, 48)})
    write_release(tmp_path / "release", seed=1, size="quick", cases=[4], workers=1)
    [case] = import_amos22(tmp_path / "release", protocol="release").cohort.cases
    prepared = prepare_case(case, plan, tmp_path / "store", ORGANS)
    network = build_network("small", plan, len(ORGANS), seed=0)
    settings = TrainingSettings(
        batch_size=1, learning_rate=0.1, momentum=0.9, augmentation="none", foreground_share=1.0, class_balance=0.5
    )
    total = {"steps": STEPS, "total_steps": 2 * STEPS}
    train(network, [prepared], plan, settings, organs=ORGANS, seed=0, site="A", first_step=0, **total)
    planes = finished_planes(
        network.eval(),
        prepared,
        plan.patch,
        1 + len(ORGANS),
        axis=2,
        device=torch.device("cpu"),
        inference=InferenceSettings(batch_size=1),
        check=None,
    )
    with torch.inference_mode():
        channels = np.stack([plane.argmax(0).numpy() for plane in planes], axis=-1)
    found, reference = np.array([0, *ORGANS])[channels], prepared.label()
    scores = {organ: dsc(found == organ, reference == organ) for organ in ORGANS}
    assert min(scores.values()) > 0.9, scores
