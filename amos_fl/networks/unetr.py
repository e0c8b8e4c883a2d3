"""UNETR (Hatamizadeh et al. 2022, arXiv 2103.10504), MONAI's, for patches of any size."""

import math

import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from monai.networks.nets import unetr as monai_unetr
from torch import Tensor, nn

from amos_fl.networks.anysize import AnySize, halvings
from amos_fl.networks.norms import let_single_voxels_through
from amos_fl.training.supervision import Supervision
from amos_fl.volumes.plan import Plan, Triple

TOKEN = 16
"""A token's size in voxels along each axis."""


class UNETR(AnySize, monai_unetr.UNETR):
    """MONAI's UNETR whose position embedding is that of the plan's patch, interpolated to the image at hand.

    It has deep-supervision heads at a half, a quarter and an eighth of the resolution.
    """

    divisor = (TOKEN, TOKEN, TOKEN)

    def __init__(
        self, plan: Plan, organ_count: int, *, features: int = 16, hidden: int = 768, mlp: int = 3072, heads: int = 12
    ) -> None:
        classes = 1 + organ_count
        x, y, z = (math.ceil(side / TOKEN) for side in plan.patch)
        super().__init__(
            in_channels=1,
            out_channels=classes,
            img_size=tuple(TOKEN * tokens for tokens in (x, y, z)),
            feature_size=features,
            hidden_size=hidden,
            mlp_dim=mlp,
            num_heads=heads,
            proj_type="perceptron",
            norm_name="instance",
        )
        self.grid: Triple = (x, y, z)
        let_single_voxels_through(self)
        for block in self.vit.blocks:
            block.norm_cross_attn = nn.Identity()  # MONAI makes its weights but never uses them
        self.coarser_heads = nn.ModuleList(nn.Conv3d(features * width, classes, 1) for width in (2, 4, 8))
        self.supervision = Supervision.halving(halvings(4), coarsest=True)

    def _positions(self, grid: Triple) -> Tensor:
        """The position embedding (1, tokens, hidden) of a grid of tokens."""
        embedding = self.vit.patch_embedding.position_embeddings
        if grid == self.grid:
            return embedding
        volume = embedding.transpose(1, 2).unflatten(2, self.grid)
        resized = F.interpolate(volume.float(), grid, mode="trilinear", align_corners=False)
        return resized.flatten(2).transpose(1, 2).to(embedding.dtype)

    def heads(self, x: Tensor) -> list[Tensor]:
        gx, gy, gz = (side // TOKEN for side in x.shape[2:])
        grid: Triple = (gx, gy, gz)
        embedding = self.vit.patch_embedding
        tokens = embedding.dropout(embedding.patch_embeddings(x) + self._positions(grid))
        states: list[Tensor] = []
        for block in self.vit.blocks:
            tokens = block(tokens)
            states.append(tokens)

        def volume(state: Tensor) -> Tensor:
            return state.transpose(1, 2).unflatten(2, grid).contiguous()

        eighth = self.decoder5(volume(self.vit.norm(tokens)), self.encoder4(volume(states[9])))
        quarter = self.decoder4(eighth, self.encoder3(volume(states[6])))
        half = self.decoder3(quarter, self.encoder2(volume(states[3])))
        logits = self.out(self.decoder2(half, self.encoder1(x)))
        if not self.training:
            return [logits]
        coarser = (half, quarter, eighth)
        return [logits, *(head(features) for head, features in zip(self.coarser_heads, coarser, strict=True))]
