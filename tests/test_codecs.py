"""Encoded updates: what an encoding leaves out comes later, what it sends is small, and what is none is refused."""

from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from conftest import write_tiny_cohort
from deployments import AT_ONCE, Hospitals, deployed_run
from federations import TINY, distance, federate, final_weights, hashes, killed_after, resume
from hospitals import Hospital, tiny_task, write_hospital
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_aggregation import reply, update

from amos_fl.cli.main import run
from amos_fl.codecs import LARGEST_HALF, PLACES, SCALES, VALUES, Codec, CodecName
from amos_fl.cohort.table import Cohort, read_cohort
from amos_fl.errors import AmosError
from amos_fl.runs.config import resolve
from amos_fl.runs.estimate import estimate
from amos_fl.runs.events import Event, RoundFinished
from amos_fl.runs.layers import Layer
from amos_fl.weights import read_arrays
from amos_fl_clients.federation.error_replies import ReplyWithheld
from amos_fl_clients.federation.messages import ARRAYS
from amos_fl_clients.federation.records import BadUpdate, packed, record_of, views_of
from amos_fl_clients.federation.replies import check_reply
from amos_fl_server.federation.aggregate import decode_update, form_of
from amos_fl_server.operation.server_app import run_deployed

CODECS = {
    "fp16": Codec("fp16"),
    "int8": Codec("int8"),
    "top-k by places": Codec("top-k", 0.02),
    "top-k by bits": Codec("top-k", 0.3),
}
NUMBERS = st.floats(-1e4, 1e4, width=32).filter(lambda x: x == 0 or abs(x) > 1e-20)
COUNTED = np.array(7)


def network(draw: st.DrawFn, numbers: st.SearchStrategy[float] = NUMBERS) -> dict[str, np.ndarray]:
    """Weights of a small network, of arrays in another order than that of their names."""
    return {
        "head.weight": draw(arrays(np.float32, (5, 3), elements=numbers)),
        "body.weight": draw(arrays(np.float32, (4, 2, 3), elements=numbers)),
        "body.bias": draw(arrays(np.float32, 4, elements=numbers)),
        "norm.running_mean": draw(arrays(np.float32, 4, elements=numbers)),
        "norm.num_batches_tracked": COUNTED,
    }


networks = st.composite(network)()
small_halves = st.composite(network)(numbers=st.floats(-100, 100, width=16))
STATISTICS = ("norm.running_mean", "norm.num_batches_tracked")


def forms(weights: dict[str, np.ndarray]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (array.shape, str(array.dtype)) for name, array in weights.items()}


@pytest.mark.parametrize("name", CODECS)
@given(rounds=st.lists(st.tuples(networks, networks), min_size=1, max_size=4))
def test_what_was_decoded_and_what_is_left_over_are_the_updates(
    name: str, rounds: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]
) -> None:
    codec, residual = CODECS[name], dict[str, np.ndarray]()
    wanted = {key: np.zeros(a.shape) for key, a in rounds[0][0].items() if key not in STATISTICS}
    came = {key: a.copy() for key, a in wanted.items()}
    largest = 1e-9
    for before, after in rounds:
        encoded, residual = codec.encode(before, after, residual)
        # The server's weights may come from a checkpoint, whose arrays are in the order of their names.
        found = codec.decode({key: before[key] for key in sorted(before)}, encoded)
        for key in STATISTICS:
            assert np.array_equal(found[key], after[key])
        for key in wanted:
            assert found[key].dtype == np.float32
            wanted[key] += after[key].astype(np.float64) - before[key]
            came[key] += found[key].astype(np.float64) - before[key]
            largest = max(largest, *(np.abs(a).max() for a in (before[key], after[key], found[key], residual[key])))
    for key in wanted:
        np.testing.assert_allclose(came[key] + residual[key], wanted[key], rtol=0, atol=2e-6 * largest * len(rounds))


@given(networks, networks, networks)
def test_an_encoded_update_has_the_form_and_the_size_that_are_known_beforehand(
    before: dict[str, np.ndarray], after: dict[str, np.ndarray], residual: dict[str, np.ndarray]
) -> None:
    rest = {key: a for key, a in residual.items() if key not in STATISTICS}
    for codec in CODECS.values():
        encoded, _ = codec.encode(before, after, rest)
        assert list(forms(encoded).items()) == list(codec.form(forms(before)).items())
        assert sum(a.nbytes for a in encoded.values()) == codec.size(forms(before))


