"""CoTr (Xie et al. 2021, arXiv 2103.03024): a residual encoder, a deformable transformer on its two coarsest levels,
a decoder. Written from the description; see `deformable.py` for where it differs from the published code.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from amos_fl.networks.anysize import AnySize, across, halvings, thin_axis
from amos_fl.networks.deformable import DeformableAttention, sine_positions
from amos_fl.training.supervision import Supervision
from amos_fl.volumes.plan import Plan, Triple


def _norm_act(channels: int) -> list[nn.Module]:
    return [nn.InstanceNorm3d(channels, affine=True), nn.LeakyReLU(0.01, inplace=True)]


class EncoderBlock(nn.Module):
    """One convolution and a shortcut, added and then activated; the shortcut convolves where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm = nn.InstanceNorm3d(outputs, affine=True)
        self.shortcut = (
            nn.Identity()
            if inputs == outputs and stride == 1
            else nn.Sequential(
                nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.InstanceNorm3d(outputs, affine=True)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)) + self.shortcut(x), 0.01, inplace=True)


class DecoderBlock(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        convolutions = [
            layer
            for _ in range(2)
            for layer in (nn.Conv3d(channels, channels, 3, padding=1, bias=False), *_norm_act(channels))
        ]
        self.convolutions = nn.Sequential(*convolutions)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolutions(x)


class EncoderLayer(nn.Module):
    """A transformer layer: deformable attention, then two linear layers; each added and normalised after."""

    def __init__(self, channels: int, *, heads: int, levels: int, points: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = DeformableAttention(channels, heads=heads, levels=levels, points=points)
        self.norm1 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, shapes: Sequence[Triple]) -> Tensor:
        x = self.norm1(x + self.dropout(self.attention(x + positions, x, shapes)))
        return self.norm2(x + self.dropout(self.linear2(self.dropout(F.gelu(self.linear1(x))))))


class CoTr(AnySize):
    """CoTr with instance normalisation and leaky ReLU, as its authors train it, and three coarser heads.

    The stem does not halve the axis of thick slices; that is the plan's `thin_axis`.
    """

    def __init__(
        self,
        plan: Plan,
        organ_count: int,
        *,
        widths: tuple[int, int, int] = (64, 192, 384),
        layers: int = 6,
        heads: int = 6,
        points: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        classes, thin = 1 + organ_count, thin_axis(plan)
        narrow, middle, wide = widths
        self.stem_stride = across(thin, 1, 2)
        self.divisor = across(thin, 8, 16)
        self.supervision = Supervision.halving([(1, 1, 1), *halvings(3, self.stem_stride)], coarsest=True)
        stem = nn.Conv3d(1, narrow, 7, self.stem_stride, padding=3, bias=False)
        self.stem = nn.Sequential(stem, *_norm_act(narrow))
        self.stages = nn.ModuleList(
            nn.Sequential(EncoderBlock(inputs, outputs, 2), *(EncoderBlock(outputs, outputs, 1) for _ in range(more)))
            for inputs, outputs, more in ((narrow, middle, 2), (middle, wide, 2), (wide, wide, 1))
        )
        self.level_embedding = nn.Parameter(torch.empty(2, wide))
        self.transformer = nn.ModuleList(
            EncoderLayer(wide, heads=heads, levels=2, points=points, hidden=4 * wide, dropout=dropout)
            for _ in range(layers)
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(inputs, outputs, 2, 2, bias=False)
            for inputs, outputs in ((wide, wide), (wide, middle), (middle, narrow))
        )
        self.decoders = nn.ModuleList(DecoderBlock(channels) for channels in (wide, middle, narrow))
        self.out = nn.Conv3d(narrow, classes, 1)
        self.coarser_heads = nn.ModuleList(nn.Conv3d(channels, classes, 1) for channels in (narrow, middle, wide))
        self._draw_weights()

    def _draw_weights(self) -> None:
        for layer in self.modules():
            if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
                nn.init.kaiming_normal_(layer.weight, a=0.01, mode="fan_out", nonlinearity="leaky_relu")
            elif isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
        for layer in self.modules():
            if isinstance(layer, DeformableAttention):
                layer.reset_parameters()
        nn.init.normal_(self.level_embedding)

    def _attend(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Volumes (B, C, ...) of two levels, after attending to one another."""
        sizes = [level.shape[2:] for level in levels]
        shapes: list[Triple] = [(x, y, z) for x, y, z in sizes]
        channels, device = levels[0].shape[1], levels[0].device
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1)
        positions = torch.cat(
            [
                sine_positions(shape, channels, device) + embedding
                for shape, embedding in zip(shapes, self.level_embedding, strict=True)
            ]
        )
        for layer in self.transformer:
            tokens = layer(tokens, positions, shapes)
        parts = tokens.transpose(1, 2).split([size.numel() for size in sizes], dim=2)
        return [part.unflatten(2, shape).contiguous() for part, shape in zip(parts, shapes, strict=True)]

    def heads(self, x: Tensor) -> list[Tensor]:
        skips = [self.stem(x)]
        for stage in self.stages:
            skips.append(stage(skips[-1]))
        skips[2:] = self._attend(skips[2:])
        x = skips.pop()
        coarser: list[Tensor] = []
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = decoder(up(x) + skips.pop())
            coarser.insert(0, x)
        scale = [float(stride) for stride in self.stem_stride]
        logits = self.out(F.interpolate(x, scale_factor=scale, mode="trilinear", align_corners=False))
        if not self.training:
            return [logits]
        return [logits, *(head(features) for head, features in zip(self.coarser_heads, coarser, strict=True))]
