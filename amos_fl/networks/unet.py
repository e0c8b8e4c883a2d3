"""The 3D U-Net of AMOS's Table 4, with pooling and kernels from the plan."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from monai.networks.blocks.dynunet_block import UnetBasicBlock
from monai.networks.nets.dynunet import DynUNet
from torch import Tensor, nn

from amos_fl.errors import AmosError
from amos_fl.networks.anysize import AnySize
from amos_fl.training.supervision import Supervision
from amos_fl.volumes.plan import Plan, Triple

PAPER_FILTERS = (32, 64, 128, 256, 320, 320)
"""Feature maps per stage of nnU-Net's 3D U-Net (Isensee et al. 2021), as AMOS used it."""

NORM = ("INSTANCE", {"affine": True})
ACTIVATION = ("leakyrelu", {"inplace": True, "negative_slope": 0.01})


class UNet(AnySize, DynUNet):
    """MONAI's DynUNet whose deep-supervision heads keep their own resolution.

    DynUNet enlarges every head to the patch's size and stacks them, which at 64x160x160 costs half as much memory
    again; nnU-Net instead compares each head with a label map of its own resolution. DynUNet also registers each block
    under two names, so that a state dict holds every weight twice; here each has one.
    """

    def __init__(self, plan: Plan, organ_count: int, filters: Sequence[int]):
        stages = len(plan.strides)
        if stages < 3:
            raise AmosError(f"plan {plan.name}: a U-Net needs at least 3 stages, its strides name {stages}")
        super().__init__(
            spatial_dims=3,
            in_channels=1,
            out_channels=1 + organ_count,
            kernel_size=plan.kernels,
            strides=plan.strides,
            upsample_kernel_size=plan.strides[1:],
            filters=filters,
            norm_name=NORM,
            act_name=ACTIVATION,
            deep_supervision=True,
            deep_supr_num=stages - 2,
        )
        # Only DynUNet's own forward needs these: the second names, and the list of its heads.
        del self.skip_layers
        del self.heads
        self.divisor = plan.divisor
        self.supervision = Supervision.halving(cumulative(plan.strides[:-1]))

    def heads(self, x: Float[Tensor, "batch 1 x y z"]) -> list[Tensor]:
        skips = [self.input_block(x)]
        for downsample in self.downsamples:
            skips.append(downsample(skips[-1]))
        x = self.bottleneck(skips[-1])
        coarser: list[Tensor] = []
        for upsample, level in zip(self.upsamples, reversed(range(len(skips))), strict=True):
            x = upsample(x, skips[level])
            if self.training and level > 0:
                coarser.insert(0, self.deep_supervision_heads[level - 1](x))
        logits = self.output_block(x)
        return [logits, *coarser]


def paper_unet(plan: Plan, organ_count: int) -> nn.Module:
    """The U-Net of AMOS's Table 4: 31.18 million parameters with 15 organs under the plan `amos-ct`."""
    return UNet(plan, organ_count, per_stage(PAPER_FILTERS, plan))


SMALL_FILTERS = (16, 32, 64, 128)


class SmallUNet(UNet):
    """A U-Net with few feature maps, made cheap where a CPU spends most time: at the patch's own resolution.

    There the encoder and decoder have one convolution each, where the U-Net has two, and each contributes half of
    `SMALL_FILTERS[0]` channels to the last one.
    """

    def __init__(self, plan: Plan, organ_count: int):
        filters = per_stage(SMALL_FILTERS, plan)
        super().__init__(plan, organ_count, filters)
        full, half, stride = filters[0], filters[0] // 2, plan.strides[1]
        self.input_block = _convolution(1, half, plan.kernels[0])
        self.downsamples[0] = UnetBasicBlock(3, half, filters[1], plan.kernels[1], stride, NORM, ACTIVATION)
        self.upsamples[-1].transp_conv = nn.ConvTranspose3d(filters[1], half, stride, stride, bias=False)
        self.upsamples[-1].conv_block = _convolution(full, full, plan.kernels[0])
        self.apply(self.initialize_weights)


def _convolution(inputs: int, outputs: int, kernel: Triple) -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, kernel, padding="same", bias=False),
        nn.InstanceNorm3d(outputs, affine=True),
        nn.LeakyReLU(0.01, inplace=True),
    )


def per_stage(filters: Sequence[int], plan: Plan) -> list[int]:
    return [filters[min(stage, len(filters) - 1)] for stage in range(len(plan.strides))]


def cumulative(strides: Sequence[Triple]) -> list[Triple]:
    """The product of the strides up to each.

    >>> cumulative([(1, 1, 1), (2, 2, 1), (2, 2, 2)])
    [(1, 1, 1), (2, 2, 1), (4, 4, 2)]
    """
    return [(x, y, z) for x, y, z in np.cumprod(strides, axis=0).tolist()]
