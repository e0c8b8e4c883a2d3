"""Personal methods: a site keeps a part of the network, or a second network, as its own, and is scored with it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import federate, final_weights, hashes, killed_after, resume
from hospitals import Hospital, tiny_task, write_hospital
from typer.testing import CliRunner

from amos_fl import methods
from amos_fl.cli.main import app
from amos_fl.cohort.table import Cohort, read_cohort
from amos_fl.comparison.compare import compare_runs
from amos_fl.errors import AmosError
from amos_fl.inference.evaluate_model import Question, evaluate_model
from amos_fl.methods.private import PrivateParts
from amos_fl.networks.parts import Parts, parts_of
from amos_fl.runs.estimate import estimate
from amos_fl.runs.folder import OWN, RunFolder
from amos_fl.runs.model import read_model
from amos_fl.runs.record import read_run
from amos_fl.volumes.plan import plan_named
from amos_fl.weights import read_arrays
from amos_fl_clients.federation.policy import Refusal
from amos_fl_clients.federation.state import PRIVATE, SECOND_MODEL, load_kept, save_kept

SITES = ("A", "D", "G")
LEARNING: dict[str, Any] = {
    "optimizer_state": "keep",
    "rounds": 3,
    "local_steps": 3,
    "evaluation": {"every": 1},
    "training": {"learning_rate": 0.1},
}
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Everything(PrivateParts):
    """Each site keeps the whole network."""

    def private(self, parts: Parts) -> frozenset[str]:
        return parts.everything


@dataclass(frozen=True)
class Unknown(PrivateParts):
    """Each site keeps a layer that no network has."""

    def private(self, parts: Parts) -> frozenset[str]:
        return frozenset({"attention.weight"})


@dataclass(frozen=True)
class Nothing(PrivateParts):
    """Each site keeps the layers of a kind that this network does not have."""

    def private(self, parts: Parts) -> frozenset[str]:
        return frozenset()


@pytest.fixture(scope="module")
def cohort(tiny_root: Path) -> Cohort:
    return read_cohort(tiny_root).only(SITES)


@pytest.fixture(scope="module")
def fedavg(tmp_path_factory: pytest.TempPathFactory, cohort: Cohort, store: Path) -> RunFolder:
    return federate(tmp_path_factory.mktemp("fedavg") / "run", cohort, store, **LEARNING)


@pytest.fixture(scope="module")
def fedbn(tmp_path_factory: pytest.TempPathFactory, cohort: Cohort, store: Path) -> RunFolder:
    return federate(tmp_path_factory.mktemp("fedbn") / "run", cohort, store, strategy="fedbn", **LEARNING)


@pytest.fixture(scope="module")
def ditto(tmp_path_factory: pytest.TempPathFactory, cohort: Cohort, store: Path) -> RunFolder:
    options = {"lam": 0.0}
    out = tmp_path_factory.mktemp("ditto") / "run"
    return federate(out, cohort, store, strategy="ditto", strategy_options=options, **LEARNING)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, cohort: Cohort, store: Path) -> dict[str, RunFolder]:
    """A federation of one site each: local training."""
    folder = tmp_path_factory.mktemp("alone")
    return {site: federate(folder / site, cohort.only((site,)), store, **LEARNING) for site in ("A", "G")}


def kept(run: RunFolder, site: str, kind: str, number: int) -> Arrays:
    return load_kept(run.site(site) / "state", run.run_id, kind, number).value


def second_model(run: RunFolder, site: str, number: int) -> Arrays:
    stored = kept(run, site, SECOND_MODEL, number)
    return {name.removeprefix("weights/"): array for name, array in stored.items() if name.startswith("weights/")}


def assert_equal(one: Arrays, other: Arrays) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert np.array_equal(one[name], other[name]), name


@pytest.mark.parametrize(
    ("model", "plan", "layers"),
    [
        ("small", "coarse", 12),
        ("unet", "amos-ct", 22),
        ("nnformer", "amos-ct", 42),
        ("resenc-m", "amos-ct", 1 + 2 * 26 + 4 + 5),  # stem, blocks, shortcuts that widen, decoder
        ("mednext-l", "amos-ct", 54 + 8),  # blocks, and those that pool or enlarge
    ],
)
def test_the_norms_of_a_network_are_found_whatever_their_kind(model: str, plan: str, layers: int) -> None:
    parts = parts_of(model, plan_named(plan), 15)
    assert len(parts.norms) == 2 * layers  # a weight and a bias each
    assert parts.norms < parts.everything
    assert parts.head < parts.everything
    assert not parts.norms & parts.head


def test_batch_norms_are_private_with_their_statistics_and_group_norms_have_none() -> None:
    plan = plan_named("amos-ct")
    batch, group = (parts_of("vnet", plan, 15, kind).norms for kind in ("average", "group"))
    assert {name.rpartition(".")[2] for name in batch - group} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
    assert {name.rpartition(".")[2] for name in group} == {"weight", "bias"}


def test_dittos_shared_weights_are_fedavgs_and_without_a_pull_its_second_model_is_trained_alone(
    ditto: RunFolder, fedavg: RunFolder, alone: dict[str, RunFolder]
) -> None:
    assert hashes(ditto) == hashes(fedavg)
    for site, run in alone.items():
        assert_equal(second_model(ditto, site, 3), final_weights(run))


def test_the_steps_of_second_models_are_in_the_ledger_and_in_what_a_run_costs(
    ditto: RunFolder, fedavg: RunFolder, cohort: Cohort
) -> None:
    assert all(did["second_steps"] == 3 for entry in ditto.ledger() for did in entry["sites"].values())  # pyright: ignore
    costs = [read_run(run.path).cost for run in (ditto, fedavg)]
    assert [cost.steps for cost in costs] == [2 * 18, 18]
    assert costs[0].bytes_up == costs[1].bytes_up
    planned = [estimate(run.config(), cohort) for run in (ditto, fedavg)]
    assert [work.steps for work in planned] == [2 * 18, 18]


def test_a_stronger_pull_holds_dittos_second_model_nearer_to_the_shared_one(
    tmp_path: Path, cohort: Cohort, store: Path, ditto: RunFolder
) -> None:
    pulled = federate(tmp_path / "run", cohort, store, strategy="ditto", strategy_options={"lam": 5.0}, **LEARNING)
    assert hashes(pulled) == hashes(ditto)
    shared = read_arrays(pulled.checkpoint_folder(2) / "weights.safetensors")
    for site in ("A", "G"):
        free, held = (second_model(run, site, 3) for run in (ditto, pulled))
        assert away(held, shared) < 0.8 * away(free, shared)


def away(one: Arrays, other: Arrays) -> float:
    return float(np.sqrt(sum(np.square(one[name] - other[name]).sum() for name in other)))


def test_sites_that_keep_everything_train_alone(
    tmp_path: Path, cohort: Cohort, store: Path, alone: dict[str, RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(methods.METHODS, "everything", Everything)
    run = federate(tmp_path / "run", cohort, store, strategy="everything", **LEARNING)
    for site, own in alone.items():
        assert_equal(kept(run, site, PRIVATE, 3), final_weights(own))


def test_fedbns_sites_keep_their_norms_and_share_the_rest(fedbn: RunFolder, fedavg: RunFolder, cohort: Cohort) -> None:
    config = fedbn.config()
    parts = parts_of(config.model, config.plan, len(cohort.organs))
    own = {site: kept(fedbn, site, PRIVATE, 3) for site in ("A", "G")}
    assert all(arrays.keys() == parts.norms for arrays in own.values())
    assert any(not np.array_equal(own["A"][name], own["G"][name]) for name in parts.norms)
    # In the first round all begin alike, so that its weights are FedAvg's.
    assert hashes(fedbn)[0] == hashes(fedavg)[0]
    assert hashes(fedbn)[1] != hashes(fedavg)[1]
    # The shared network has the mean of the sites' own norms.
    cases = {site: about["cases"] for site, about in fedbn.ledger()[-1]["sites"].items()}
    shared, total = final_weights(fedbn), sum(cases.values())
    for name in parts.norms:
        mean = sum(own[site][name] * cases[site] / total for site in own)
        assert np.allclose(shared[name], mean, atol=1e-6)


@pytest.mark.parametrize("strategy", ["fedbn", "fedper"])
def test_private_arrays_that_are_not_sent_leave_the_shared_network_with_the_initial_ones(
    tmp_path: Path, cohort: Cohort, store: Path, fedbn: RunFolder, strategy: str
) -> None:
    options = {"send_private": False}
    run = federate(tmp_path / "run", cohort, store, strategy=strategy, strategy_options=options, **LEARNING)
    parts = parts_of(run.config().model, run.config().plan, len(cohort.organs))
    private = parts.norms if strategy == "fedbn" else parts.head
    first, last = (read_arrays(run.checkpoint_folder(n) / "weights.safetensors") for n in (2, 3))
    assert all(np.array_equal(first[name], last[name]) for name in private)
    assert any(not np.array_equal(first[name], last[name]) for name in parts.everything - private)
    sent, everything = (folder.ledger()[-1]["sites"]["A"]["bytes_up"] for folder in (run, fedbn))
    assert everything - sent >= sum(last[name].nbytes for name in private)


@pytest.mark.parametrize("strategy", ["fedbn", "ditto"])
def test_a_personal_model_is_scored_at_home_and_predicts_as_it_was_scored(
    strategy: str, fedbn: RunFolder, ditto: RunFolder, store: Path, cohort: Cohort
) -> None:
    run = {"fedbn": fedbn, "ditto": ditto}[strategy]
    personal = read_run(run.path).results.personal
    assert personal is not None
    assert {row.name for row in personal.by_site} == {"A", "G"}  # D trains nothing
    for site in ("A", "G"):
        model = read_model(run.path, site)
        again = evaluate_model(model, cohort, Question.of(model, cohort, sites=[site]), store=store, device="cpu")
        expected = {case.case: case.scores for case in personal.cases if case.site == site}
        assert expected == {case.case: case.scores for case in again.results.cases}


def test_the_personal_models_are_an_arm_of_their_own_in_a_comparison(fedavg: RunFolder, fedbn: RunFolder) -> None:
    comparison = compare_runs([read_run(fedavg.path), read_run(fedbn.path)])
    assert [arm.name for arm in comparison.arms if arm.main] == ["fedavg", "fedbn", "fedbn, at home"]
    by_site = {row.name: row.dsc for row in read_run(fedbn.path).results.personal.by_site}  # pyright: ignore
    for site, dsc in by_site.items():
        cell = next(
            c for c in comparison.cells if (c.arm, c.scope, c.organ, c.metric) == ("fedbn, at home", site, "", "dsc")
        )
        assert cell.estimate.value == pytest.approx(dsc, abs=1e-6)


def test_a_site_keeps_its_second_model_of_the_round_that_did_best(tmp_path: Path) -> None:
    for number in range(1, 8):
        best = 3 if number > 3 else 0
        save_kept(tmp_path, "run", SECOND_MODEL, number, {"w": np.full(1, number, np.float32)}, best_round=best)
    values = {n: load_kept(tmp_path, "run", SECOND_MODEL, n).value for n in (3, 6, 7)}
    assert {n: float(arrays["w"][0]) for n, arrays in values.items()} == {3: 3.0, 6: 6.0, 7: 7.0}
    assert len(list((tmp_path / SECOND_MODEL / "run").iterdir())) == 3


@pytest.mark.parametrize("strategy", ["fedbn", "ditto"])
def test_a_killed_run_goes_on_to_the_same_personal_models(
    tmp_path: Path, cohort: Cohort, store: Path, fedbn: RunFolder, ditto: RunFolder, strategy: str
) -> None:
    whole = {"fedbn": fedbn, "ditto": ditto}[strategy]
    options = whole.config().strategy_options
    killed_after(tmp_path / "run", 2, cohort, store, strategy=strategy, strategy_options=options, **LEARNING)
    run = resume(tmp_path / "run", store)
    assert hashes(run) == hashes(whole)
    for site in ("A", "G"):
        one, other = (
            read_arrays(read_model(folder.path, site).folder / "weights.safetensors") for folder in (run, whole)
        )
        assert_equal(one, other)
    for number, kind in whole.evaluations():
        if kind in OWN.values():
            assert site_scores(run, number, kind) == site_scores(whole, number, kind)


def site_scores(run: RunFolder, number: int, kind: str) -> dict[str, Any]:
    found = run.read_evaluation(number, kind)
    assert found is not None
    return {site: about.scores for site, about in found.sites.items()}


def test_a_site_that_lost_its_own_arrays_says_so_by_name(tmp_path: Path, cohort: Cohort, store: Path) -> None:
    killed_after(tmp_path / "run", 2, cohort, store, strategy="ditto", **LEARNING)
    state = RunFolder(tmp_path / "run").site("A") / "state"
    for file in (state / SECOND_MODEL).rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-5])
    run = resume(tmp_path / "run", store)
    assert "second model" in run.ledger()[-1]["sites"]["A"]["restarted"]
    assert "restarted" not in run.ledger()[-1]["sites"]["G"]


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (Unknown, "leaves 'attention.weight' at each site, and the network small has no such array"),
        (Nothing, "leaves a part of the network at each site that the network small does not have"),
    ],
)
def test_a_private_part_that_no_layer_has_is_refused_at_the_start(
    method: type, sentence: str, tmp_path: Path, cohort: Cohort, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(methods.METHODS, "own", method)
    with pytest.raises(AmosError, match=sentence):
        federate(tmp_path / "run", cohort, store, strategy="own", **LEARNING)
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_site_without_a_model_of_its_own_refuses_to_have_it_scored(tmp_path: Path, cohort: Cohort) -> None:
    hospital = Hospital(write_hospital(tmp_path, cohort, "A"), tiny_task(cohort))
    with pytest.raises(Refusal, match="fedavg leaves it no personal model"):
        hospital.evaluate("val", model="personal")
    with pytest.raises(Refusal, match="no such model"):
        hospital.evaluate("val", model="best")
    hospital = replace(hospital, task=hospital.task.model_copy(update={"method": "ditto"}))
    assert hospital.evaluate("val", model="personal") is not None


def test_the_command_predicts_with_a_sites_own_model_and_names_those_there_are(
    tmp_path: Path, fedbn: RunFolder, fedavg: RunFolder, cohort: Cohort
) -> None:
    scan = str(cohort.of(site="A", split="test")[0].image)
    words = [scan, "--modality", cohort.of(site="A", split="test")[0].modality, "--device", "cpu", "-o", str(tmp_path)]
    run = CliRunner().invoke(app, ["predict", str(fedbn.path), *words, "--site", "A"])
    assert run.exit_code == 0, run.output
    for path, site, sentence in ((fedbn, "D", "there are A, G"), (fedavg, "A", "fedavg leaves models at no site")):
        run = CliRunner().invoke(app, ["predict", str(path.path), *words, "--site", site])
        assert isinstance(run.exception, AmosError)
        assert sentence in str(run.exception)
