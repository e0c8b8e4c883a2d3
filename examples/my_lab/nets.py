"""A small residual network: `--model my_lab.nets:build`."""

from torch import nn


class Block(nn.Module):
    """Two convolutions with a path around them."""

    def __init__(self, channels, kernel):
        super().__init__()
        padding = tuple(side // 2 for side in kernel)
        self.body = nn.Sequential(
            nn.Conv3d(channels, channels, kernel, padding=padding),
            nn.InstanceNorm3d(channels, affine=True),
            nn.LeakyReLU(0.01),
            nn.Conv3d(channels, channels, kernel, padding=padding),
        )

    def forward(self, x):
        return x + self.body(x)


def build(plan, organ_count):
    """From images (B, 1, X, Y, Z) to logits (B, 1 + organ_count, X, Y, Z), background first.

    It works at half of the patch's resolution, given by the plan's first stride.
    """
    stride = plan.strides[1]
    return nn.Sequential(
        nn.Conv3d(1, 16, stride, stride=stride),
        *(Block(16, kernel) for kernel in plan.kernels[:2]),
        nn.ConvTranspose3d(16, 1 + organ_count, stride, stride=stride),
    )
