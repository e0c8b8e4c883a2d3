"""Batch normalisation in a federation: pooled, kept at the sites, or replaced; and taken from the scan itself."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from federations import federate, final_weights, hashes, resume
from hospitals import Hospital, tiny_task, write_hospital
from synthetic_cases import ORGANS, TINY, boxes_case
from torch import nn

from amos_fl.cohort.table import Cohort, read_cohort
from amos_fl.errors import AmosError
from amos_fl.inference.adapt import adapted
from amos_fl.inference.predict import predict_case
from amos_fl.networks.catalogue import NETWORKS
from amos_fl.networks.norms import batch_norms, norm_weights, with_group_norm
from amos_fl.networks.registry import build_network, outline
from amos_fl.prepared.store import PreparedCase
from amos_fl.runs.inference_settings import InferenceSettings
from amos_fl.runs.model import read_model
from amos_fl.training.patches.recipes import change_intensities
from amos_fl.weights import is_statistic, read_arrays
from amos_fl_clients.federation.messages import ARRAYS
from amos_fl_clients.federation.records import views_of
from amos_fl_clients.federation.state import PRIVATE, load_kept, save_kept

VNET = {
    "model": "vnet",
    "rounds": 2,
    "local_steps": 1,
    "evaluation": {"every": 2, "unseen": False},
    "optimizer_state": "keep",
    "keep_checkpoints": "all",
}


def taking_part(cohort: Cohort) -> Cohort:
    return cohort.only(("A", "D", "G"))


def statistics_of(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in arrays.items() if is_statistic(name)}


def site(folder: Path, cohort: Cohort, name: str, norm_statistics: str) -> Hospital:
    task = tiny_task(cohort, model="vnet", norm_statistics=norm_statistics)
    return Hospital(write_hospital(folder, cohort, name), task)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path, store: Path):
    return federate(tmp_path_factory.mktemp("averaged") / "run", taking_part(read_cohort(tiny_root)), store, **VNET)


@pytest.fixture(scope="module")
def kept_locally(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path, store: Path):
    out = tmp_path_factory.mktemp("local") / "run"
    return federate(out, taking_part(read_cohort(tiny_root)), store, norm_statistics="local", **VNET)


def test_by_default_a_federation_averages_and_its_model_has_the_pooled_statistics(averaged) -> None:
    assert averaged.config().norm_statistics == "average"
    statistics = statistics_of(final_weights(averaged))
    assert statistics
    assert all(np.isfinite(array).all() for array in statistics.values())
    assert not list(averaged.path.glob("sites/*/state/private"))


def test_sites_that_keep_theirs_go_on_with_them_and_the_server_has_the_average(averaged, kept_locally) -> None:
    run = kept_locally
    states = {name: run.path / "sites" / name / "state" for name in ("A", "G")}
    of_site = {name: load_kept(state, run.run_id, PRIVATE, 1).value for name, state in states.items()}
    first = {name: list(arrays) for name, arrays in of_site.items()}
    assert first["A"] == first["G"] == list(statistics_of(final_weights(run)))
    mean = next(name for name in of_site["A"] if name.endswith("running_mean"))
    assert not np.allclose(of_site["A"][mean], of_site["G"][mean])
    # The first round begins alike for both settings: what the server has of it are the same pooled statistics.
    one, other = (read_arrays(folder.checkpoint_folder(1) / "weights.safetensors") for folder in (run, averaged))
    weights = {"A": 3 / 5, "G": 2 / 5}
    pooled = sum(weights[name] * of_site[name][mean] for name in weights)
    np.testing.assert_allclose(one[mean], pooled, rtol=1e-5, atol=1e-6)
    assert all(np.array_equal(one[name], other[name]) for name in one)
    # The second does not, and an unseen site has nothing of its own.
    assert hashes(run)[0] == hashes(averaged)[0]
    assert hashes(run)[1] != hashes(averaged)[1]
    assert not list((run.path / "sites" / "D").glob("state/private"))


def test_a_run_with_local_statistics_goes_on_as_if_it_had_not_been_interrupted(
    tmp_path: Path, store: Path, kept_locally
) -> None:
    whole, broken = kept_locally, tmp_path / "broken"
    shutil.copytree(whole.path, broken)
    shutil.rmtree(broken / "checkpoints" / whole.checkpoint_folder(2).name)
    shutil.rmtree(broken / "evaluations")
    (broken / "ledger.jsonl").unlink()
    again = resume(broken, store)
    assert hashes(again) == hashes(whole)
    assert (again.path / "scores.csv").read_bytes() == (whole.path / "scores.csv").read_bytes()


def test_a_site_scores_its_cases_with_its_own_statistics_of_that_round(tmp_path: Path, tiny_cohort: Cohort) -> None:
    own = site(tmp_path / "own", tiny_cohort, "A", "local")
    default = site(tmp_path / "default", tiny_cohort, "A", "average")

    def scores(hospital: Hospital, round_number: int) -> object:
        return hospital.evaluate("val", round_number).content.config_records["site"]["scores"]

    fresh = scores(default, 1)
    assert scores(own, 1) == fresh  # nothing of its own yet
    statistics = statistics_of(views_of(own.weights()))
    odd = {
        n: a + 3 if n.endswith("running_mean") else a * 50 if n.endswith("var") else a for n, a in statistics.items()
    }
    save_kept(own.settings.state, own.task.run_id, PRIVATE, 2, odd)
    save_kept(default.settings.state, own.task.run_id, PRIVATE, 2, odd)
    assert scores(own, 1) == fresh  # those are of a later round
    assert scores(own, 2) != fresh
    assert scores(default, 2) == fresh


def test_what_a_site_keeps_is_what_its_update_holds_and_no_weight(tmp_path: Path, tiny_cohort: Cohort) -> None:
    own = site(tmp_path, tiny_cohort, "A", "local")
    sent = views_of(own.train(1, steps=1).content.array_records[ARRAYS])
    kept = load_kept(own.settings.state, own.task.run_id, PRIVATE, 1).value
    endings = {name.rpartition(".")[2] for name in kept}
    assert endings == {"running_mean", "running_var", "num_batches_tracked"}
    assert kept.keys() == statistics_of(sent).keys()
    assert all(np.array_equal(kept[name], sent[name]) for name in kept)


def test_with_group_norm_there_are_no_statistics_and_as_many_weights(tmp_path: Path, tiny_cohort: Cohort) -> None:
    batch = build_network("vnet", TINY, 3, seed=0)
    group = build_network("vnet", TINY, 3, seed=0, norm_statistics="group")
    weights = {name: tuple(value.shape) for name, value in batch.named_parameters()}
    assert {name: tuple(value.shape) for name, value in group.named_parameters()} == weights
    assert set(group.state_dict()) == set(weights)
    assert batch_norms(batch)
    assert not batch_norms(group)
    assert any(isinstance(layer, nn.GroupNorm) for layer in group.modules())


def test_a_run_with_group_norm_ends_with_a_model_that_can_be_read(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    settings = {**VNET, "rounds": 1, "norm_statistics": "group"}
    run = federate(tmp_path / "run", tiny_cohort.only(("G",)), store, **settings)
    assert not statistics_of(final_weights(run))
    network = read_model(run.path).network()
    assert not batch_norms(network)


def test_of_all_networks_only_v_net_has_statistics_to_keep() -> None:
    for model in NETWORKS.keys() - {"vnet"}:
        assert not batch_norms(outline(model, TINY, 3)), model


class Sees(nn.Module):
    """Answers with organ 1 wherever the normalised image is above 0."""

    def __init__(self, channels: int = 1 + len(ORGANS)) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(1, affine=False)
        self.channels = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        return torch.cat([-x, x, *[torch.full_like(x, -10.0)] * (self.channels - 2)], 1)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> PreparedCase:
    return boxes_case(tmp_path_factory.mktemp("adaptation"), shape=(32, 32, 16))


def test_adaptation_uses_the_scans_own_statistics_and_puts_the_old_ones_back(case: PreparedCase) -> None:
    network = Sees().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert case.shape == (32, 32, 16)  # whole windows, so that every voxel counts once
    with adapted(network, case, TINY.patch, batch_size=1):
        image = case.image()
        assert network.norm.running_mean.item() == pytest.approx(image.mean(), abs=1e-4)
        # PyTorch's variance is the unbiased one of each batch.
        assert network.norm.running_var.item() == pytest.approx(image.var(), rel=1e-3)
        assert not network.norm.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.norm.momentum == 0.1


def test_adaptation_is_asked_for_and_helps_where_intensities_have_moved(case: PreparedCase) -> None:
    network = Sees().eval()
    network.norm.running_mean.fill_(100.0)  # as if trained on scans far brighter
    plain = InferenceSettings(overlap=0.0)
    adapting = plain.model_copy(update={"test_time_adaptation": True})
    assert not predict_case(network, case, TINY, organs=ORGANS, inference=plain).any()
    found = predict_case(network, case, TINY, organs=ORGANS, inference=adapting)
    assert 0.2 < (found > 0).mean() < 0.8
    assert not predict_case(network, case, TINY, organs=ORGANS, inference=plain).any()


@pytest.mark.parametrize("norm", ["instance", "group", "layer"])
def test_without_batch_normalisation_scales_and_shifts_are_fitted_and_put_back(case: PreparedCase, norm: str) -> None:
    made = {"instance": "small", "group": "vnet", "layer": "unetr"}[norm]
    network = build_network(made, TINY, len(ORGANS), seed=0).eval()
    network = with_group_norm(network) if norm == "group" else network
    network.requires_grad_(made != "small")  # whatever it was, it is afterwards
    before = {name: value.clone() for name, value in network.state_dict().items()}
    norms = {id(weight) for weight in norm_weights(network)}
    names = {name for name, weight in network.named_parameters() if id(weight) in norms}
    results = []
    for _ in range(2):
        with adapted(network, case, TINY.patch, batch_size=2):
            moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
            results.append({name: value.clone() for name, value in network.state_dict().items()})
        assert moved
        assert moved <= names
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert {weight.requires_grad for weight in network.parameters()} == {made != "small"}
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_the_fit_lets_a_network_say_the_same_of_copies_with_other_intensities(
    case: PreparedCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_network("small", TINY, len(ORGANS), seed=0).eval()
    windows = torch.from_numpy(case.image()[None, None, :16, :16, :16])
    no_label = torch.zeros(16, 16, 16, dtype=torch.int64)

    def disagreement() -> float:
        """Of copies that were not used to fit."""
        with torch.inference_mode():
            copies = [change_intensities(windows[0], no_label, "CT", "robust", seed)[None] for seed in range(40)]
            probabilities = [network(copy).softmax(1)[:, 1:] for copy in copies]
            first, *others = probabilities
            return float(np.mean([(first - other).abs().mean() for other in others]))

    before = disagreement()
    monkeypatch.setattr("amos_fl.inference.adapt.STEPS", 30)
    monkeypatch.setattr("amos_fl.inference.adapt.LEARNING_RATE", 0.02)
    with adapted(network, case, TINY.patch, batch_size=2):
        assert disagreement() < 0.9 * before
    assert disagreement() == before


def test_a_network_with_nothing_to_adapt_is_refused(case: PreparedCase) -> None:
    network = nn.Conv3d(1, 1 + len(ORGANS), 1)
    adapting = InferenceSettings(test_time_adaptation=True)
    with pytest.raises(AmosError, match=r"no normalisation layer .*turn evaluation.test_time_adaptation off"):
        predict_case(network, case, TINY, organs=ORGANS, inference=adapting)


def test_adaptation_refuses_a_patch_that_leaves_a_layer_one_value(case: PreparedCase) -> None:
    network = build_network("vnet", TINY, len(ORGANS), seed=0)
    with pytest.raises(AmosError, match="leaves a layer a single value"):
        predict_case(
            network,
            replace(case),
            TINY,
            organs=ORGANS,
            inference=InferenceSettings(batch_size=1, test_time_adaptation=True),
        )
    assert not any(layer.training for layer in batch_norms(network.eval()))
