"""The networks: their sizes, their outputs and their weights as a function of the seed."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from amos_fl.errors import AmosError
from amos_fl.networks.catalogue import NETWORKS
from amos_fl.networks.registry import build_network, check_own_network, outline, parameter_count
from amos_fl.volumes.plan import PLANS, Plan, plan_named
from amos_fl.weights import is_statistic

COARSE = plan_named("coarse")


def state(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Table 4 of the AMOS paper, in millions, with how near our networks must come.
TABLE_4 = {
    "unet": (31.18, 1e-3),
    "vnet": (45.65, 1e-3),
    "cotr": (41.87, 1e-3),
    "nnformer": (150.14, 1e-3),
    "unetr": (93.02, 3e-3),
    "swin-unetr": (62.83, 3e-3),
}


def test_the_networks_have_the_papers_parameters():
    plan = plan_named("amos-ct").model_copy(update={"patch": (128, 128, 128)})
    for model, (millions, tolerance) in TABLE_4.items():
        assert parameter_count(outline(model, plan, 15)) == pytest.approx(millions * 1e6, rel=tolerance), model


def test_the_small_network_has_one_to_two_million_parameters():
    assert 1e6 < parameter_count(outline("small", COARSE, 15)) < 2e6


def test_the_small_network_has_half_the_unets_convolutions_at_the_patchs_resolution():
    counts = {}
    for model in ("unet", "small"):
        network = build_network(model, COARSE, 3, seed=0).eval()
        at_full: list[str] = []

        def note(module, _, output, at_full: list[str] = at_full):
            if isinstance(module, torch.nn.Conv3d) and max(module.kernel_size) > 1 and output.shape[2:] == COARSE.patch:
                at_full.append(str(module))

        for module in network.modules():
            module.register_forward_hook(note)
        with torch.no_grad():
            network(torch.zeros(1, 1, *COARSE.patch))
        counts[model] = len(at_full)
    assert counts == {"unet": 4, "small": 2}


def test_the_page_of_networks_says_how_they_normalise_what_they_divide_and_where_they_are_supervised():
    page = (Path(__file__).parents[1] / "docs" / "networks.md").read_text(encoding="utf-8")
    table = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| `")]
    rows = {name.strip(" `"): cells for name, *cells in table if name.strip(" `") in NETWORKS}
    assert list(rows) == list(NETWORKS)
    kinds = {"instance": nn.InstanceNorm3d, "batch": nn.BatchNorm3d, "layer": nn.LayerNorm}
    for model, (_, _, norms, multiples, heads) in rows.items():
        network = outline(model, plan_named("amos-ct"), 15)
        found = {kind for kind, of in kinds.items() if any(isinstance(layer, of) for layer in network.modules())}
        assert set(re.findall(r"\w+", norms)) == found, model
        if "plan" in multiples:
            poolings = 4 if "first four" in multiples else None
            for plan in (plan_named("amos-ct"), COARSE):
                expected = np.prod(plan.strides[1:][:poolings], axis=0)
                assert outline(model, plan, 15).divisor == tuple(expected), (model, plan.name)
        else:
            sides = [int(side) for side in multiples.split(",")]
            assert network.divisor == tuple(sides if len(sides) == 3 else sides * 3), model
        if re.match(r" 1,", heads):
            assert len(heads.split(",")) == sum(weight > 0 for weight in network.supervision.weights), model


def test_an_outline_counts_what_is_built():
    for model in NETWORKS:
        counted = parameter_count(outline(model, COARSE, 15))
        if counted < 50e6:  # more take seconds to draw, for the same answer
            assert counted == parameter_count(build_network(model, COARSE, 15, seed=0)), model


def test_every_weight_has_one_name():
    for model in NETWORKS:
        network = outline(model, COARSE, 3)
        weights = {n: t for n, t in network.state_dict().items() if not is_statistic(n)}
        assert sum(tensor.numel() for tensor in weights.values()) == parameter_count(network), model
        assert all(tensor.is_floating_point() for tensor in weights.values()), model


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_training_gives_logits_at_falling_resolution_and_evaluation_the_first_alone(plan: Plan):
    shrunk = plan.model_copy(update={"patch": tuple(2 * side for side in plan.divisor)})
    network = build_network("small", shrunk, 4, seed=0)
    image = torch.randn(1, 1, *shrunk.patch)
    with torch.no_grad():
        heads = network.train()(image)
        assert torch.equal(network.eval()(image), heads[0])
    expected, shape = [], list(shrunk.patch)
    for stride in shrunk.strides[:-1]:
        shape = [side // s for side, s in zip(shape, stride, strict=True)]
        expected.append((1, 5, *shape))
    assert [tuple(head.shape) for head in heads] == expected


def test_the_same_seed_gives_the_same_weights_whatever_the_global_generator_holds():
    torch.manual_seed(1)
    first = state(build_network("small", COARSE, 15, seed=7))
    torch.manual_seed(2)
    assert equal(first, state(build_network("small", COARSE, 15, seed=7)))
    assert not equal(first, state(build_network("small", COARSE, 15, seed=8)))


def test_building_leaves_the_global_generator_as_it_was():
    before = torch.get_rng_state()
    build_network("small", COARSE, 15, seed=0)
    outline("small", COARSE, 15)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_are_drawn_as_nnu_net_draws_them():
    network = build_network("small", COARSE, 15, seed=0)
    weight = network.get_parameter("bottleneck.conv2.conv.weight")
    fan_in = weight[0].numel()
    assert weight.std().item() == pytest.approx((2 / (1 + 0.01**2) / fan_in) ** 0.5, rel=0.02)


def test_an_unknown_model_is_answered_with_the_nearest():
    with pytest.raises(AmosError, match="did you mean 'small'"):
        build_network("smal", COARSE, 15, seed=0)


def test_a_plan_of_two_stages_is_refused():
    plan = Plan(spacing_mm=(1, 1, 1), patch=(8, 8, 8), strides=((1, 1, 1), (2, 2, 2)), kernels=((3, 3, 3),) * 2)
    with pytest.raises(AmosError, match="at least 3 stages"):
        build_network("small", plan, 15, seed=0)


# --- networks of one's own ------------------------------------------------------------------------

OWN = """
import random
import torch
from torch import nn

