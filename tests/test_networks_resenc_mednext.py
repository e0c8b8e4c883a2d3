"""nnU-Net's residual encoder and MedNeXt: blocks and whole networks against plain restatements, plans, and training."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from monai.networks.nets.mednext import MedNeXt as MonaiMedNeXt
from narrow_networks import NARROW
from synthetic_cases import TINY
from torch import nn

from amos_fl.api.settings import resolve_run
from amos_fl.cohort.table import Cohort, write_cohort
from amos_fl.networks.mednext import MedNeXt
from amos_fl.networks.registry import outline
from amos_fl.networks.resenc import ResEnc, ResidualBlock
from amos_fl.planning.planner import memory_gb, patch_for
from amos_fl.runs.layers import Layer
from amos_fl.training.loss import DiceCrossEntropy
from amos_fl.volumes.plan import PLANS, Plan, Triple, isotropic


def randomised(network: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
    return network


def image(*size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("outputs", "kernel", "stride"), [(4, (3, 3, 3), (1, 1, 1)), (4, (3, 3, 1), (2, 2, 1)), (6, (3, 3, 3), (2, 2, 2))]
)
def test_a_residual_block_pools_its_shortcut_and_convolves_it_where_it_is_widened(
    outputs: int, kernel: Triple, stride: Triple
) -> None:
    block = randomised(ResidualBlock(4, outputs, kernel, stride))
    x = image(2, 4, 8, 8, 4)
    named = dict(block.named_parameters())
    padding = tuple(side // 2 for side in kernel)

    def normalised(y: torch.Tensor, layer: str) -> torch.Tensor:
        y = (y - y.mean((2, 3, 4), keepdim=True)) / (y.var((2, 3, 4), correction=0, keepdim=True) + 1e-5).sqrt()
        return y * named[f"{layer}.weight"].view(-1, 1, 1, 1) + named[f"{layer}.bias"].view(-1, 1, 1, 1)

    first = F.conv3d(x, named["convolutions.0.weight"], named["convolutions.0.bias"], stride, padding)
    first = F.leaky_relu(normalised(first, "convolutions.1"), 0.01)
    second = F.conv3d(first, named["convolutions.3.weight"], named["convolutions.3.bias"], 1, padding)
    shortcut = F.avg_pool3d(x, stride)
    if outputs != 4:
        at = len(block.shortcut) - 2  # pyright: ignore[reportArgumentType]
        shortcut = normalised(F.conv3d(shortcut, named[f"shortcut.{at}.weight"]), f"shortcut.{at + 1}")
    expected = F.leaky_relu(normalised(second, "convolutions.4") + shortcut, 0.01)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_residual_blocks_begin_as_their_shortcuts_and_other_weights_are_he_normal() -> None:
    torch.manual_seed(0)
    network = ResEnc(TINY, 3, [16, 32, 32], [1, 2, 2])
    block = network.get_submodule("stages.1.1")
    x = image(1, 32, 4, 4, 4)
    assert torch.equal(block(x), F.leaky_relu(x, 0.01))
    weight = network.get_parameter("stages.1.1.convolutions.0.weight")
    assert weight.std().item() == pytest.approx((2 / (1 + 0.01**2) / weight[0].numel()) ** 0.5, rel=0.02)
    assert not any(p.any() for name, p in network.named_parameters() if name.endswith("convolutions.0.bias"))


@pytest.mark.parametrize("kernel", [3, 5])
def test_mednext_is_monais_where_both_pool_alike_and_computing_blocks_again_changes_nothing(kernel: int) -> None:
    """All blocks are equally wide here, so that MONAI's widths are those of the authors."""
    plan = Plan(spacing_mm=(1, 1, 1), patch=(32, 32, 32), **isotropic(5))
    ours = MedNeXt(plan, 2, kernel, width=2, expansions=[2] * 9, blocks=[1] * 9).double().train()
    theirs = MonaiMedNeXt(
        init_filters=2,
        out_channels=3,
        kernel_size=kernel,
        deep_supervision=True,
        use_residual_connection=True,
        blocks_down=[1] * 4,
        blocks_bottleneck=1,
        blocks_up=[1] * 4,
    ).double()
    theirs.load_state_dict(ours.state_dict())
    x = image(1, 1, 32, 32, 32).double()
    heads, expected = ours(x), theirs(x)
    loss, expected_loss = (sum(head.square().mean() for head in found) for found in (heads, expected))
    for one, other in zip(heads, expected, strict=True):
        torch.testing.assert_close(one, other)
    loss.backward()
    expected_loss.backward()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


