"""A user's own augmentation and loss, by import path: how they are called, and their check before the first step.

An augmentation is a function `transforms(image, label, draw)` of one sample: the image (1, X, Y, Z) in float32, the
channel numbers (X, Y, Z) in int64, 0 for background, and a NumPy generator from which all its draws come. It returns
both in the same shapes and dtypes. It is applied after the named augmentation.

A loss is a function `loss(logits, target, annotated)`, or a class whose instances are: of logits (B, C, X, Y, Z) in
float32, channel numbers (B, X, Y, Z) in int64, and whether each channel's organ was annotated in each sample (B, C). It
returns a scalar. It is called for each deep-supervision head, with the label map at the head's resolution.
"""

import inspect
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from amos_fl.errors import AmosError
from amos_fl.own_code import load, where_in
from amos_fl.randomness import generator
from amos_fl.training.loss import Loss
from amos_fl.volumes.plan import Plan
from amos_fl.wording import first_line

TRANSFORMS, LOSS = "training.transforms", "training.loss"
TRIALS = 16
"""A transform that acts only now and then is seen to act."""


def small_patch(plan: Plan) -> tuple[int, ...]:
    """The sides of a patch on which something can be tried out at once, multiples of the plan's divisor."""
    return tuple(min(side, 4 * step) for side, step in zip(plan.patch, plan.divisor, strict=True))


def transformed(path: str, image: Tensor, label: Tensor, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A sample after the user's own augmentation.

    Raises:
        AmosError: it cannot be imported, or returned something other than an image and a label map of the same shapes.
    """
    found: Any = _function(path, TRANSFORMS, "image, label, draw")(image, label, draw)
    if not isinstance(found, tuple) or len(found) != 2:
        raise AmosError(f"{TRANSFORMS} {path}: must return a tuple, the image and the label map")
    for what, before, after in zip(("image", "label map"), (image, label), found, strict=True):
        if not isinstance(after, Tensor) or (after.shape, after.dtype) != (before.shape, before.dtype):
            raise AmosError(f"{TRANSFORMS} {path}: returns {_form(after)} for the {what}, which was {_form(before)}")
    return found[0].contiguous(), found[1].contiguous()


def loss_at(path: str) -> Loss:
    """The user's own loss.

    Raises:
        AmosError: it cannot be imported, cannot be made without arguments, or takes others than a loss.
    """
    return cast(Loss, _function(path, LOSS, "logits, target, annotated"))


def check_transforms(path: str, plan: Plan, organ_count: int) -> None:
    """Apply a user's own augmentation to small patches, each twice with the same draws.

    Raises:
        AmosError: it fails, returns other shapes, numbers that are not finite or channels that are not there, or
            differs between the two times.
    """
    size = small_patch(plan)
    for trial in range(TRIALS):
        drawing = generator(trial, "own transforms")
        image = torch.from_numpy(drawing.standard_normal((1, *size), np.float32))
        label = torch.from_numpy(drawing.integers(0, 1 + organ_count, size))
        results = []
        with torch.random.fork_rng(devices=[]):
            for _ in range(2):
                draw = generator(trial, "transforms")
                results.append(_tried(TRANSFORMS, path, transformed, path, image.clone(), label.clone(), draw))
        (image, label), again = results
        if not torch.isfinite(image).all():
            raise AmosError(f"{TRANSFORMS} {path}: returns an image with numbers that are not finite")
        if label.min() < 0 or label.max() > organ_count:
            raise AmosError(f"{TRANSFORMS} {path}: returns channels other than 0 to {organ_count} in the label map")
        if not (torch.equal(image, again[0]) and torch.equal(label, again[1])):
            raise AmosError(
                f"{TRANSFORMS} {path}: gives another result for the same draws; draw from the generator that it is "
                "given alone"
            )


def check_loss(path: str, plan: Plan, organ_count: int) -> None:
    """Take a user's own loss forward and backward on a small batch, twice.

    Raises:
        AmosError: it fails, has parameters of its own, returns no scalar, numbers that are not finite, or no gradient,
            or differs between the two times.
    """
    drawing, size = generator(0, "own loss"), small_patch(plan)
    values = torch.from_numpy(drawing.standard_normal((2, 1 + organ_count, *size), np.float32))
    target = torch.from_numpy(drawing.integers(0, 1 + organ_count, (2, *size)))
    annotated = torch.ones(2, 1 + organ_count, dtype=torch.bool)
    annotated[1, -1] = False
    results = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            own = loss_at(path)
            if isinstance(own, nn.Module) and any(True for _ in own.parameters()):
                raise AmosError(f"{LOSS} {path}: has parameters of its own, which nothing trains")
            logits = values.clone().requires_grad_()
            loss = _tried(LOSS, path, own, logits, target.clone(), annotated.clone())
            if not isinstance(loss, Tensor) or loss.shape != ():
                raise AmosError(f"{LOSS} {path}: returns {_form(loss)}; it must return a scalar tensor")
            if not loss.requires_grad:
                raise AmosError(f"{LOSS} {path}: its result does not depend on the logits by operations of PyTorch")
            _tried(LOSS, path, loss.backward)
            if logits.grad is None or not logits.grad.any():
                raise AmosError(f"{LOSS} {path}: has no gradient with respect to the logits")
            if not (torch.isfinite(loss) and torch.isfinite(logits.grad).all()):
                raise AmosError(f"{LOSS} {path}: its value or its gradient is not finite")
            results.append((loss.detach(), logits.grad))
    if not all(torch.equal(one, other) for one, other in zip(*results, strict=True)):
        raise AmosError(f"{LOSS} {path}: gives another result the second time; it must depend on its arguments alone")


def _function(path: str, setting: str, takes: str) -> Callable[..., Any]:
    """The user's own function, or an instance of the user's own class, that takes these arguments."""
    found = load(path, setting)
    if inspect.isclass(found):
        try:
            found = found()
        except Exception as error:
            raise AmosError(f"{setting} {path}: cannot be made without arguments ({_words(error)})") from None
    if not callable(found):
        raise AmosError(f"{setting} {path}: must be a function of ({takes})")
    try:
        inspect.signature(found).bind(*takes.split(", "))
    except TypeError:
        raise AmosError(f"{setting} {path}: must take ({takes})") from None
    return found


def _tried(setting: str, path: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except AmosError:
        raise
    except Exception as error:
        raise AmosError(f"{setting} {path}: fails on a small patch ({_words(error)}{where_in(error, path)})") from None


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__


def _form(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__
