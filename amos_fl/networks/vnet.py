"""V-Net (Milletari et al. 2016, arXiv 1606.04797), MONAI's, as AMOS's Table 4 counts it."""

from monai.networks.nets.vnet import VNet as MonaiVNet
from torch import Tensor, nn

from amos_fl.networks.anysize import AnySize, halvings
from amos_fl.training.supervision import Supervision
from amos_fl.volumes.plan import Plan


class VNet(AnySize, MonaiVNet):
    """MONAI's V-Net with deep-supervision heads at a half, a quarter and an eighth of the resolution.

    Its batch normalisation keeps running statistics and its dropout is 0.5, on whole channels.
    """

    divisor = (16, 16, 16)

    def __init__(self, organ_count: int) -> None:
        classes = 1 + organ_count
        super().__init__(spatial_dims=3, in_channels=1, out_channels=classes)
        self.coarser_heads = nn.ModuleList(nn.Conv3d(features, classes, 1) for features in (64, 128, 256))
        self.supervision = Supervision.halving(halvings(4), coarsest=True)

    def heads(self, x: Tensor) -> list[Tensor]:
        skips = [self.in_tr(x)]
        for down in (self.down_tr32, self.down_tr64, self.down_tr128, self.down_tr256):
            skips.append(down(skips[-1]))
        x = skips.pop()
        coarser: list[Tensor] = []
        for up in (self.up_tr256, self.up_tr128, self.up_tr64, self.up_tr32):
            x = up(x, skips.pop())
            coarser.insert(0, x)
        logits = self.out_tr(x)
        if not self.training:
            return [logits]
        return [logits, *(head(features) for head, features in zip(self.coarser_heads, coarser[1:], strict=True))]


def vnet(plan: Plan, organ_count: int) -> nn.Module:
    """V-Net: 45.66 million parameters with 15 organs, whatever the plan."""
    return VNet(organ_count)