def build(plan, organ_count):
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 1 + organ_count, 1))

def one_argument(plan):
    return build(plan, 2)

def no_module(plan, organ_count):
    return "a network"

def halved(plan, organ_count):
    return nn.Conv3d(1, 1 + organ_count, 2, stride=2)

def two_channels(plan, organ_count):
    return nn.Conv3d(2, 1 + organ_count, 1)

class Idle(nn.Module):
    def __init__(self, organ_count):
        super().__init__()
        self.used, self.idle = nn.Conv3d(1, 1 + organ_count, 1), nn.Conv3d(1, 1, 1)
    def forward(self, x):
        return self.used(x)

def idle(plan, organ_count):
    return Idle(organ_count)

def by_chance(plan, organ_count):
    network = build(plan, organ_count)
    nn.init.constant_(network[0].bias, random.random())
    return network

class Made(nn.Module):
    def __init__(self, organ_count, change):
        super().__init__()
        self.used, self.change = nn.Conv3d(1, 1 + organ_count, 1), change
    def forward(self, x):
        return self.change(self, self.used(x))

def nan(plan, organ_count):
    return Made(organ_count, lambda network, x: x * float("nan"))

def draws(plan, organ_count):
    return Made(organ_count, lambda network, x: x + random.random())

def draws_in_training(plan, organ_count):
    return Made(organ_count, lambda network, x: x + random.random() if network.training else x)

def dropout(plan, organ_count):
    return nn.Sequential(nn.Conv3d(1, 4, 1), nn.Dropout3d(), nn.Conv3d(4, 1 + organ_count, 1))

def broken(plan, organ_count):
    return {}["width"]

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return "my_networks"


def test_a_network_of_ones_own_is_built_by_its_import_path(own: str):
    for name in ("build", "dropout"):
        check_own_network(f"{own}:{name}", COARSE, 2)
    one, other = (state(build_network(f"{own}:build", COARSE, 2, seed=seed)) for seed in (0, 0))
    assert equal(one, other)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("absent", "cannot be imported"),
        ("number", "must be a function"),
        ("one_argument", "must take a plan and the number of organs"),
        ("no_module", r"returned str; it must return a torch\.nn\.Module"),
        ("halved", r"gives \(1, 3, 12, .* it must give logits of \(1, 3, 24"),
        ("two_channels", "fails on an image of"),
        ("idle", r"the loss does not reach idle\.weight"),
        ("nan", "gives logits that are not finite"),
        ("draws", "gives other logits the second time"),
        ("draws_in_training", "gives other logits the second time"),
        ("broken", "fails on the plan coarse .'width'"),
        ("by_chance", r"0\.bias differs between two networks with the same seed"),
    ],
)
def test_a_network_that_cannot_be_trained_is_refused_before_anything_is(own: str, name: str, why: str):
    with pytest.raises(AmosError, match=rf"^model {own}:{name}: {why}"):
        check_own_network(f"{own}:{name}", COARSE, 2)