@given(changes=small_halves)
def test_changes_that_half_precision_can_hold_come_back_exactly(changes: dict[str, np.ndarray]) -> None:
    before = {key: np.zeros_like(a) for key, a in changes.items()}
    encoded, residual = CODECS["fp16"].encode(before, changes, {})
    found = CODECS["fp16"].decode(before, encoded)
    for key, change in changes.items():
        assert np.array_equal(found[key], change)
    assert not any(a.any() for a in residual.values())


def test_a_change_beyond_half_precision_is_sent_in_parts() -> None:
    before, after = {"a": np.zeros(2, np.float32)}, {"a": np.array([1e5, -7e4], np.float32)}
    encoded, residual = Codec("fp16").encode(before, after, {})
    assert encoded["a"].tolist() == [LARGEST_HALF, -LARGEST_HALF]
    assert residual["a"].tolist() == [1e5 - LARGEST_HALF, LARGEST_HALF - 7e4]


@given(networks, networks)
def test_int8_is_within_half_a_step_of_each_change(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> None:
    encoded, residual = Codec("int8").encode(before, after, {})
    trained = sorted(key for key in before if key not in STATISTICS)
    for key, step in zip(trained, encoded[SCALES], strict=True):
        change = np.abs(after[key] - before[key])
        assert step == pytest.approx(change.max() / 127, rel=1e-6)
        assert np.abs(residual[key]).max() <= step * 0.50001


def test_int8_rounds_halves_to_even() -> None:
    before = {"a": np.zeros(7, np.float32)}
    encoded, _ = Codec("int8").encode(before, {"a": np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5, -127], np.float32)}, {})
    assert encoded["a"].tolist() == [127, 0, 2, 2, 0, -2, -127]
    assert encoded[SCALES].tolist() == [1.0]


@given(networks, networks, networks)
def test_top_k_of_everything_is_no_encoding_to_the_bit(
    before: dict[str, np.ndarray], one: dict[str, np.ndarray], two: dict[str, np.ndarray]
) -> None:
    codec, residual = Codec("top-k", 1.0), dict[str, np.ndarray]()
    for after in (one, two):
        encoded, residual = codec.encode(before, after, residual)
        found = codec.decode(before, encoded)
        assert all(found[key].tobytes() == after[key].tobytes() for key in after)


@given(networks, networks, st.floats(0.01, 1))
def test_top_k_sends_the_largest_changes_and_of_equal_ones_the_first(
    before: dict[str, np.ndarray], after: dict[str, np.ndarray], share: float
) -> None:
    codec = Codec("top-k", share)
    encoded, residual = codec.encode(before, after, {})
    found = codec.decode(before, encoded)
    changes = [
        (-abs(float(np.float32(after[key].flat[i] - before[key].flat[i]))), key, i)
        for key in sorted(before)
        if key not in STATISTICS
        for i in range(before[key].size)
    ]
    sent = set(sorted(changes)[: encoded[VALUES].size])
    assert encoded[VALUES].size == np.ceil(share * len(changes))
    for change in changes:
        _, key, i = change
        assert found[key].flat[i] == (after if change in sent else before)[key].flat[i]
        assert change not in sent or residual[key].flat[i] == 0


def test_of_equal_changes_the_first_are_sent_in_the_order_of_the_arrays_names() -> None:
    before = {"b": np.zeros(3, np.float32), "a": np.zeros(3, np.float32)}
    after = {"b": np.array([1, -2, 2], np.float32), "a": np.array([1, 2, -1], np.float32)}
    codec = Codec("top-k", 0.65)
    encoded, _ = codec.encode(before, after, {})
    assert {key: a.tolist() for key, a in codec.decode(before, encoded).items()} == {"b": [0, -2, 2], "a": [1, 2, 0]}


def test_places_are_sent_in_the_smaller_of_two_ways() -> None:
    form = {"a": ((1000,), "float32")}
    assert Codec("top-k", 0.01).form(form)[PLACES] == ((10,), "int32")
    assert Codec("top-k", 0.031).form(form)[PLACES] == ((31,), "int32")
    assert Codec("top-k", 0.1).form(form)[PLACES] == ((125,), "uint8")
    sizes = [Codec(name, 0.1).size(form) for name in get_args(CodecName)]
    assert sizes == [4000, 2000, 1004, 525]


