"""MedNeXt (Roy et al. 2023, arXiv 2303.09975) of size L: MONAI's, with its authors' widths and the plan's pooling."""

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from monai.networks.blocks.mednext_block import MedNeXtBlock, MedNeXtDownBlock, MedNeXtUpBlock
from monai.networks.nets.mednext import MedNeXt as MonaiMedNeXt
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from amos_fl.networks.anysize import AnySize
from amos_fl.networks.unet import cumulative
from amos_fl.training.supervision import Supervision
from amos_fl.volumes.plan import Plan, Triple

EXPANSIONS = BLOCKS = (3, 4, 8, 8, 8, 8, 8, 4, 3)
"""How many times wider a block is inside, and the blocks of each of the nine stages: size L (Table 1)."""
POOLINGS = 4


class DownBlock(MedNeXtDownBlock):
    """MONAI's block with a stride for each axis."""

    def __init__(self, width: int, expansion: int, kernel: int, stride: Triple) -> None:
        super().__init__(width, 2 * width, expansion, kernel, use_residual_connection=True)
        self.conv1.stride = self.res_conv.stride = stride


class UpBlock(MedNeXtUpBlock):
    """MONAI's block with a stride for each axis."""

    def __init__(self, width: int, expansion: int, kernel: int, stride: Triple) -> None:
        super().__init__(2 * width, width, expansion, kernel, use_residual_connection=True)
        self.conv1.stride = self.res_conv.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        x = MedNeXtBlock.forward(self, x) + self.res_conv(x)
        sx, sy, sz = self.res_conv.stride
        return F.pad(x, (sz - 1, 0, sy - 1, 0, sx - 1, 0))


class MedNeXt(AnySize, MonaiMedNeXt):
    """MedNeXt with a head at each of its five resolutions.

    It halves its patch four times, on the axes on which the plan does at its first four poolings, and has kernels of
    one size. Blocks are computed again in the backward pass rather than kept, as its authors do at this size.
    """

    def __init__(
        self,
        plan: Plan,
        organ_count: int,
        kernel: int,
        *,
        width: int = 32,
        expansions: Sequence[int] = EXPANSIONS,
        blocks: Sequence[int] = BLOCKS,
    ) -> None:
        super().__init__(
            init_filters=width,
            in_channels=1,
            out_channels=1 + organ_count,
            encoder_expansion_ratio=expansions[:POOLINGS],
            bottleneck_expansion_ratio=expansions[POOLINGS],
            decoder_expansion_ratio=expansions[POOLINGS + 1 :],
            kernel_size=kernel,
            deep_supervision=True,
            use_residual_connection=True,
            blocks_down=blocks[:POOLINGS],
            blocks_bottleneck=blocks[POOLINGS],
            blocks_up=blocks[POOLINGS + 1 :],
        )
        strides: list[Triple] = [*plan.strides[1:], *[(1, 1, 1)] * POOLINGS][:POOLINGS]
        for level, stride in enumerate(strides):
            # A block that pools is as wide inside as those that follow it; MONAI makes it as those before.
            self.down_blocks[level] = DownBlock(width << level, expansions[level + 1], kernel, stride)
            self.up_blocks[-1 - level] = UpBlock(width << level, expansions[-1 - level], kernel, stride)
        for block in self.modules():
            if isinstance(block, MedNeXtBlock):  # the same as a group per channel, but refuses a lone voxel
                block.register_module("norm", nn.InstanceNorm3d(block.conv1.out_channels, affine=True))
        resolutions = cumulative([(1, 1, 1), *strides])
        self.divisor = resolutions[-1]
        self.supervision = Supervision.halving(resolutions, coarsest=True)

    def heads(self, x: Tensor) -> list[Tensor]:
        def through(x: Tensor, *blocks: nn.Module) -> Tensor:
            for block in blocks:
                if self.training:
                    x = cast(Tensor, checkpoint(block, x, use_reentrant=False, preserve_rng_state=False))
                else:
                    x = block(x)
            return x

        x = self.stem(x)
        skips: list[Tensor] = []
        for stage, down in zip(self.enc_stages, self.down_blocks, strict=True):
            skips.append(through(x, *stage.children()))
            x = through(skips[-1], down)
        x = through(x, *self.bottleneck)
        coarser: list[Tensor] = []
        for up, stage, head in zip(self.up_blocks, self.dec_stages, self.out_blocks, strict=True):
            if self.training:
                coarser.insert(0, head(x))
            x = through(skips.pop() + through(x, up), *stage.children())
        return [self.out_0(x), *coarser]


def mednext_l(plan: Plan, organ_count: int) -> nn.Module:
    """MedNeXt-L with kernels of 5x5x5: 63.00 million parameters with 15 organs, whatever the plan."""
    return MedNeXt(plan, organ_count, 5)


def mednext_l_k3(plan: Plan, organ_count: int) -> nn.Module:
    """MedNeXt-L with kernels of 3x3x3: 61.79 million parameters with 15 organs, whatever the plan."""
    return MedNeXt(plan, organ_count, 3)
