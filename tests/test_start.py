"""`--init RUN`: a run that begins with another one's weights, and the head that is remade where organs differ."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from federations import TINY, TINY_PLAN, federate, hashes, resume, tiny_config

from amos_fl.api.settings import resolve_run
from amos_fl.cli.main import run
from amos_fl.cohort.table import Cohort, write_cohort
from amos_fl.errors import AmosError
from amos_fl.networks.catalogue import NETWORKS
from amos_fl.networks.head import class_axes
from amos_fl.networks.norms import with_group_norm
from amos_fl.networks.registry import build_network
from amos_fl.networks.vnet import VNet
from amos_fl.runs.config import RunConfig
from amos_fl.runs.create import create_run
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.layers import Layer
from amos_fl.runs.origin import Origin, weights_file
from amos_fl.runs.start import start_weights, take_over
from amos_fl.volumes.plan import plan_named
from amos_fl.weights import Arrays, arrays_of, hash_of, read_arrays, save_arrays

HEAD = "output_block.conv.conv"
PLAN = tiny_config().plan


def saved(folder: Path, organs: dict[int, str] | None, *, count: int = 2, seed: int = 7, model: str = "small") -> Path:
    """Weights in a file, with the names of their organs beside them where there are any."""
    path = folder / "weights.safetensors"
    save_arrays(arrays_of(build_network(model, PLAN, len(organs or range(count)), seed=seed)), path)
    if organs is not None:
        about = {"model": model, "plan": PLAN.model_dump(mode="json"), "organs": organs, "round": 3}
        (folder / "network.json").write_text(json.dumps(about))
    return path


def begun(start: Path, organs: dict[int, str], seed: int = 0) -> tuple[Arrays, str]:
    network, report = start_weights(tiny_config(start_from=str(start), seed=seed), organs)
    assert report is not None
    return arrays_of(network), report.sentence


def test_equal_organs_begin_with_equal_bits_whatever_their_labels_and_spelling(tmp_path: Path) -> None:
    start = saved(tmp_path, {1: "left kidney", 2: "liver"})
    weights, sentence = begun(start, {4: "Kidney_Left", 9: "Liver"})
    assert hash_of(weights) == hash_of(read_arrays(start))
    everything = f"{sum(array.size for array in weights.values()):,}"
    assert f"{everything} of {everything} are taken over; the head as it is" in sentence


def test_organs_in_another_order_keep_their_own_part_of_the_head(tmp_path: Path) -> None:
    start = saved(tmp_path, {1: "spleen", 2: "liver"})
    weights, _ = begun(start, {1: "liver", 2: "spleen"})
    theirs = read_arrays(start)
    for name in class_axes("small", PLAN, 2):
        assert np.array_equal(weights[name], theirs[name][[0, 2, 1]]), name


@pytest.mark.parametrize(
    ("organs", "places", "words"),
    [
        ({1: "liver"}, {0: 0, 1: 2}, "keeps background, liver; without a place here: spleen"),
        ({1: "liver", 2: "heart", 3: "spleen"}, {0: 0, 1: 2, 3: 1}, "liver, spleen; fresh in the head: heart"),
        ({1: "heart"}, {0: 0}, "keeps background; fresh in the head: heart; without a place here: spleen, liver"),
    ],
)
def test_fewer_more_and_other_organs_share_what_they_share(
    tmp_path: Path, organs: dict[int, str], places: dict[int, int], words: str
) -> None:
    start = saved(tmp_path, {1: "spleen", 2: "liver"})
    theirs = read_arrays(start)
    weights, sentence = begun(start, organs, seed=5)
    assert words in sentence
    fresh = arrays_of(build_network("small", PLAN, len(organs), seed=5))
    head = class_axes("small", PLAN, len(organs))
    assert any(name.startswith(HEAD) for name in head)
    assert any("deep_supervision" in name for name in head)
    for name, array in weights.items():
        if name not in head:
            assert np.array_equal(array, theirs[name]), name
            continue
        for channel in range(1 + len(organs)):
            expected = theirs[name][places[channel]] if channel in places else fresh[name][channel]
            assert np.array_equal(array[channel], expected), (name, channel)
    again, _ = begun(start, organs, seed=5)
    other, _ = begun(start, organs, seed=6)
    assert hash_of(again) == hash_of(weights)
    assert (hash_of(other) == hash_of(weights)) == (len(places) == 1 + len(organs))


@pytest.mark.parametrize("model", sorted(NETWORKS))
def test_every_network_has_a_head_that_is_found_and_remade(model: str) -> None:
    axes = class_axes(model, plan_named("coarse" if model == "small" else "amos-ct"), 4)
    assert axes
    assert all(mine for mine in axes.values())


def test_an_array_with_two_axes_of_organs_keeps_what_both_sides_share() -> None:
    from amos_fl.runs.start import _joined

    own, other = np.zeros((3, 3, 2), np.float32), np.arange(8, dtype=np.float32).reshape(2, 2, 2) + 1
    joined, count = _joined(own, other, (0, 1), [0, -1, 1], 1, Origin(Path("w")))
    assert count == 8
    assert np.array_equal(joined[np.ix_([0, 2], [0, 2])], other)
    assert not joined[1].any()
    assert not joined[:, 1].any()


def test_a_file_without_names_fits_by_its_size_alone(tmp_path: Path) -> None:
    start = saved(tmp_path, None)
    weights, sentence = begun(start, {1: "a", 2: "b"})
    assert hash_of(weights) == hash_of(read_arrays(start))
    assert "does not say which organs it knows" in sentence
    fewer, sentence = begun(start, {1: "a"})
    assert np.array_equal(fewer[f"{HEAD}.weight"][0], read_arrays(start)[f"{HEAD}.weight"][0])
    assert "fresh in the head: a" in sentence


def test_another_network_is_refused_in_a_sentence_before_there_is_a_run_folder(
    tmp_path: Path, tiny_cohort: Cohort, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, model in (("known", "unet"), ("unknown", "unet")):
        (tmp_path / name).mkdir()
        saved(tmp_path / name, {1: "ball", 2: "box"} if name == "known" else None, model=model)
    for name, words in (
        ("known", "of the network 'unet', and this run trains 'small'"),
        ("unknown", "another network"),
    ):
        config = tiny_config(start_from=str(tmp_path / name / "weights.safetensors"))
        with pytest.raises(AmosError, match=words):
            create_run(tmp_path / "run", config, tiny_cohort)
    assert not (tmp_path / "run").exists()
    ask = ["simulate", "--cohort", str(tiny_root), "--model", "small", "--out", str(tmp_path / "run")]
    assert run([*ask, "--init", str(tmp_path / "known")]) == 2
    assert "leave out --model" in capsys.readouterr().err
    assert run([*ask, "--init", str(tmp_path / "nothing")]) == 2
    assert "no such weights" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_group_normalisation_comes_along_and_other_statistics_are_refused_with_the_remedy(
    tmp_path: Path, tiny_root: Path
) -> None:
    (tmp_path / "weights.safetensors").touch()  # only what stands beside it is read here
    about = {"model": "vnet", "plan": PLAN.model_dump(mode="json"), "organs": {"1": "a"}, "norm_statistics": "group"}
    (tmp_path / "network.json").write_text(json.dumps(about))
    asked = {"cohort": str(tiny_root), "start_from": str(tmp_path)}
    config, _ = resolve_run([Layer("test", asked)])
    assert (config.model, config.norm_statistics, config.plan.patch) == ("vnet", "group", PLAN.patch)
    config, _ = resolve_run([Layer("test", {**asked, "norm_statistics": "local"})])
    assert config.norm_statistics == "local"
    batch, group = VNet(1), with_group_norm(VNet(1))
    for network, other, remedy in ((batch, group, "to group"), (group, batch, "to average or local")):
        with pytest.raises(AmosError, match=f"running statistics.*set norm_statistics {remedy}"):
            take_over(network, arrays_of(other), Origin(tmp_path / "weights.safetensors"), config, {1: "a"})


def test_arrays_of_another_shape_are_fresh_and_named_while_most_still_fit(tmp_path: Path) -> None:
    start = saved(tmp_path, {1: "a", 2: "b"})
    arrays = read_arrays(start)
    odd = "input_block.conv.weight" if "input_block.conv.weight" in arrays else sorted(arrays)[0]
    arrays[odd] = np.zeros((*arrays[odd].shape, 1), np.float32)
    network = build_network("small", PLAN, 2, seed=0)
    own = arrays_of(build_network("small", PLAN, 2, seed=0))[odd]
    config: RunConfig = tiny_config()
    report = take_over(network, arrays, Origin(start, "small", PLAN, {1: "a", 2: "b"}), config, {1: "a", 2: "b"})
    assert report.fresh == (odd,)
    assert odd in report.sentence
    assert np.array_equal(arrays_of(network)[odd], own)
    for name in arrays:
        arrays[name] = np.zeros((*arrays[name].shape, 1), np.float32)
    with pytest.raises(AmosError, match="another network"):
        take_over(network, arrays, Origin(start), config, {1: "a", 2: "b"})


def test_any_training_begins_with_the_same_weights_and_records_them(
    finished_run: Path, tiny_root: Path, tiny_cohort: Cohort, store: Path, tmp_path: Path, capsys
) -> None:
    organs = {1: "box", 2: "cone"}
    other = replace(tiny_cohort, organs=organs)
    write_cohort(other, tmp_path / "cohort.csv")
    settings = tmp_path / "settings.yaml"
    few = {key: TINY[key] for key in ("device", "training")}
    settings.write_text(yaml.safe_dump({**few, "rounds": 1, "local_steps": 0, "evaluation": {"every": 1}}))
    ask = ["--config", str(settings), "--cohort", str(tmp_path), "--sites", "B,D"]
    ask += ["--init", str(finished_run), "--store", str(store)]
    for command in ("simulate", "centralized"):
        assert run([command, *ask, "--out", str(tmp_path / command)]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert "begins with the weights of run: " in printed
        assert "fresh in the head: cone" in printed
    assert run(["local", *ask, "--out", str(tmp_path / "local")]) == 0
    runs = [RunFolder(tmp_path / name) for name in ("simulate", "centralized", "local/B")]
    starts = [json.loads((folder.path / "start.json").read_text()) for folder in runs]
    assert len({start["first_weights_sha256"] for start in starts}) == 1
    # With no step taken at the one site, what comes out of the first round is the start.
    assert {hashes(folder)[0] for folder in runs} == {starts[0]["first_weights_sha256"]}
    about = starts[0]
    assert about["head"]["kept"] == ["box"]
    assert about["head"]["dropped"] == ["ball"]
    # The plan is the run's, because nothing else was said.
    assert runs[0].config().plan.name == TINY_PLAN["name"]
    for file in ("summary.md", "model/MODEL_CARD.md"):
        assert about["sentence"] in (runs[0].path / file).read_text(), file
    assert run(["simulate", *ask, "--dry-run"]) == 0
    assert "fresh in the head: cone" in " ".join(capsys.readouterr().out.split())


def test_a_resumed_run_needs_its_start_no_more_once_it_has_a_checkpoint(
    tiny_cohort: Cohort, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "start").mkdir()
    start = saved(tmp_path / "start", {1: "ball", 2: "cone"})
    only_b = tiny_cohort.only(["B"])
    whole = federate(tmp_path / "whole", only_b, store, start_from=str(start), rounds=2)
    config = tiny_config(start_from=str(start), rounds=2, cohort="")
    create_run(tmp_path / "late", config, only_b)
    first = resume(tmp_path / "late", store)
    assert hashes(first) == hashes(whole)
    create_run(tmp_path / "changed", config, only_b)
    saved(tmp_path / "start", {1: "ball", 2: "cone"}, seed=8)
    with pytest.raises(AmosError, match="has changed since"):
        resume(tmp_path / "changed", store)
    import shutil

    shutil.rmtree(tmp_path / "start")
    for file in ("summary.md", "checkpoints/round_0002"):
        path = whole.path / file
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    kept = hashes(whole)
    assert hashes(resume(whole.path, store)) == kept


def test_what_is_no_start_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("rounds: 2\n")
    with pytest.raises(AmosError, match="has not finished"):
        weights_file(tmp_path)
    group = tmp_path / "group"
    group.mkdir()
    (group / "group.yaml").write_text("kind: local\n")
    with pytest.raises(AmosError, match="holds several runs"):
        weights_file(group)
