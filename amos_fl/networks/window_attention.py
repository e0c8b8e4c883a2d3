"""Attention within shifted windows of a volume (Liu et al. 2021, arXiv 2103.14030), for grids of any size.

A grid is padded to whole windows and the padding is masked, so that no token attends to it. A window is never larger
than the grid. The bias of a pair of tokens depends on the offset between them along all three axes, and each offset has
its own row in the table; nnFormer's published code gives one row to many offsets.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from amos_fl.volumes.plan import Triple

_NO_SHIFT: Triple = (0, 0, 0)


class WindowAttention(nn.Module):
    """Multi-head attention within windows of `window` tokens along each axis.

    `forward` takes a grid of tokens (B, X, Y, Z, C) and, where keys and values come from elsewhere (`own_query`
    False: nnFormer's skip attention), a second grid for them; queries are then used as they are, without a layer.
    """

    def __init__(self, channels: int, *, heads: int, window: int, shifted: bool, own_query: bool = True) -> None:
        super().__init__()
        self.heads, self.window, self.shifted, self.own_query = heads, window, shifted, own_query
        self.inputs = nn.Linear(channels, (3 if own_query else 2) * channels)
        self.out = nn.Linear(channels, channels)
        self.bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 3, heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)

    def forward(
        self, x: Float[Tensor, "batch x y z channel"], memory: Float[Tensor, "batch x y z channel"] | None = None
    ) -> Float[Tensor, "batch x y z channel"]:
        grid: Triple = (x.shape[1], x.shape[2], x.shape[3])
        window, shift = window_and_shift(grid, self.window, self.shifted)
        if self.own_query:
            query, key, value = self.inputs(x).chunk(3, dim=-1)
        else:
            assert memory is not None
            key, value = self.inputs(memory).chunk(2, dim=-1)
            query = x.to(key.dtype)
        query, key, value = (self._windows(part, window, shift) for part in (query, key, value))
        bias = self._bias(grid, window, shift).to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.expand(*query.shape[:-1], -1))
        mixed = mixed.transpose(2, 3).flatten(3)  # (B, windows, tokens, C)
        return self.out(_joined(mixed, grid, window, shift))

    def _windows(self, x: Tensor, window: Triple, shift: Triple) -> Tensor:
        """(B, windows, heads, tokens of a window, channels of a head)."""
        parted = _parted(x, window, shift)
        return parted.unflatten(3, (self.heads, -1)).transpose(2, 3)

    def _bias(self, grid: Triple, window: Triple, shift: Triple) -> Tensor:
        """The bias added before the softmax: (windows or 1, heads, tokens, tokens)."""
        index = relative_index(window, self.window, self.bias_table.device)
        bias = self.bias_table[index].permute(2, 0, 1)[None]
        apart = masked_pairs(grid, window, shift, self.bias_table.device)
        return bias if apart is None else bias.masked_fill(apart[:, None], -torch.inf)


def window_and_shift(grid: Triple, window: int, shifted: bool) -> tuple[Triple, Triple]:
    """The window on this grid, and by how much it is shifted: by half, unless an axis is not longer than a window.

    >>> window_and_shift((16, 8, 8), 4, True), window_and_shift((4, 2, 2), 4, True)
    (((4, 4, 4), (2, 2, 2)), ((4, 2, 2), (0, 0, 0)))
    """
    x, y, z = (min(window, side) for side in grid)
    shift = window // 2 if shifted and min(grid) > window else 0
    return (x, y, z), (shift, shift, shift)


def _whole(grid: Triple, window: Triple) -> Triple:
    x, y, z = (-(-side // w) * w for side, w in zip(grid, window, strict=True))
    return (x, y, z)


def _parted(x: Float[Tensor, "batch x y z channel"], window: Triple, shift: Triple) -> Tensor:
    """A grid as windows (B, windows, tokens of a window, C), padded to whole ones and rolled by `shift`."""
    grid: Triple = (x.shape[1], x.shape[2], x.shape[3])
    whole = _whole(grid, window)
    if whole != grid:
        x = F.pad(x, [0, 0, 0, whole[2] - grid[2], 0, whole[1] - grid[1], 0, whole[0] - grid[0]])
    if shift != _NO_SHIFT:
        x = x.roll([-s for s in shift], (1, 2, 3))
    (nx, ny, nz), (wx, wy, wz) = (n // w for n, w in zip(whole, window, strict=True)), window
    x = x.view(x.shape[0], nx, wx, ny, wy, nz, wz, -1).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(x.shape[0], nx * ny * nz, wx * wy * wz, -1)


def _joined(windows: Tensor, grid: Triple, window: Triple, shift: Triple) -> Tensor:
    """Reassemble the windows of `_parted`, without padding."""
    (x, y, z), (wx, wy, wz) = _whole(grid, window), window
    joined = windows.view(windows.shape[0], x // wx, y // wy, z // wz, wx, wy, wz, -1).permute(0, 1, 4, 2, 5, 3, 6, 7)
    joined = joined.reshape(windows.shape[0], x, y, z, -1)
    if shift != _NO_SHIFT:
        joined = joined.roll(shift, (1, 2, 3))
    return joined[:, : grid[0], : grid[1], : grid[2]]


@lru_cache(maxsize=64)
def relative_index(window: Triple, full: int, device: torch.device) -> Int[Tensor, "token token"]:
    """The row in the bias table for windows of `full` tokens, for each pair of tokens in a possibly smaller window.

    >>> index = relative_index((2, 1, 2), 2, torch.device("cpu"))
    >>> index.tolist()[0]  # from the first token to each: offsets (0, 0, 0), (0, 0, -1), (-1, 0, 0), (-1, 0, -1)
    [13, 12, 4, 3]
    """
    with torch.inference_mode(False):
        axes = [torch.arange(side, device=device) for side in window]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)  # (3, tokens)
        dx, dy, dz = (places[:, :, None] - places[:, None, :]) + (full - 1)
        span = 2 * full - 1
        return (dx * span + dy) * span + dz


@lru_cache(maxsize=64)
def masked_pairs(
    grid: Triple, window: Triple, shift: Triple, device: torch.device
) -> Bool[Tensor, "window token token"] | None:
    """Per window the pairs of tokens that must not attend to each other: padding, and tokens joined by rolling.

    None if there are none.
    """
    whole = _whole(grid, window)
    if whole == grid and shift == _NO_SHIFT:
        return None
    with torch.inference_mode(False):
        region = torch.zeros(whole, dtype=torch.long, device=device)
        padding = torch.zeros(whole, dtype=torch.bool, device=device)
        for axis in range(3):
            place = torch.arange(whole[axis], device=device)
            view = [1, 1, 1]
            view[axis] = -1
            padding |= (place >= grid[axis]).view(view)
            region += (place < shift[axis]).long().view(view) << axis  # these wrap around to the far end
        region += padding.long() * 8
        parted = _parted(region[None, ..., None], window, shift)[0, :, :, 0]
        return parted[:, :, None] != parted[:, None, :]
