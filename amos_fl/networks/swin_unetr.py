"""Swin UNETR (Hatamizadeh et al. 2022, arXiv 2201.01266), MONAI's, as AMOS's Table 4 counts its parameters."""

from collections.abc import Sequence

import torch
from monai.networks.nets.swin_unetr import SwinUNETR as MonaiSwinUNETR
from monai.networks.nets.swin_unetr import WindowAttention
from torch import Tensor, nn

from amos_fl.networks.anysize import AnySize, halvings
from amos_fl.networks.norms import let_single_voxels_through
from amos_fl.training.supervision import Supervision
from amos_fl.volumes.plan import Plan


class SwinUNETR(AnySize, MonaiSwinUNETR):
    """MONAI's Swin UNETR with deep-supervision heads, 3x3x3, at every resolution of its decoder."""

    divisor = (32, 32, 32)

    def __init__(self, organ_count: int, *, features: int = 48, heads: Sequence[int] = (3, 6, 12, 24)) -> None:
        classes, device = 1 + organ_count, torch.get_default_device()
        with torch.device("cpu"):  # MONAI reads numbers back from tensors, which `meta` does not have
            super().__init__(in_channels=1, out_channels=classes, feature_size=features, num_heads=heads)
            let_single_voxels_through(self)
            widths = [features * factor for factor in (1, 2, 4, 8, 16)]
            self.coarser_heads = nn.ModuleList(nn.Conv3d(width, classes, 3, padding=1) for width in widths)
        for layer in self.modules():
            if isinstance(layer, WindowAttention):  # a constant, not a weight for sites to exchange
                index = layer.get_buffer("relative_position_index")
                del layer.relative_position_index
                layer.register_buffer("relative_position_index", index, persistent=False)
        self.supervision = Supervision.halving(halvings(6))
        self.to(device)

    def heads(self, x: Tensor) -> list[Tensor]:
        states = self.swinViT(x, self.normalize)
        coarser = [self.encoder10(states[4])]  # a 32nd of the resolution
        skips = (states[3], self.encoder4(states[2]), self.encoder3(states[1]), self.encoder2(states[0]))
        for up, skip in zip((self.decoder5, self.decoder4, self.decoder3, self.decoder2), skips, strict=True):
            coarser.insert(0, up(coarser[0], skip))
        logits = self.out(self.decoder1(coarser[0], self.encoder1(x)))
        if not self.training:
            return [logits]
        return [logits, *(head(features) for head, features in zip(self.coarser_heads, coarser, strict=True))]


def swin_unetr(plan: Plan, organ_count: int) -> nn.Module:
    """Swin UNETR: 62.83 million parameters with 15 organs, whatever the plan."""
    return SwinUNETR(organ_count)
