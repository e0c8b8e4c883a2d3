"""Pass a patch of any size through a network: sizes its strides do not divide are padded inside and cropped again."""

import math
from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from jaxtyping import Float
from torch import Tensor, nn

from amos_fl.errors import AmosError
from amos_fl.training.supervision import Supervision
from amos_fl.volumes.plan import Plan, Triple


class SingleValue(AmosError):  # noqa: N818 - named after what is left
    """A normalisation layer is left with a single value of a patch, which has no variance."""


class AnySize(nn.Module):
    """A segmentation network for images of any size, whose heads keep their own resolution.

    A subclass defines the sizes that its layers take (`divisor`), the strides and weights of its heads
    (`supervision`), and `heads`. In training mode `forward` maps (B, 1, X, Y, Z) to a list of logits
    (B, classes, ...), the image's resolution first, then coarser ones; in evaluation mode it returns only the first.

    Padding repeats the last planes, at the upper end of each axis, so that it creates no artificial edge. A patch that
    leaves a layer a single value, which cannot be normalised, raises `SingleValue`.
    """

    divisor: Triple
    supervision: Supervision

    def heads(self, x: Float[Tensor, "batch 1 x y z"]) -> list[Tensor]:
        """Logits per head; in evaluation mode the first is enough. The sides of `x` are multiples of `divisor`."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "batch 1 x y z"]) -> Tensor | list[Tensor]:
        size = x.shape[2:]
        try:
            heads = self.heads(padded(x, self.divisor))
        except ValueError as error:  # PyTorch's: "Expected more than 1 value per channel when training"
            if "Expected more than 1" not in str(error):
                raise
            raise _single_value(x, by_image="spatial" in str(error)) from None
        if not self.training:
            return _cropped(heads[0], size, (1, 1, 1))
        return [_cropped(h, size, stride) for h, stride in zip(heads, self.supervision.strides, strict=True)]


def _single_value(x: Tensor, *, by_image: bool) -> SingleValue:
    """`by_image`: the layer normalises each image by itself, so that a larger batch does not help."""
    patch = "x".join(map(str, x.shape[2:]))
    if by_image:
        return SingleValue(
            f"a patch of {patch} leaves one voxel to a normalisation layer; give the plan a larger patch"
        )
    return SingleValue(
        f"a patch of {patch} in a batch of {len(x)} leaves one value to a normalisation layer; raise "
        "training.batch_size to 2, or give the plan a larger patch"
    )


def padded(x: Float[Tensor, "batch channel x y z"], divisor: Triple) -> Tensor:
    """`x` with its last planes repeated up to the next multiples of `divisor`; unchanged if it has them.

    >>> import torch
    >>> padded(torch.zeros(1, 1, 24, 30, 16), (16, 16, 8)).shape
    torch.Size([1, 1, 32, 32, 16])
    """
    missing = [-side % factor for side, factor in zip(x.shape[2:], divisor, strict=True)]
    if not any(missing):
        return x
    return F.pad(x, [end for more in reversed(missing) for end in (0, more)], mode="replicate")


def _cropped(head: Tensor, size: Sequence[int], stride: Triple) -> Tensor:
    x, y, z = (math.ceil(side / s) for side, s in zip(size, stride, strict=True))
    return head[:, :, :x, :y, :z]


def thin_axis(plan: Plan) -> int:
    """The axis along which the plan pools last, that of thick slices; z if it treats all alike.

    >>> from amos_fl.volumes.plan import plan_named
    >>> thin_axis(plan_named("amos-ct")), thin_axis(plan_named("coarse"))
    (2, 2)
    """
    for stride in plan.strides[1:]:
        kept = [axis for axis in range(3) if stride[axis] == 1]
        if len(kept) == 1:
            return kept[0]
        if len(set(stride)) > 1:
            break
    return 2


def across(thin: int, along: int, others: int) -> Triple:
    """A kernel or stride: `along` on the axis `thin`, `others` on the other two.

    >>> across(2, 1, 4)
    (4, 4, 1)
    """
    x, y, z = (along if axis == thin else others for axis in range(3))
    return (x, y, z)


def halvings(levels: int, first: Triple = (1, 1, 1)) -> list[Triple]:
    """The strides of heads a factor of 2 apart, starting at `first`.

    >>> halvings(3)
    [(1, 1, 1), (2, 2, 2), (4, 4, 4)]
    """
    return [(first[0] << i, first[1] << i, first[2] << i) for i in range(levels)]
