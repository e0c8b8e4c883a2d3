"""The attention that is written here, against plain loops that share nothing with it, values and gradients alike."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from amos_fl.networks.cotr import EncoderBlock
from amos_fl.networks.deformable import DeformableAttention
from amos_fl.networks.window_attention import WindowAttention, relative_index, window_and_shift
from amos_fl.volumes.plan import Triple

CPU = torch.device("cpu")


def randomised(layer: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype))
    return layer.double()


def trilinear(volume: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The value of (X, Y, Z, C) at a point in voxels, 0 outside of the volume."""
    total = torch.zeros(volume.shape[-1], dtype=volume.dtype)
    base = [math.floor(place.item()) for place in (x, y, z)]
    for corner in itertools.product((0, 1), repeat=3):
        voxel = [b + c for b, c in zip(base, corner, strict=True)]
        if all(0 <= v < n for v, n in zip(voxel, volume.shape[:3], strict=True)):
            share = torch.ones((), dtype=volume.dtype)
            for place, v in zip((x, y, z), voxel, strict=True):
                share = share * (1 - (place - v).abs())
            total = total + share * volume[voxel[0], voxel[1], voxel[2]]
    return total


def plain_deformable(layer: DeformableAttention, query: Tensor, value: Tensor, shapes: list[Triple]) -> Tensor:
    """Zhu et al. 2021, eq. 3, one query, head, level and point after another."""
    per_head = query.shape[-1] // layer.heads
    places = [(level, p) for level, shape in enumerate(shapes) for p in itertools.product(*map(range, shape))]
    starts = [sum(math.prod(shape) for shape in shapes[:level]) for level in range(len(shapes))]
    results = []
    for b in range(len(query)):
        values = layer.value(value[b])
        for q, (home, place) in enumerate(places):
            centre = [(p + 0.5) / n for p, n in zip(place, shapes[home], strict=True)]
            offsets = layer.offsets(query[b, q]).view(layer.heads, layer.levels, layer.points, 3)
            shares = layer.weights(query[b, q]).view(layer.heads, -1).softmax(-1).view(offsets.shape[:-1])
            heads = []
            for head in range(layer.heads):
                total = torch.zeros(per_head, dtype=query.dtype)
                for level, shape in enumerate(shapes):
                    stop = starts[level] + math.prod(shape)
                    volume = values[starts[level] : stop, head * per_head : (head + 1) * per_head].view(*shape, -1)
                    for point in range(layer.points):
                        # The last number of an offset is along the first axis.
                        dz, dy, dx = offsets[head, level, point]
                        at = [c * n - 0.5 + d for c, n, d in zip(centre, shape, (dx, dy, dz), strict=True)]
                        total = total + shares[head, level, point] * trilinear(volume, *at)
                heads.append(total)
            results.append(layer.out(torch.cat(heads)))
    return torch.stack(results).view_as(query)