@pytest.mark.parametrize("name", ["amos-ct", "amos-mr", "coarse"])
def test_mednext_pools_where_the_plan_does_four_times_at_most(name: str) -> None:
    plan = PLANS[name]
    network = NARROW["mednext-l"](plan, 3).train()
    sides = np.array(network.divisor) * 2
    with torch.no_grad():
        heads = network(image(1, 1, *sides.tolist()))
    strides = [*plan.strides[:5], *[(1, 1, 1)] * 4][:5]
    expected = [tuple(sides // stride) for stride in np.cumprod(strides, axis=0)]
    assert [tuple(head.shape[2:]) for head in heads] == expected


@pytest.mark.parametrize("model", ["resenc-m", "mednext-l", "mednext-l-k3"])
def test_training_lowers_the_loss_and_reaches_every_parameter(model: str) -> None:
    torch.manual_seed(0)
    network = NARROW[model](TINY, 2).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    x, label = image(2, 1, 16, 16, 16), torch.zeros(2, 16, 16, 16, dtype=torch.long)
    label[:, 4:10, 4:10, 4:10] = 1
    label[:, 11:, 2:9] = 2
    annotated = torch.ones(2, 3, dtype=torch.bool)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = DiceCrossEntropy(supervision=network.supervision)(network(x), label, annotated)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    last = len(network.supervision.weights) - 1
    unused = {f"out.{last}.weight", f"out.{last}.bias"} if network.supervision.weights[-1] == 0 else set()
    # A bias that instance normalisation removes again gets none but rounding; that it gets any, is enough.
    assert {name for name, p in network.named_parameters() if p.grad is None} == unused
    assert all(p.grad.any() for name, p in network.named_parameters() if name not in unused and "weight" in name)


# nnU-Net's planners of ResEnc M and L: the numbers in all feature maps of convolutions that 8 and 24 GB allow.
ALLOWED = {8: 680e6, 24: 2100e6}


def feature_maps(plan: Plan) -> int:
    """The numbers in the output of every convolution, and of every shortcut that only pools, for one patch."""
    network, found = outline("resenc-m", plan, 15).train(), []
    for layer in network.modules():
        if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
            layer.register_forward_hook(lambda *call: found.append(call[2].numel()))
        elif isinstance(layer, ResidualBlock) and len(layer.shortcut) == 1:
            layer.shortcut.register_forward_hook(lambda *call: found.append(call[2].numel()))
    with torch.device("meta"), torch.no_grad():
        network(torch.empty(1, 1, *plan.patch))
    return sum(found)


@pytest.mark.parametrize("gigabytes", ALLOWED)
@pytest.mark.parametrize(
    ("spacing", "shape"),
    [((2.0, 0.69, 0.69), (245, 512, 512)), ((3.0, 1.1875, 1.1875), (72, 260, 320)), ((1, 1, 1), (155, 240, 240))],
)
def test_plans_for_8_and_24_gb_are_those_of_resenc_m_and_l(
    gigabytes: int, spacing: tuple[float, float, float], shape: Triple
) -> None:
    patch, pooling = patch_for(np.array(spacing), np.array(shape), 15, gigabytes)
    plan = Plan(spacing_mm=spacing, patch=patch, strides=pooling.strides, kernels=pooling.kernels)
    assert memory_gb(plan, 15) <= gigabytes
    assert 0.75 * ALLOWED[gigabytes] < feature_maps(plan) < 1.05 * ALLOWED[gigabytes]


@pytest.mark.parametrize("sites", [("A", "G"), ("G",)], ids=["CT and MR", "MR alone"])
def test_resenc_l_is_planned_for_24_gb_and_resenc_m_takes_amoss_plan(
    sites: tuple[str, ...], tiny_cohort: Cohort, tmp_path: Path
) -> None:
    write_cohort(tiny_cohort.only(sites), tmp_path / "cohort.csv")
    given = {"cohort": str(tmp_path)}
    large, _ = resolve_run([Layer("command line", {**given, "model": "resenc-l"})])
    assert large.lacks_plan
    assert large.planning.memory_gb == 24
    medium, _ = resolve_run([Layer("command line", {**given, "model": "resenc-m"})])
    assert medium.plan.name == ("amos-ct" if "A" in sites else "amos-mr")