def test_a_change_that_is_not_finite_is_not_encoded() -> None:
    before = {"a": np.zeros(2, np.float32)}
    for codec in CODECS.values():
        with pytest.raises(AmosError, match="its update of a holds NaN or infinite values"):
            codec.encode(before, {"a": np.array([1, np.nan], np.float32)}, {})


def larger(seed: int) -> dict[str, np.ndarray]:
    """405 numbers."""
    return {**update(seed), "conv.weight": np.random.default_rng(seed).normal(size=(40, 10)).astype(np.float32)}


FEW, MANY = Codec("top-k", 0.005), Codec("top-k", 0.3)
BAD: dict[str, tuple[Codec, dict[str, Any], str]] = {
    "in full": (Codec("int8"), {"conv.bias": np.zeros(4, np.float32)}, "conv.bias is float32 in its update, and must"),
    "no steps": (Codec("int8"), {SCALES: None}, "lacks 1 arrays, the first is update/scales"),
    "NaN for a step": (Codec("int8"), {SCALES: np.full(3, np.nan, np.float32)}, "scales holds NaN or infinite"),
    "a negative step": (Codec("int8"), {SCALES: np.full(3, -1, np.float32)}, "step of its encoded update is negative"),
    "a step more": (Codec("int8"), {SCALES: np.ones(4, np.float32)}, "update/scales is (4,) in its update, and must"),
    "infinite halves": (Codec("fp16"), {"conv.bias": np.full(4, np.inf, np.float16)}, "conv.bias holds NaN or"),
    "other halves": (Codec("fp16"), {"conv.bias": np.zeros(5, np.float16)}, "conv.bias is (5,) in its update"),
    "a place twice": (FEW, {PLACES: np.array([3, 3, 4], np.int32)}, "or the same one twice"),
    "places in disorder": (FEW, {PLACES: np.array([4, 3, 5], np.int32)}, "or the same one twice"),
    "a place beyond": (FEW, {PLACES: np.array([3, 4, 405], np.int32)}, "weights that the network does not have"),
    "a place before": (FEW, {PLACES: np.array([-1, 3, 4], np.int32)}, "weights that the network does not have"),
    "places in full": (FEW, {PLACES: np.array([1, 3, 4])}, "update/places is int64 in its update"),
    "a value more": (FEW, {VALUES: np.zeros(4, np.float32)}, "update/values is (4,) in its update"),
    "a value of NaN": (FEW, {VALUES: np.full(3, np.nan, np.float32)}, "update/values holds NaN"),
    "bits of all": (MANY, {PLACES: np.full(51, 255, np.uint8)}, "does not have one value for each weight"),
    "a bit less": (MANY, {PLACES: np.packbits(np.arange(405) < 121)}, "does not have one value for each weight"),
    "bits beyond": (MANY, {PLACES: np.packbits(np.arange(408) >= 408 - 122)}, "not have one value for each weight"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("serialise", [record_of, packed])
def test_what_is_no_encoded_update_is_refused_in_words(what: str, serialise: Any) -> None:
    codec, damage, words = BAD[what]
    encoded, _ = codec.encode(larger(0), larger(1), {})
    asked, before = reply(larger(0), 1), record_of(larger(0).items())
    asked.content[ARRAYS] = serialise(encoded.items())
    decode_update(asked, form_of(larger(0)), codec, before)
    assert forms(views_of(asked.content.array_records[ARRAYS])) == forms(larger(0))
    damaged = {key: a for key, a in {**encoded, **damage}.items() if a is not None}
    asked.content[ARRAYS] = serialise(damaged.items())
    with pytest.raises(BadUpdate) as refused:
        decode_update(asked, form_of(larger(0)), codec, before)
    assert words in str(refused.value)


@given(st.sampled_from([Codec("fp16"), Codec("int8"), FEW, MANY]), st.integers(0, 2**32), st.sampled_from([1, 7, 99]))
def test_whatever_the_bits_of_an_encoded_update_are_it_gives_weights_or_is_refused(
    codec: Codec, seed: int, spread: int
) -> None:
    random = np.random.default_rng(seed)
    sent = {}
    for name, (shape, dtype) in codec.form(forms(larger(0))).items():
        data = random.integers(0, 256, max(1, int(np.prod(shape))) * np.dtype(dtype).itemsize, np.uint8)
        data[random.integers(0, 100, data.size) >= spread] = 0
        sent[name] = data.view(dtype)[: int(np.prod(shape))].reshape(shape)
    asked = reply(larger(0), 1)
    asked.content[ARRAYS] = record_of(sent.items())
    with suppress(BadUpdate):
        decode_update(asked, form_of(larger(0)), codec, record_of(larger(0).items()))
        assert forms(views_of(asked.content.array_records[ARRAYS])) == forms(larger(0))


# --- in a federation ----------------------------------------------------------------------------

SETTINGS: dict[str, dict[str, Any]] = {
    "fp16": {"update_codec": "fp16"},
    "int8": {"update_codec": "int8"},
    "top-k": {"update_codec": "top-k", "top_k_share": 0.1},
}


@pytest.fixture(scope="module")
def in_full(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path, store: Path) -> Any:
    return federate(tmp_path_factory.mktemp("full") / "run", read_cohort(tiny_root), store, keep_checkpoints="all")


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_with_encoded_updates_is_near_the_one_without_in_fewer_bytes_and_goes_on_to_the_bit(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, in_full: Any, name: str
) -> None:
    whole = federate(tmp_path / "whole", tiny_cohort, store, **SETTINGS[name])
    weights, full, before = final_weights(whole), final_weights(in_full), in_full.read_checkpoint(1).weights
    near = {"fp16": 1e-3, "int8": 0.02, "top-k": 1.0}[name]
    assert 0 < distance(weights, full) < near * distance(before, full)
    for mine, other in zip(whole.ledger(), in_full.ledger(), strict=True):
        assert mine["bytes_down"] == other["bytes_down"]
        part = mine["bytes_up"] / other["bytes_up"]
        assert part == pytest.approx({"fp16": 0.5, "int8": 0.25, "top-k": 0.131}[name], abs=0.06)
    folder = killed_after(tmp_path / "killed", 2, tiny_cohort, store, **SETTINGS[name])
    assert hashes(resume(folder.path, store)) == hashes(whole)


def test_a_deployed_run_whose_updates_travel_packed_has_the_weights_of_a_simulation(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    settings = {**SETTINGS["int8"], "rounds": 2, "local_steps": 1, "evaluation": {"every": 2, "unseen": False}}
    deployed = deployed_run(tmp_path / "run", tiny_cohort, **settings)
    run_deployed(Hospitals(tmp_path, tiny_cohort, "GDAB"), deployed, 5, AT_ONCE)
    simulated = federate(tmp_path / "simulated", tiny_cohort, store, **settings)
    assert hashes(deployed) == hashes(simulated)
    up = [[entry["sites"][site]["bytes_up"] for site in "ABG"] for entry in deployed.ledger()]
    assert up == [[up[0][0]] * 3] * 2
    assert up[0][0] < 0.27 * deployed.ledger()[0]["sites"]["A"]["bytes_down"]


def test_top_k_of_everything_gives_the_weights_of_a_run_without_encoding(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, in_full: Any
) -> None:
    everything = federate(tmp_path / "run", tiny_cohort, store, update_codec="top-k", top_k_share=1)
    assert hashes(everything) == hashes(in_full)
    prints = [[entry["sites"][s]["update_fingerprint"] for s in "ABG"] for entry in everything.ledger()]
    assert prints == [[entry["sites"][s]["update_fingerprint"] for s in "ABG"] for entry in in_full.ledger()]


def test_a_flower_strategy_and_a_method_that_sees_updates_side_by_side_get_them_decoded(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    options: dict[str, Any] = {"update_codec": "int8", "rounds": 2, "local_steps": 1, "weighting": "equal"}
    options["evaluation"] = {"every": 2, "unseen": False}
    named = {"ours": "fedavg", "theirs": "flwr.serverapp.strategy:FedAvg", "apart": "trimmed-mean"}
    more = {"apart": {"strategy_options": {"bad": 0}}}
    found = {
        key: federate(tmp_path / key, tiny_cohort, store, strategy=name, **options, **more.get(key, {}))
        for key, name in named.items()
    }
    assert hashes(found["ours"]) == hashes(found["theirs"]) == hashes(found["apart"])


def test_what_a_site_keeps_to_itself_is_no_part_of_its_encoded_update(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    settings: dict[str, Any] = {"strategy": "fedper", "local_steps": 1, "evaluation": {"every": 3, "unseen": False}}
    full = federate(tmp_path / "full", tiny_cohort, store, **settings)
    everything = federate(tmp_path / "all", tiny_cohort, store, **settings, update_codec="top-k", top_k_share=1)
    assert hashes(everything) == hashes(full)


def test_scaffolds_controls_still_add_up_because_a_site_keeps_what_the_server_has_decoded(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    coded = federate(tmp_path / "run", tiny_cohort, store, strategy="scaffold", **SETTINGS["top-k"])
    shares = {"A": 3 / 6, "B": 1 / 6, "G": 2 / 6}
    own = {}
    for site in shares:
        [folder] = (coded.path / f"sites/{site}/state/method").iterdir()
        own[site] = read_arrays(folder / "round_0003.safetensors")
    controls = coded.read_checkpoint(3).strategy_arrays
    assert controls
    for key, control in controls.items():
        mean = sum(share * own[site][key.removeprefix("control/")] for site, share in shares.items())
        np.testing.assert_allclose(control, mean, rtol=1e-3, atol=1e-5)


def test_a_site_that_has_lost_its_residual_goes_on_without_it_and_is_named(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    def loses(event: Event) -> None:
        if isinstance(event, RoundFinished) and event.round == 1:
            for file in (tmp_path / "run/sites/A/state/residual").rglob("*.safetensors"):
                file.unlink()

    lost = federate(tmp_path / "run", tiny_cohort, store, loses, **SETTINGS["top-k"])
    words = "began again without its own residual of earlier updates, which was damaged or not there"
    assert [entry["sites"]["A"].get("restarted") for entry in lost.ledger()] == [None, words, None]
    assert len(list((tmp_path / "run/sites/B/state/residual").rglob("*.safetensors"))) == 2


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("serialise", [packed, record_of])
def test_only_the_runs_own_encoding_leaves_a_site(tmp_path: Path, name: str, serialise: Any) -> None:
    cohort = write_tiny_cohort(tmp_path / "cohort")
    task = tiny_task(cohort, **SETTINGS[name])
    site = Hospital(write_hospital(tmp_path / "site", cohort, "A"), task, serialise)
    answer = site.train()
    form = task.codec.form(forms(views_of(site.weights())))
    check_reply(answer, site.settings, organs=task.organs, form=form)
    for other in (Codec("none"), *(Codec(one, 0.2) for one in get_args(CodecName) if one not in ("none", name))):
        with pytest.raises(ReplyWithheld):
            check_reply(answer, site.settings, organs=task.organs, form=other.form(forms(views_of(site.weights()))))
    sent = views_of(answer.content.array_records[ARRAYS])
    odd = {**sent, "update/note": np.zeros(3, np.uint8)}
    answer.content[ARRAYS] = serialise(odd.items())
    with pytest.raises(ReplyWithheld):
        check_reply(answer, site.settings, organs=task.organs, form=form)


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        (["--update-codec", "zip"], "--update-codec is 'zip': choose none, fp16, int8 or top-k"),
        (["--top-k-share", "0"], "--top-k-share is 0: must be"),
        (["--top-k-share", "1.5"], "--top-k-share is 1.5: must be"),
        (["--set", "top_k_share=-1"], "top_k_share is -1"),
        (["--set", "update_codec=gzip"], "update_codec is 'gzip'"),
    ],
)
def test_a_codec_that_there_is_not_is_refused_in_words(
    capsys: pytest.CaptureFixture[str], given_: list[str], words: str
) -> None:
    assert run(["simulate", *given_, "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_a_dry_run_says_how_much_would_come_back(tiny_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    costs = {}
    for name in ("none", "fp16", "int8"):
        config = resolve([Layer("test", {**TINY, "update_codec": name})])
        costs[name] = estimate(config, read_cohort(tiny_root))
    assert costs["fp16"].bytes_up * 2 == costs["none"].bytes_up == costs["fp16"].bytes_down
    assert costs["int8"].bytes_up * 3 < costs["none"].bytes_up