def test_deformable_attention_is_what_its_equation_says() -> None:
    shapes: list[Triple] = [(3, 2, 4), (2, 1, 2)]
    layer = randomised(DeformableAttention(6, heads=2, levels=2, points=2))
    draw = torch.Generator().manual_seed(1)
    tokens = sum(math.prod(shape) for shape in shapes)
    query, value = (torch.randn(2, tokens, 6, generator=draw, dtype=torch.float64) for _ in "12")
    inputs = [query.requires_grad_(), value.requires_grad_(), *layer.parameters()]
    ours, plain = layer(query, value, shapes), plain_deformable(layer, query, value, shapes)
    # Sampling is in single precision on purpose.
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    weights = torch.randn(ours.shape, generator=draw, dtype=torch.float64)
    for mine, theirs in zip(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((plain * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


def test_deformable_attention_looks_along_the_axis_that_it_means() -> None:
    """An offset along one axis brings the value of the neighbour on that axis, on a volume with no two sides alike."""
    shape: Triple = (3, 4, 5)
    layer = DeformableAttention(1, heads=1, levels=1, points=1)
    with torch.no_grad():
        layer.value.weight.fill_(1)
        layer.out.weight.fill_(1)
    values = torch.arange(60.0).view(1, 60, 1)
    middle = values.view(shape)[1, 1, 2].item()
    for axis, stride in enumerate((20, 5, 1)):
        with torch.no_grad():
            layer.offsets.bias.copy_(torch.eye(3)[2 - axis])
        found = layer(torch.zeros(1, 60, 1), values, [shape]).view(shape)[1, 1, 2].item()
        assert found == pytest.approx(middle + stride, abs=1e-3), axis


@pytest.mark.parametrize(("outputs", "stride"), [(4, 1), (6, 2)])
def test_a_block_of_cotr_adds_its_shortcut_before_it_is_activated(outputs: int, stride: int) -> None:
    block = randomised(EncoderBlock(4, outputs, stride))
    x = torch.randn(2, 4, 6, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    added = block.norm(block.conv(x)) + block.shortcut(x)
    assert (added < 0).any()
    torch.testing.assert_close(block(x), torch.where(added < 0, 0.01 * added, added))


def test_heads_begin_in_directions_of_their_own_and_points_at_growing_distance() -> None:
    layer = DeformableAttention(12, heads=6, levels=2, points=4)
    offsets = layer.offsets.bias.detach().view(6, 2, 4, 3)
    torch.testing.assert_close(offsets.abs().amax(-1)[:, :, :], torch.arange(1.0, 5).expand(6, 2, 4))
    directions = offsets[:, 0, 0]
    assert len({tuple(round(v, 3) for v in direction) for direction in directions.tolist()}) == 6


def plain_windows(layer: WindowAttention, query_grid: Tensor, memory: Tensor) -> Tensor:
    """Attention of every token to those of its window, one token after another, without padding, rolling or masks."""
    grid: Triple = tuple(query_grid.shape[1:4])  # pyright: ignore[reportAssignmentType]
    channels = query_grid.shape[-1]
    window, shift = window_and_shift(grid, layer.window, layer.shifted)
    span = 2 * layer.window - 1
    tokens = list(itertools.product(*map(range, grid)))
    # Windows begin `shift` after the grid does; what lies before belongs to a window of its own.
    home = {t: tuple((p - s) // w for p, s, w in zip(t, shift, window, strict=True)) for t in tokens}
    out = torch.zeros_like(query_grid)
    if layer.own_query:
        query, key, value = layer.inputs(query_grid).split(channels, -1)
    else:
        query, (key, value) = query_grid, layer.inputs(memory).split(channels, -1)
    per_head = channels // layer.heads
    rows = []
    for b in range(len(query_grid)):
        for t in tokens:
            seen = [u for u in tokens if home[u] == home[t]]
            heads = []
            for head in range(layer.heads):
                part = slice(head * per_head, (head + 1) * per_head)
                scores = []
                for u in seen:
                    x, y, z = (a - c + layer.window - 1 for a, c in zip(t, u, strict=True))
                    bias = layer.bias_table[(x * span + y) * span + z, head]
                    scores.append((query[b, *t][part] * key[b, *u][part]).sum() / per_head**0.5 + bias)
                shares = torch.stack(scores).softmax(0)
                heads.append(sum(share * value[b, *u][part] for share, u in zip(shares, seen, strict=True)))
            rows.append(torch.cat(heads))  # pyright: ignore[reportArgumentType]
    return layer.out(torch.stack(rows).view_as(out))


@pytest.mark.parametrize("grid", [(4, 4, 2), (5, 3, 4), (1, 2, 3)], ids=str)
@pytest.mark.parametrize("kind", ["plain", "shifted", "skip"])
def test_attention_in_windows_is_attention_among_the_tokens_of_a_window(grid: Triple, kind: str) -> None:
    layer = randomised(WindowAttention(4, heads=2, window=2, shifted=kind == "shifted", own_query=kind != "skip"))
    draw = torch.Generator().manual_seed(1)
    query, memory = (torch.randn(1, *grid, 4, generator=draw, dtype=torch.float64).requires_grad_() for _ in "12")
    ours = layer(query, None if layer.own_query else memory)
    plain = plain_windows(layer, query, memory)
    torch.testing.assert_close(ours, plain)
    inputs = [query, *([] if layer.own_query else [memory]), *layer.parameters()]
    weights = torch.randn(ours.shape, generator=draw, dtype=torch.float64)
    for mine, theirs in zip(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((plain * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("skip", [False, True])
def test_the_gradients_of_window_attention_are_those_of_finite_differences(skip: bool) -> None:
    layer = randomised(WindowAttention(2, heads=1, window=2, shifted=not skip, own_query=not skip))
    x, memory = (torch.randn(1, 3, 2, 3, 2, dtype=torch.float64, requires_grad=True) for _ in "12")
    assert torch.autograd.gradcheck(lambda a, b: layer(a, b if skip else None), (x, memory))


@pytest.mark.parametrize("window", [2, 4])
def test_every_offset_between_two_tokens_has_a_row_of_its_own(window: int) -> None:
    index = relative_index((window,) * 3, window, CPU)
    tokens = list(itertools.product(range(window), repeat=3))
    rows: dict[int, set[tuple[int, ...]]] = {}
    for i, j in itertools.product(range(len(tokens)), repeat=2):
        offset = tuple(a - b for a, b in zip(tokens[i], tokens[j], strict=True))
        rows.setdefault(int(index[i, j]), set()).add(offset)
    assert sorted(rows) == list(range((2 * window - 1) ** 3))
    assert all(len(offsets) == 1 for offsets in rows.values())


def test_a_smaller_window_uses_the_rows_of_the_same_offsets() -> None:
    whole, part = relative_index((4, 4, 4), 4, CPU), relative_index((2, 4, 3), 4, CPU)
    tokens = {t: i for i, t in enumerate(itertools.product(range(4), repeat=3))}
    chosen = [tokens[t] for t in itertools.product(range(2), range(4), range(3))]
    assert torch.equal(part, whole[chosen][:, chosen])
