"""nnU-Net's U-Net with a residual encoder (Isensee et al. 2024, arXiv 2404.09556), pooling and kernels from the plan.

Written from its description: nnU-Net's presets M and L are this one network on plans for 8 and 24 GB of GPU memory.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from amos_fl.errors import AmosError
from amos_fl.networks.anysize import AnySize
from amos_fl.networks.unet import PAPER_FILTERS, cumulative, per_stage
from amos_fl.training.supervision import Supervision
from amos_fl.volumes.plan import Plan, Triple

BLOCKS = (1, 3, 4, 6, 6, 6)
"""Residual blocks per stage of the encoder; further stages have as many as the last."""
ONE: Triple = (1, 1, 1)


def _convolution(
    inputs: int, outputs: int, kernel: Triple, stride: Triple = ONE, *, bias: bool = True
) -> list[nn.Module]:
    x, y, z = (side // 2 for side in kernel)
    convolution = nn.Conv3d(inputs, outputs, kernel, stride, (x, y, z), bias=bias)
    return [convolution, nn.InstanceNorm3d(outputs, affine=True)]


def _activation() -> nn.Module:
    return nn.LeakyReLU(0.01, inplace=True)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which pools by averaging and convolves where the width changes (ResNet-D).

    The block begins as its shortcut: the last normalisation's weights are 0 (He et al. 2019, arXiv 1812.01187).
    """

    def __init__(self, inputs: int, outputs: int, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *_convolution(inputs, outputs, kernel, stride), _activation(), *_convolution(outputs, outputs, kernel)
        )
        pooled = [nn.AvgPool3d(stride)] if stride != ONE else []
        widened = _convolution(inputs, outputs, ONE, bias=False) if inputs != outputs else []
        self.shortcut = nn.Sequential(*pooled, *widened)
        self.activation = _activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.convolutions(x) + self.shortcut(x))


class ResEnc(AnySize):
    """A residual encoder, and a decoder of one convolution per stage, with a head at each of its resolutions."""

    def __init__(self, plan: Plan, organ_count: int, filters: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        if len(plan.strides) < 2:
            raise AmosError(f"plan {plan.name}: a U-Net needs at least 2 stages, its strides name {len(plan.strides)}")
        self.divisor = plan.divisor
        self.supervision = Supervision.halving(cumulative(plan.strides[:-1]))
        self.stem = nn.Sequential(*_convolution(1, filters[0], plan.kernels[0]), _activation())
        self.stages = nn.ModuleList(
            nn.Sequential(
                ResidualBlock(inputs, outputs, kernel, stride),
                *(ResidualBlock(outputs, outputs, kernel, ONE) for _ in range(count - 1)),
            )
            for inputs, outputs, kernel, stride, count in zip(
                [filters[0], *filters], filters, plan.kernels, plan.strides, blocks, strict=False
            )
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(below, width, stride, stride)
            for below, width, stride in zip(filters[1:], filters, plan.strides[1:], strict=False)
        )
        self.decoders = nn.ModuleList(
            nn.Sequential(*_convolution(2 * width, width, kernel), _activation())
            for width, kernel in zip(filters[:-1], plan.kernels, strict=False)
        )
        self.out = nn.ModuleList(nn.Conv3d(width, 1 + organ_count, 1) for width in filters[:-1])
        self._draw_weights()

    def _draw_weights(self) -> None:
        for layer in self.modules():
            if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
                nn.init.kaiming_normal_(layer.weight, a=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, ResidualBlock):
                nn.init.zeros_(layer.convolutions[-1].weight)  # pyright: ignore[reportArgumentType]

    def heads(self, x: Float[Tensor, "batch 1 x y z"]) -> list[Tensor]:
        x = self.stem(x)
        skips: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        skips.pop()
        outputs: list[Tensor] = []
        for level in reversed(range(len(skips))):
            x = self.decoders[level](torch.cat([self.ups[level](x), skips[level]], 1))
            if self.training or level == 0:
                outputs.insert(0, self.out[level](x))
        return outputs


def resenc(plan: Plan, organ_count: int) -> nn.Module:
    """102.28 million parameters with 15 organs under the plan `amos-ct`."""
    return ResEnc(plan, organ_count, per_stage(PAPER_FILTERS, plan), per_stage(BLOCKS, plan))
