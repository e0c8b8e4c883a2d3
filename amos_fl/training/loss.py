"""Dice and cross-entropy loss with partial annotation and deep supervision.

An organ that was not annotated in a case may lie anywhere in its background. So in that case's loss, background and the
organs not annotated are one class, their probabilities summed (the marginal loss of Shi et al. 2021, Medical Image
Analysis 70:101979), in the Dice and in the cross-entropy term.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from jaxtyping import Bool, Float, Int
from torch import Tensor

from amos_fl.training.supervision import Supervision, deep_supervision_weights
from amos_fl.volumes.plan import Triple

SMOOTH = 1e-5
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From logits (B, C, X, Y, Z), channel numbers (B, X, Y, Z) and the annotated channels (B, C) to a scalar."""


def dice_cross_entropy(
    logits: Float[Tensor, "sample channel x y z"],
    target: Int[Tensor, "sample x y z"],
    annotated: Bool[Tensor, "sample channel"],
    *,
    batch_dice: bool = True,
    class_balance: float = 0.0,
) -> Float[Tensor, ""]:
    """Soft Dice loss over the annotated organs plus the mean cross-entropy over voxels.

    `target` holds channel numbers, 0 for background. `annotated[s, c]` says whether organ c was looked
    for in sample s; its column 0 (background) is not read. A voxel whose target is an organ not
    annotated in its sample counts as the merged class.

    Dice is nnU-Net's: probabilities not squared, background left out, smoothing 1e-5; with `batch_dice`
    over the samples of the batch as if they were one, otherwise per sample. A batch without an annotated organ uses the
    cross-entropy alone.

    `class_balance` weighs the cross-entropy of a voxel by the inverse frequency of its class in the batch
    to this power: 0 is the plain mean over voxels (nnU-Net's), 1 gives every class in the batch equal weight. In
    between, a short training learns small organs before it has learned that nearly everything is background.
    """
    annotated = annotated.clone()
    annotated[:, 0] = False  # from here on: the channels that are not merged
    precision = torch.promote_types(logits.dtype, torch.float32)
    log_p = F.log_softmax(logits, dim=1, dtype=precision)  # (B, C, X, Y, Z)
    standing = annotated.gather(1, target.flatten(1)).view_as(target)
    target = torch.where(standing, target, 0)

    if bool(annotated[:, 1:].all()):
        log_p_merged = log_p[:, 0]
    else:
        log_p_merged = log_p.masked_fill(annotated[:, :, None, None, None], -torch.inf).logsumexp(dim=1)
    log_p_target = torch.where(target > 0, log_p.gather(1, target[:, None])[:, 0], log_p_merged)
    if class_balance:
        log_p_target = log_p_target * _class_weights(target, annotated.shape[1], class_balance)[target]
    return _soft_dice_loss(log_p.exp(), target, annotated, batch_dice) - log_p_target.mean()


def _class_weights(target: Tensor, channels: int, power: float) -> Float[Tensor, " channel"]:
    """Weights of the classes whose mean over the voxels of the batch is 1."""
    counts = torch.bincount(target.flatten(), minlength=channels).clamp(min=1).float()
    weights = (target.numel() / counts) ** power
    return weights / weights[target].mean()


def _soft_dice_loss(p: Tensor, target: Tensor, annotated: Tensor, batch_dice: bool) -> Tensor:
    p = p[:, 1:]
    annotated = annotated[:, 1:]
    truth = torch.zeros_like(p).scatter_(1, (target[:, None] - 1).clamp(min=0), (target[:, None] > 0).to(p.dtype))
    space = (2, 3, 4)
    overlap = (p * truth).sum(space)  # (B, organs)
    total = p.sum(space) + truth.sum(space)
    if batch_dice:
        overlap, total = ((term * annotated).sum(0) for term in (overlap, total))
        annotated = annotated.any(0)
    if not bool(annotated.any()):
        return p.new_zeros(())
    dice = (2 * overlap + SMOOTH) / (total + SMOOTH)
    return 1 - dice[annotated].mean()


class DiceCrossEntropy:
    """The training loss of a network, with or without deep-supervision heads.

    Called with the network's output in training mode, (B, C, X, Y, Z) or a list of such from the patch's
    resolution to coarser ones, with class indices (B, X, Y, Z) and the annotated channels (B, C). The label map is
    downsampled to a head's resolution by nearest neighbour. The heads' strides and weights are those of `supervision`;
    without it the strides follow from the heads' shapes, and the weights are nnU-Net's. A loss of one's own, `own`,
    takes the place of Dice and cross-entropy at every head, whose logits it gets in float32.
    """

    def __init__(
        self,
        *,
        batch_dice: bool = True,
        class_balance: float = 0.0,
        supervision: Supervision | None = None,
        own: Loss | None = None,
    ) -> None:
        self.own, self.supervision = own, supervision
        self.of_head: Loss = own or partial(dice_cross_entropy, batch_dice=batch_dice, class_balance=class_balance)

    def __call__(self, logits: Tensor | Sequence[Tensor], target: Tensor, annotated: Tensor) -> Tensor:
        heads = [logits] if isinstance(logits, Tensor) else list(logits)
        supervision = self.supervision or _by_division(target, heads)
        loss = torch.zeros((), device=heads[0].device)
        for weight, stride, head in zip(supervision.weights, supervision.strides, heads, strict=True):
            if weight > 0:
                own = _downsampled(target, stride)
                loss = loss + weight * self.of_head(head if self.own is None else head.float(), own, annotated)
        return loss


def _by_division(target: Tensor, heads: Sequence[Tensor]) -> Supervision:
    shapes = [tuple(target.shape[1 + a] // head.shape[2 + a] for a in range(3)) for head in heads]
    strides: list[Triple] = [(x, y, z) for x, y, z in shapes]
    return Supervision(tuple(strides), tuple(deep_supervision_weights(len(heads))))


def _downsampled(target: Tensor, stride: Triple) -> Tensor:
    x, y, z = stride
    return target[:, ::x, ::y, ::z]
