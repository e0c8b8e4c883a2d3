"""nnFormer (Zhou et al. 2021, arXiv 2109.03201): convolutions for tokens, windows of attention, skip attention.

Written from the description; `window_attention.py` says where it differs from the published code.
"""

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from monai.networks.layers.drop_path import DropPath
from torch import Tensor, nn

from amos_fl.networks.anysize import AnySize, across, halvings, thin_axis
from amos_fl.networks.window_attention import WindowAttention
from amos_fl.training.supervision import Supervision
from amos_fl.volumes.plan import Plan, Triple

# Volumes are (B, X, Y, Z, C) here, because layer norms and linear layers read the last axis; convolutions transpose.


def _convolved(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x.movedim(-1, 1)).movedim(1, -1)


class Convolution(nn.Module):
    """A 3x3x3 convolution of channels-last tokens, optionally followed by GELU and layer normalisation."""

    def __init__(self, inputs: int, outputs: int, stride: Triple | int = 1, *, finished: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, stride, padding=1)
        self.finish = nn.Sequential(nn.GELU(), nn.LayerNorm(outputs)) if finished else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(_convolved(self.conv, x))


class Block(nn.Module):
    """Windowed attention, then two linear layers; each normalised before and added.

    With a `memory` (B, X, Y, Z, C) it is skip attention: `query` attends to it, and the result is added to `x`.
    """

    def __init__(
        self, channels: int, *, heads: int, window: int, shifted: bool, drop_path: float, skip: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads=heads, window=window, shifted=shifted, own_query=not skip)
        self.norm2 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, 4 * channels)
        self.linear2 = nn.Linear(4 * channels, channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, query: Tensor | None = None, memory: Tensor | None = None) -> Tensor:
        if memory is None:
            found = self.attention(self.norm1(x))
        else:
            found = self.attention(self.norm1(query), self.norm1(memory))
        x = x + self.drop_path(found)
        return x + self.drop_path(self.linear2(F.gelu(self.linear1(self.norm2(x)))))


class Down(nn.Module):
    """Half the resolution, twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = nn.Conv3d(channels, 2 * channels, 3, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return _convolved(self.conv, self.norm(F.gelu(x)))


class Up(nn.Module):
    """Twice the resolution, half the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * channels)
        self.conv = nn.ConvTranspose3d(2 * channels, channels, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return _convolved(self.conv, self.norm(x))


class NnFormer(AnySize):
    """nnFormer with two coarser heads.

    A token covers 4x4x2 voxels, 2 along the axis of thick slices (the plan's `thin_axis`).
    """

    def __init__(
        self,
        plan: Plan,
        organ_count: int,
        *,
        width: int = 192,
        heads: Sequence[int] = (6, 12, 24, 48),
        windows: Sequence[int] = (4, 4, 8, 4),
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        thin, stages = thin_axis(plan), len(heads)
        token = across(thin, 2, 4)
        reduction = 2 ** (stages - 1)
        self.divisor = (token[0] * reduction, token[1] * reduction, token[2] * reduction)
        self.supervision = Supervision.halving(halvings(stages - 1))
        widths = [width << stage for stage in range(stages)]
        rates = [drop_path * block / (2 * stages - 1) for block in range(2 * stages)]
        self.embedding = nn.Sequential(
            Convolution(1, width // 2, 2),
            Convolution(width // 2, width // 2),
            Convolution(width // 2, width, across(thin, 1, 2)),
            Convolution(width, width, finished=False),
            nn.LayerNorm(width),
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(Block(c, heads=h, window=w, shifted=bool(b), drop_path=rates[2 * stage + b]) for b in (0, 1))
            )
            for stage, (c, h, w) in enumerate(zip(widths, heads, windows, strict=True))
        )
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in widths)
        self.downs = nn.ModuleList(Down(c) for c in widths[:-1])
        self.ups = nn.ModuleList(Up(c) for c in widths[:-1])
        rows = [(*row, rates[2 * i : 2 * i + 2]) for i, row in enumerate(zip(widths, heads, windows, strict=True))][:-1]
        self.looking = nn.ModuleList(
            Block(c, heads=h, window=w, shifted=False, drop_path=rate[0], skip=True) for c, h, w, rate in rows
        )
        self.plain = nn.ModuleList(
            Block(c, heads=h, window=w, shifted=True, drop_path=rate[1]) for c, h, w, rate in rows
        )
        classes = 1 + organ_count
        self.logits = nn.ModuleList(nn.ConvTranspose3d(c, classes, token, token) for c in widths[:-1])
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def heads(self, x: Tensor) -> list[Tensor]:
        tokens = self.embedding(x.movedim(1, -1))
        skips: list[Tensor] = []
        for stage, blocks in enumerate(self.stages):
            tokens = blocks(tokens)
            skips.append(self.norms[stage](tokens))
            if stage < len(self.downs):
                tokens = self.downs[stage](tokens)
        tokens = skips.pop()
        outputs: list[Tensor] = []
        for stage in reversed(range(len(skips))):
            up, skip = self.ups[stage](tokens), skips[stage]
            tokens = self.plain[stage](self.looking[stage](up + skip, up, skip))
            if self.training or stage == 0:
                outputs.insert(0, self.logits[stage](tokens.movedim(-1, 1)))
        return outputs
