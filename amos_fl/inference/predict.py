"""Predict one case, and write the prediction as a file that overlays its scan."""

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from amos_fl.device import memory_said
from amos_fl.inference.adapt import adapted
from amos_fl.inference.restore import Certainty, restore
from amos_fl.inference.windows import finished_planes, slab_axis
from amos_fl.prepared.store import PreparedCase
from amos_fl.runs.inference_settings import DEFAULT, InferenceSettings
from amos_fl.runs.model import Model
from amos_fl.volumes.nifti import write_label
from amos_fl.volumes.plan import Plan


def predict_case(
    network: nn.Module,
    prepared: PreparedCase,
    plan: Plan,
    *,
    organs: Sequence[int],
    device: torch.device | str = "cpu",
    inference: InferenceSettings = DEFAULT,
    check: Callable[[], None] | None = None,
    probabilities: UInt8[np.ndarray, "x y z class"] | None = None,
    unlearned: Collection[int] = (),
    certainty: Certainty | None = None,
    turns: Sequence[Callable[[], None]] = (),
) -> UInt8[np.ndarray, "x y z"]:
    """The label map of a case on its scan's own grid and in its file's orientation.

    Args:
        network: on `device`; in eval mode it takes (window, 1, x, y, z) to logits (window, 1 + organs, x, y, z),
            channel i >= 1 being `organs[i - 1]`. It is left in the mode it was in.
        inference: how the windows overlap, are mirrored and batched; by default as in a run.
        check: called for every window, before its batch goes through the network; it may raise to stop.
        probabilities: if given, filled with the classes' probabilities as described in `restore`.
        unlearned: channels (1 and up) of organs that no training case annotated. The loss treated them and background
            as one class, so their probabilities are added to the background's before the largest class is taken.
        certainty: if given, filled with sums of the classes' probabilities (for 1 + organs classes).
        turns: of an ensemble, functions that make `network` one member after the other (`finished_planes`).

    Raises:
        AmosError: a case too large for the device's memory.
    """
    batch_size, adapts = inference.batch_size, inference.test_time_adaptation
    training = network.training
    network.eval()
    remedy = (
        "lower the batch size of inference (--batch-size, or evaluation.batch_size of a run), or use the device cpu"
    )
    try:
        with (
            memory_said(f"{prepared.case}: predicting it with {batch_size} windows at a time", remedy),
            adapted(network, prepared, plan.patch, batch_size, device) if adapts else nullcontext(),
        ):
            axis = slab_axis(prepared.shape, plan.patch)
            planes = finished_planes(
                network,
                prepared,
                plan.patch,
                1 + len(organs),
                axis=axis,
                device=torch.device(device),
                inference=inference,
                check=check,
                unlearned=unlearned,
                turns=turns,
            )
            with torch.inference_mode():
                return restore(planes, axis, prepared.shape, prepared.geometry, organs, probabilities, certainty)
    finally:
        network.train(training)


def drawing(
    model: Model,
    network: nn.Module,
    *,
    inference: InferenceSettings,
    device: torch.device | str = "cpu",
    check: Callable[[], None] | None = None,
) -> "partial[UInt8[np.ndarray, 'x y z']]":
    """`predict_case` with a model and its network; what is left to give is the case."""
    return partial(
        predict_case,
        network,
        plan=model.plan,
        organs=tuple(model.organs),
        device=device,
        inference=inference,
        check=check,
        unlearned=model.unlearned_channels,
        turns=model.turns(network, inference),
    )


def write_prediction(prediction: UInt8[np.ndarray, "x y z"], like: Path | str, out: Path | str) -> None:
    """Write a prediction as a NIfTI file with the grid of the scan `like`, whole or not at all.

    Raises:
        AmosError: `like` is unreadable or has another shape.
    """
    write_label(out, prediction, like)
