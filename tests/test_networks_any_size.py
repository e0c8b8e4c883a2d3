"""The networks at reduced width: any patch, padding unseen, half precision, dropout by the seed."""

import ctypes
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from narrow_networks import NARROW
from synthetic_cases import ORGANS, TINY, boxes_case
from torch import nn

from amos_fl.inference.predict import predict_case
from amos_fl.inference.windows import window_starts
from amos_fl.networks.anysize import AnySize, SingleValue
from amos_fl.networks.catalogue import NETWORKS
from amos_fl.networks.registry import outline
from amos_fl.runs.inference_settings import InferenceSettings
from amos_fl.training.loop import train
from amos_fl.training.loss import DiceCrossEntropy
from amos_fl.training.settings import TrainingSettings
from amos_fl.volumes.plan import PLANS, Plan


def narrow(model: str, plan: Plan = TINY, organs: int = len(ORGANS)) -> AnySize:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NARROW[model](plan, organs)


def test_every_network_is_tried_here() -> None:
    assert NARROW.keys() == NETWORKS.keys()


@pytest.mark.parametrize("model", NARROW)
@pytest.mark.parametrize("size", [(24, 24, 24), (20, 27, 12)], ids=str)
def test_any_patch_gives_heads_that_the_loss_can_compare(model: str, size: tuple[int, int, int]) -> None:
    network = narrow(model).train()
    heads = network(torch.randn(2, 1, *size))
    for head, stride in zip(heads, network.supervision.strides, strict=True):
        assert head.shape == (2, 4, *(-(-side // s) for side, s in zip(size, stride, strict=True)))
    assert heads[0].shape[2:] == size
    label = torch.randint(0, 4, (2, *size))
    loss = DiceCrossEntropy(supervision=network.supervision)(heads, label, torch.ones(2, 4, dtype=torch.bool))
    loss.backward()
    assert sum(network.supervision.weights) == pytest.approx(1)
    with torch.no_grad():
        assert network.eval()(torch.randn(1, 1, *size)).shape == (1, 4, *size)


@pytest.mark.parametrize("model", NARROW)
def test_padding_inside_is_padding_outside(model: str) -> None:
    network = narrow(model).eval()
    x = torch.randn(1, 1, 20, 18, 21, generator=torch.Generator().manual_seed(1))
    more = [-side % factor for side, factor in zip(x.shape[2:], network.divisor, strict=True)]
    assert any(more)
    repeated = np.pad(x.numpy(), [(0, 0), (0, 0), *[(0, n) for n in more]], mode="edge")
    with torch.no_grad():
        inside, outside = network(x), network(torch.from_numpy(repeated))
    torch.testing.assert_close(inside, outside[:, :, :20, :18, :21])


@pytest.mark.parametrize("model", NARROW)
def test_a_volume_larger_than_its_window_comes_out_the_same_whether_its_windows_are_padded_or_not(
    model: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Sliding windows of a size that the network pads, against windows padded by hand that it takes as they are."""
    case = boxes_case(tmp_path_factory.mktemp("windows"))
    network = narrow(model).eval()
    patch = (20, 20, 18)
    plan = TINY.model_copy(update={"patch": patch})
    assert all(side > p for side, p in zip(case.shape, patch, strict=True))
    found = predict_case(network, case, plan, organs=ORGANS, inference=InferenceSettings(overlap=0.0, batch_size=2))

    more = [(0, -side % factor) for side, factor in zip(patch, network.divisor, strict=True)]
    sums, counts = np.zeros((4, *case.shape)), np.zeros(case.shape)
    axes = [np.exp(-0.5 * ((np.arange(p) - (p - 1) / 2) / (p / 8)) ** 2) for p in patch]
    weights = np.maximum(np.einsum("i,j,k->ijk", *axes), 1e-3)
    image = case.image()
    for corners in window_starts(case.shape, patch, 0.0, 2).values():
        for x, y, z in corners:
            where = (slice(x, x + patch[0]), slice(y, y + patch[1]), slice(z, z + patch[2]))
            window = torch.from_numpy(np.pad(image[where], more, mode="edge"))[None, None]
            with torch.no_grad():
                shares = network(window).softmax(1)[0].numpy()
            sums[:, *where] += shares[:, : patch[0], : patch[1], : patch[2]] * weights
            counts[where] += weights
    shares = sums / counts
    two = np.sort(shares, axis=0)
    clear = two[-1] - two[-2] > 1e-3  # where rounding decides, either is right
    assert clear.mean() > 0.9
    expected = np.array([0, *ORGANS], np.uint8)[shares.argmax(0)]
    assert (found[clear] == expected[clear]).mean() > 0.995  # MONAI's Gaussian differs from ours in its tails


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("model", NETWORKS)
def test_every_network_follows_every_plan(model: str, plan: Plan) -> None:
    network = outline(model, plan, 3).train()
    with torch.device("meta"):
        heads = network(torch.empty(1, 1, *plan.patch))
    assert heads[0].shape == (1, 4, *plan.patch)


def test_thick_slices_are_reduced_less_whichever_axis_they_lie_along() -> None:
    turned = PLANS["amos-ct"].model_copy(
        update={"patch": (64, 160, 160), "strides": ((1, 1, 1), (1, 2, 2), *[(2, 2, 2)] * 4)}
    )
    for model, along_z, along_x in (("cotr", (16, 16, 8), (8, 16, 16)), ("nnformer", (32, 32, 16), (16, 32, 32))):
        assert outline(model, PLANS["amos-ct"], 3).divisor == along_z
        assert outline(model, turned, 3).divisor == along_x


def test_the_position_embedding_of_unetr_is_interpolated_to_the_grid_at_hand() -> None:
    network = narrow("unetr", TINY.model_copy(update={"patch": (32, 32, 32)}))
    embedding = network.get_parameter("vit.patch_embedding.position_embeddings")
    assert embedding.shape == (1, 8, 48)
    with torch.no_grad():
        embedding.copy_(torch.arange(8.0)[None, :, None].expand(1, 8, 48))
        assert network._positions((2, 2, 2)) is embedding
        grown = network._positions((4, 2, 2)).view(4, 2, 2, 48)[..., 0]
    torch.testing.assert_close(grown[:, 0, 0], torch.tensor([0.0, 1.0, 3.0, 4.0]))
    torch.testing.assert_close(grown[0], torch.tensor([[0.0, 1.0], [2.0, 3.0]]))


def half_precision_step(network: AnySize, device: str, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(2, 1, 24, 24, 24, generator=draw).to(device)
    label = torch.randint(0, 4, (2, 24, 24, 24), generator=draw).to(device)
    annotated = torch.ones(2, 4, dtype=torch.bool, device=device)
    loss_of = DiceCrossEntropy(supervision=network.supervision)

    def step(enabled: bool) -> tuple[float, bool]:
        """The loss, and whether all gradients are finite."""
        torch.manual_seed(0)
        network.zero_grad()
        with torch.autocast(device, dtype=dtype, enabled=enabled):
            outputs = network.train()(x)
        assert not enabled or outputs[0].dtype == dtype
        loss = loss_of(outputs, label, annotated)
        loss.backward()
        return loss.item(), all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in network.parameters())

    # On a CPU, gradients of small 3D convolutions in bfloat16 now and then hold NaN for the same input (PyTorch 2.13),
    # of what was in memory before. What a network does wrong it does each time, also in memory of zeros;
    # training uses half precision on GPUs alone, where once must do.
    losses, finite = zip(*(step(enabled) for enabled in (False, *[True] * (1 if device != "cpu" else 8))), strict=True)
    assert finite[0]
    assert any(finite[1:])
    assert losses[1:] == pytest.approx([losses[0]] * len(losses[1:]), rel=0.05)


@pytest.mark.parametrize(
    ("model", "size", "remedy"),
    [
        ("vnet", (16, 16, 16), "raise training.batch_size to 2"),
        ("cotr", (16, 16, 8), "give the plan a larger patch"),
        ("resenc-m", (4, 4, 4), "give the plan a larger patch"),
        ("mednext-l", (4, 4, 4), "give the plan a larger patch"),
    ],
)
def test_a_patch_of_which_one_value_is_left_is_refused_in_a_sentence(
    model: str, size: tuple[int, int, int], remedy: str
) -> None:
    with pytest.raises(SingleValue, match=f"{'x'.join(map(str, size))}.* leaves one .*{remedy}"):
        narrow(model).train()(torch.randn(1, 1, *size))
    if model == "vnet":
        assert len(narrow(model).train()(torch.randn(2, 1, *size))) == 4


@pytest.fixture
def memory_of_zeros() -> Iterator[None]:
    """Have the C library, where it is glibc, fill the memory that it hands out."""
    perturb, mallopt = -6, getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(perturb, 0xFF)  # it fills with the complement
    yield
    if mallopt is not None:
        mallopt(perturb, 0)


@pytest.mark.usefixtures("memory_of_zeros")
@pytest.mark.parametrize("model", NARROW)
def test_every_network_trains_in_half_precision(model: str) -> None:
    """bfloat16 on the CPU, where PyTorch has no float16 for all layers."""
    half_precision_step(narrow(model), "cpu", torch.bfloat16)


@pytest.mark.parametrize("model", NARROW)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_network_trains_in_half_precision_on_a_gpu(model: str) -> None:
    half_precision_step(narrow(model).to("cuda"), "cuda", torch.float16)


def test_places_are_sampled_in_single_precision_whatever_the_rest_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    real = nn.functional.grid_sample

    def noting(volume: torch.Tensor, grid: torch.Tensor, **options: object) -> torch.Tensor:
        seen.extend((volume.dtype, grid.dtype))
        return real(volume, grid, **options)

    monkeypatch.setattr(nn.functional, "grid_sample", noting)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        narrow("cotr")(torch.randn(1, 1, 16, 16, 16))
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("model", ["vnet", "cotr", "nnformer"])
def test_dropout_is_a_function_of_the_seed_the_site_and_the_step(
    model: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    case = boxes_case(tmp_path_factory.mktemp("dropout"))
    settings = TrainingSettings(threads=1, augmentation="none")

    def trained(disturbance: int, parts: tuple[tuple[int, int], ...], site: str = "A") -> list[torch.Tensor]:
        network, buffers = narrow(model), None
        for first, steps in parts:
            torch.manual_seed(disturbance)
            buffers = train(
                network,
                [case],
                TINY,
                settings,
                organs=ORGANS,
                seed=0,
                site=site,
                steps=steps,
                first_step=first,
                total_steps=2,
                momentum_buffers=buffers,
            ).momentum_buffers
        return [value.clone() for value in network.state_dict().values()]

    whole = trained(1, ((0, 2),))
    again = trained(2, ((0, 1), (1, 1)))
    assert all(torch.equal(one, other) for one, other in zip(whole, again, strict=True))
