"""The loss of a network on fixed patches of validation cases."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from amos_fl.randomness import derived_seed
from amos_fl.training.loop import thread_number
from amos_fl.training.loss import dice_cross_entropy
from amos_fl.training.patches.prefetch import draw_batches
from amos_fl.training.patches.sampler import TrainingCase
from amos_fl.training.settings import TrainingSettings
from amos_fl.volumes.plan import Plan

LEAST_BATCHES = 4


def validation_loss(
    network: nn.Module,
    cases: Sequence[TrainingCase],
    plan: Plan,
    settings: TrainingSettings,
    *,
    organs: Sequence[int],
    seed: int,
    site: str,
    device: str | torch.device = "cpu",
    check: Callable[[], None] = lambda: None,
) -> float:
    """The mean loss of `network` over as many batches as there are cases, at least four; nothing is changed.

    Patches are functions of (seed, site) alone, the same in every round, and not augmented. The loss is Dice and
    cross-entropy without class balance and deep supervision, whatever the training's. `check` is called before every
    batch and may raise.

    Raises:
        AmosError: no labelled case.
    """
    device = torch.device(device)
    plain = settings.model_copy(
        update={"augmentation": "none", "synthetic_share": 0.0, "transforms": None, "workers": 0}
    )
    batches = range(max(len(cases), LEAST_BATCHES))
    half = settings.mixed_precision and device.type == "cuda"
    network.to(device)
    was_training = network.training
    losses: list[float] = []
    with thread_number(settings.threads), torch.no_grad():
        network.eval()
        try:
            drawn = draw_batches(
                cases, plan, plain, organs, seed=derived_seed(seed, "validation"), site=site, steps=batches
            )
            for batch in drawn:
                check()
                with torch.autocast(device.type, dtype=torch.float16, enabled=half):
                    logits = network(batch.image.to(device))
                label, annotated = batch.label.to(device), batch.annotated.to(device)
                losses.append(dice_cross_entropy(logits, label, annotated, batch_dice=settings.batch_dice).item())
        finally:
            network.train(was_training)
    return math.fsum(losses) / len(losses)
