"""Train a network at a site for a number of optimizer steps on patches of its cases.

The same function trains a site in a federation and the pooled baseline.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amos_fl.device import memory_said
from amos_fl.errors import AmosError, TrainingDiverged
from amos_fl.randomness import derived_seed
from amos_fl.training.loss import DiceCrossEntropy
from amos_fl.training.own import loss_at
from amos_fl.training.patches.prefetch import draw_batches
from amos_fl.training.patches.recipes import change_batch
from amos_fl.training.patches.sampler import TrainingCase
from amos_fl.training.pull import Pull
from amos_fl.training.schedule import polynomial_learning_rate
from amos_fl.training.settings import TrainingSettings
from amos_fl.training.supervision import supervision_of
from amos_fl.volumes.plan import Plan

BALANCE_FALL = 0.6
"""The fraction of the class balance removed by the last step: early it helps to find small organs, late it blurs
edges."""


@dataclass(frozen=True)
class StepReport:
    """One optimizer step: its number within `total_steps`, its loss and learning rate, seconds since the start."""

    step: int
    total_steps: int
    loss: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """What a site's training came to, in the steps that it took. `momentum_buffers` are by parameter, to go on from."""

    steps: int
    mean_loss: float
    last_loss: float
    momentum_buffers: dict[str, Tensor]
    seconds: float


def train(
    network: nn.Module,
    cases: Sequence[TrainingCase],
    plan: Plan,
    settings: TrainingSettings,
    *,
    organs: Sequence[int],
    seed: int,
    site: str,
    steps: int,
    first_step: int,
    total_steps: int,
    device: str | torch.device = "cpu",
    momentum_buffers: Mapping[str, Tensor] | None = None,
    pull: Pull | None = None,
    seconds: float | None = None,
    on_step: Callable[[StepReport], None] | None = None,
) -> TrainingResult:
    """Train `network` in place for the steps numbered first_step .. first_step + steps - 1 of `total_steps`.

    SGD with Nesterov momentum, weight decay, clipped gradients and a polynomial learning rate
    (nnU-Net's). Patches and dropout are functions of (seed, site, step number), the learning rate of the step number;
    so 2n steps equal n steps and n more with the first's `momentum_buffers`, bit for bit on CPU with the same
    `settings.threads`. Without buffers the optimizer starts fresh.

    After `seconds` no further step is begun, but there is always a first. `pull` is what a federated method adds to the
    gradients. Mixed precision is used on CUDA devices alone.

    `on_step` is called after every step and may raise to stop the training; `network` then holds the
    weights of the last step.

    Raises:
        TrainingDiverged: the loss or its gradient is not finite; the weights are those before that step.
        AmosError: no labelled case, steps beyond `total_steps`, or batches too large for the GPU's memory.
    """
    if first_step < 0 or steps < 0 or first_step + steps > total_steps:
        raise AmosError(
            f"site {site}: asked to train steps {first_step} to {first_step + steps} of {total_steps}; "
            "the total must cover them"
        )
    device = torch.device(device)
    network.to(device)
    was_training = network.training
    start = time.monotonic()
    losses: list[float] = []
    optimizer = _optimizer(network, settings, momentum_buffers)
    pulling = (pull or Pull()).begin(network)
    half = settings.mixed_precision and device.type == "cuda"
    # A scale at which small networks' gradients survive from the first step: the scaler restarts at every call.
    scaler = torch.amp.GradScaler(device.type, init_scale=1024.0, enabled=half)
    numbers = range(first_step, first_step + steps)
    supervision, own = supervision_of(network), None if settings.loss is None else loss_at(settings.loss)
    remedy = "lower training.batch_size or the plan's patch, or use the device cpu"
    with (
        thread_number(settings.threads),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        memory_said(f"site {site}: training with batches of {settings.batch_size}", remedy),
    ):
        network.train()
        try:
            # Where there is a GPU, it has the time for the convolutions of `robust`, and the processor has not.
            later = device.type == "cuda" and settings.augmentation == "robust" and settings.transforms is None
            batches = draw_batches(
                cases, plan, settings, organs, seed=seed, site=site, steps=numbers, changes_later=later
            )
            for step, batch in zip(numbers, batches, strict=True):
                rate = polynomial_learning_rate(
                    settings.learning_rate, step, total_steps, settings.learning_rate_exponent
                )
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.zero_grad(set_to_none=True)
                torch.manual_seed(derived_seed(seed, "dropout", site, step))
                image, label = batch.image.to(device), batch.label.to(device)
                if batch.changes:
                    image = change_batch(image, label, batch.changes, settings.augmentation)
                with torch.autocast(device.type, dtype=torch.float16, enabled=half):
                    outputs = network(image)
                balance = settings.class_balance * (1 - BALANCE_FALL * step / total_steps)
                loss_of = DiceCrossEntropy(
                    batch_dice=settings.batch_dice, class_balance=balance, supervision=supervision, own=own
                )
                loss = loss_of(outputs, label, batch.annotated.to(device))
                losses.append(loss.item())
                _refuse_unless_finite("loss", losses[-1], site, step)
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                pulling.add_to(network)
                norm = nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip)
                if not half:  # in half precision the scaler skips such a step and lowers its scale
                    _refuse_unless_finite("gradient", norm.item(), site, step)
                scaler.step(optimizer)
                scaler.update()
                if on_step is not None:
                    on_step(StepReport(step, total_steps, losses[-1], rate, time.monotonic() - start))
                if seconds is not None and time.monotonic() - start >= seconds:
                    break
        finally:
            network.train(was_training)
    return TrainingResult(
        steps=len(losses),
        mean_loss=math.fsum(losses) / len(losses) if losses else math.nan,
        last_loss=losses[-1] if losses else math.nan,
        momentum_buffers=_momentum_buffers(network, optimizer),
        seconds=time.monotonic() - start,
    )


def _refuse_unless_finite(what: str, value: float, site: str, step: int) -> None:
    if not math.isfinite(value):
        raise TrainingDiverged(
            f"site {site}: the {what} at step {step} is not finite; "
            "lower the learning rate or look at this site's intensities with 'amos-fl data check'"
        )


def _optimizer(network: nn.Module, settings: TrainingSettings, buffers: Mapping[str, Tensor] | None) -> torch.optim.SGD:
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        weight_decay=settings.weight_decay,
        fused=next(network.parameters()).device.type == "cpu",  # saves a sixth of the time there
    )
    for name, parameter in network.named_parameters():
        if buffers is not None and name in buffers:
            if buffers[name].shape != parameter.shape:
                raise AmosError(f"the kept optimizer state of {name} has another shape than the network; reset it")
            # A copy, because the optimizer changes it in place and it belongs to the caller.
            optimizer.state[parameter]["momentum_buffer"] = buffers[name].to(parameter, copy=True)
    return optimizer


def _momentum_buffers(network: nn.Module, optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    found = {name: optimizer.state[p].get("momentum_buffer") for name, p in network.named_parameters()}
    return {name: buffer for name, buffer in found.items() if buffer is not None}


@contextmanager
def thread_number(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
