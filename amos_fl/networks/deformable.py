"""Multi-scale deformable attention in 3D (Zhu et al. 2021, arXiv 2010.04159; CoTr: Xie et al. 2021, arXiv 2103.03024).

Every query attends to a few points per level, near its own position, instead of to all tokens. Written from the
description. Sampling coordinates are in the order in which `grid_sample` reads them, the last axis of the volume first;
CoTr's published code gives them in the opposite order and so samples at transposed positions.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from jaxtyping import Float
from torch import Tensor, nn

from amos_fl.volumes.plan import Triple


class DeformableAttention(nn.Module):
    """`heads` heads that sample `points` points on each of `levels` volumes.

    `forward` takes queries (B, N, C), values (B, N, C) and the shapes of the levels, whose tokens lie one level after
    another in N, each in the order of its axes. It returns (B, N, C).
    """

    def __init__(self, channels: int, *, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.value = nn.Linear(channels, channels)
        self.offsets = nn.Linear(channels, heads * levels * points * 3)
        self.weights = nn.Linear(channels, heads * levels * points)
        self.out = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each head starts with its own direction, point p at a distance of p voxels; all points have equal weight."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin() * angles.cos(), angles.sin() ** 2], dim=1)  # (heads, 3)
        directions = directions / directions.abs().amax(1, keepdim=True)
        distances = torch.arange(1, self.points + 1)[:, None]
        bias = (directions[:, None, None] * distances).expand(-1, self.levels, -1, -1)  # (heads, levels, points, 3)
        with torch.no_grad():
            self.offsets.bias.copy_(bias.flatten())
        for parameter in (self.offsets.weight, self.weights.weight, self.weights.bias, self.value.bias, self.out.bias):
            nn.init.zeros_(parameter)
        nn.init.xavier_uniform_(self.value.weight)
        nn.init.xavier_uniform_(self.out.weight)

    def forward(
        self,
        query: Float[Tensor, "batch token channel"],
        value: Float[Tensor, "batch token channel"],
        shapes: Sequence[Triple],
    ) -> Float[Tensor, "batch token channel"]:
        batch, tokens, channels = query.shape
        parts = self.value(value).split([math.prod(shape) for shape in shapes], dim=1)
        offsets = self.offsets(query).view(batch, tokens, self.heads, self.levels, self.points, 3)
        shares = self.weights(query).view(batch, tokens, self.heads, self.levels * self.points).softmax(-1)
        # Interpolation in half precision would lose the position within a voxel.
        with _full_precision(query.device):
            centres = token_centres(tuple(shapes), query.device)  # (tokens, 3), last axis of the volume first
            sampled: list[Tensor] = []
            for level, (part, shape) in enumerate(zip(parts, shapes, strict=True)):
                volume = part.float().view(batch, *shape, self.heads, -1).permute(0, 4, 5, 1, 2, 3)
                size = torch.tensor(shape[::-1], dtype=torch.float32, device=query.device)
                places = (
                    centres[:, None, None] + offsets[:, :, :, level].float() / size
                )  # (B, tokens, heads, points, 3)
                grid = 2 * places.permute(0, 2, 1, 3, 4).flatten(0, 1)[:, None] - 1  # (B * heads, 1, tokens, points, 3)
                seen = F.grid_sample(volume.flatten(0, 1), grid, padding_mode="zeros", align_corners=False)
                sampled.append(seen[:, :, 0])  # (B * heads, channels of a head, tokens, points)
            shares = shares.float().permute(0, 2, 1, 3).flatten(0, 1)[:, None]
            mixed = (torch.cat(sampled, -1) * shares).sum(-1)  # (B * heads, channels of a head, tokens)
        return self.out(mixed.view(batch, channels, tokens).transpose(1, 2).to(query.dtype))


def _full_precision(device: torch.device) -> AbstractContextManager[object]:
    known = torch.amp.is_autocast_available(device.type)  # `meta` has none
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def token_centres(shapes: tuple[Triple, ...], device: torch.device) -> Float[Tensor, "token 3"]:
    """The middle of every token's voxel in its own volume, from 0 to 1, the volume's last axis first.

    >>> token_centres(((1, 1, 2),), torch.device("cpu"))
    tensor([[0.2500, 0.5000, 0.5000],
            [0.7500, 0.5000, 0.5000]])
    """
    centres = []
    for shape in shapes:
        axes = [(torch.arange(n, dtype=torch.float32, device=device) + 0.5) / n for n in shape]
        centres.append(torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1).flatten(0, 2))
    return torch.cat(centres)


def sine_positions(shape: Triple, channels: int, device: torch.device) -> Float[Tensor, "token channel"]:
    """A sine encoding of every token's position, a third of the channels per axis (Vaswani et al. 2017, sec. 3.5).

    Coordinates are those of the voxels' middles from 0 to 2 pi; sines and cosines alternate.
    """
    each = channels // 3
    rates = 10_000.0 ** (torch.arange(0, each, 2, device=device) / each)
    axes = []
    for axis, n in enumerate(shape):
        places = (torch.arange(n, dtype=torch.float32, device=device) + 0.5) / n * 2 * math.pi
        waves = places[:, None] / rates
        code = torch.stack([waves.sin(), waves.cos()], -1).flatten(1)  # (n, each)
        view = [1, 1, 1, each]
        view[axis] = n
        axes.append(code.view(view).expand(*shape, each))
    return torch.cat(axes, -1).flatten(0, 2)
