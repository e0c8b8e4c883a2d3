"""The baselines: each is the same training on other cases, at a budget that is equal by construction."""

from pathlib import Path

import numpy as np
import pytest
from federations import federate, final_weights, hashes, tiny_config

from amos_fl.cohort.reference import reference_of
from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError, Interrupted
from amos_fl.inference.predict import predict_case
from amos_fl.inference.site_choice import site_choices
from amos_fl.metrics.scores import UNIT, score_case
from amos_fl.networks.registry import build_network
from amos_fl.prepared.prepare import prepare_cases
from amos_fl.runs.arms import centralized, finetunes_of, leave_one_out, locals_of
from amos_fl.runs.config import RunConfig
from amos_fl.runs.create import create_run
from amos_fl.runs.evaluation import Evaluation
from amos_fl.runs.events import SiteWork
from amos_fl.runs.folder import OWN, RunFolder, open_run
from amos_fl.runs.group import PlannedRun, create_group, read_group
from amos_fl.runs.record import read_run, read_runs
from amos_fl.runs.selection import best_rounds, bests_of, rounds_worth_keeping
from amos_fl.training.loop import train
from amos_fl.weights import arrays_of, load_arrays, read_arrays
from amos_fl_server.federation.simulate import simulate


@pytest.fixture
def base(tiny_root: Path) -> RunConfig:
    return tiny_config(cohort=str(tiny_root))


def carry_out(member: PlannedRun, out: Path, store: Path, listener=lambda event: None) -> RunFolder:
    folder = create_run(out, member.config, member.cohort)
    simulate(folder, member.config, folder.cohort(), store, listener)
    return folder


def trained_directly(base: RunConfig, cohort: Cohort, store: Path, name: str, cases, steps: int, start=None):
    organs = tuple(cohort.organs)
    network = build_network(base.model, base.plan, len(organs), seed=base.seed)
    if start is not None:
        load_arrays(network, start)
    train(
        network,
        prepare_cases(cases, base.plan, store, organs),
        base.plan,
        base.training,
        organs=organs,
        seed=base.seed,
        site=name,
        steps=steps,
        first_step=0,
        total_steps=steps,
    )
    return arrays_of(network)


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_the_centralized_run_is_one_training_over_the_pooled_cases(base, tiny_cohort, store, tmp_path):
    folder = carry_out(centralized(base, tiny_cohort), tmp_path / "run", store)
    pooled = tiny_cohort.of(split="train", labelled=True)
    steps = base.rounds * base.local_steps * 3
    expected = trained_directly(base, tiny_cohort, store, "pooled", pooled, steps)
    assert equal(final_weights(folder), expected)
    record = read_run(folder.path)
    assert record.cost.steps == record.cost.sequential_steps == steps
    assert record.cost.bytes_down == record.cost.bytes_up == 0
    assert {case.site: case.seen for case in record.results.cases} == {"A": True, "G": True, "D": False}


def test_equal_budgets_are_equal(base, tiny_cohort, store, tmp_path):
    federated = read_run(federate(tmp_path / "f", tiny_cohort, store).path)
    samples = read_run(carry_out(centralized(base, tiny_cohort), tmp_path / "c", store).path)
    steps = read_run(carry_out(centralized(base, tiny_cohort, "equal-steps"), tmp_path / "s", store).path)
    alone = [carry_out(m, tmp_path / m.name, store).path for m in locals_of(base, tiny_cohort)]
    assert samples.cost.patches == federated.cost.patches == sum(r.cost.patches for r in read_runs(alone))
    assert steps.cost.sequential_steps == federated.cost.sequential_steps


def test_a_local_run_trains_its_site_alone_and_is_scored_on_all(base, tiny_cohort, store, tmp_path):
    members = {member.name: member for member in locals_of(base, tiny_cohort)}
    assert set(members) == {"A", "B", "G"}
    folder = carry_out(members["G"], tmp_path / "G", store)
    cases = tiny_cohort.of(site="G", split="train", labelled=True)
    expected = trained_directly(base, tiny_cohort, store, "G", cases, base.rounds * base.local_steps)
    assert equal(final_weights(folder), expected)
    assert {case.site: case.seen for case in read_run(folder.path).results.cases} == {"A": False, "D": False, "G": True}


def test_fine_tuning_continues_the_chosen_weights(base, tiny_cohort, store, tmp_path):
    federated = federate(tmp_path / "f", tiny_cohort, store)
    weights = federated.path / "model" / "weights.safetensors"
    members = {m.name: m for m in finetunes_of(base, tiny_cohort, weights, rounds=2, learning_rate=0.001)}
    folder = carry_out(members["A"], tmp_path / "A", store)
    config = base.model_copy(update={"training": base.training.model_copy(update={"learning_rate": 0.001})})
    cases = tiny_cohort.of(site="A", split="train", labelled=True)
    steps = 2 * base.local_steps
    expected = trained_directly(config, tiny_cohort, store, "A", cases, steps, start=read_arrays(weights))
    assert equal(final_weights(folder), expected)


def test_two_starts_are_two_runs(base, tiny_cohort, store, tmp_path):
    """Sites keep their momentum by the run's id: one that starts elsewhere must not find it."""
    ids = []
    for seed in (0, 1):
        weights = federate(tmp_path / f"f{seed}", tiny_cohort, store, seed=seed).path / "model/weights.safetensors"
        member = finetunes_of(base, tiny_cohort, weights)[0]
        ids.append(create_run(tmp_path / f"t{seed}", member.config, member.cohort).run_id)
    assert ids[0] != ids[1]


def test_leaving_a_site_out_is_holding_it_out(base, tiny_cohort, store, tmp_path):
    members = {member.name: member for member in leave_one_out(base, tiny_cohort)}
    assert set(members) == {"without-A", "without-B", "without-G"}
    left_out = carry_out(members["without-A"], tmp_path / "without", store)
    held_out = federate(tmp_path / "held", tiny_cohort.holding_out(["A"]), store, hold_out=("A",))
    assert hashes(left_out) == hashes(held_out)
    assert {case.site: case.seen for case in read_run(left_out.path).results.cases}["A"] is False


def test_an_interrupted_pooled_run_ends_with_the_same_weights(base, tiny_cohort, store, tmp_path):
    whole = carry_out(centralized(base, tiny_cohort), tmp_path / "whole", store)
    member = centralized(base, tiny_cohort)

    def interrupt(event: object) -> None:
        if isinstance(event, SiteWork) and event.activity == "train" and event.round == 2:
            raise Interrupted("here")

    with pytest.raises(Interrupted):
        carry_out(member, tmp_path / "run", store, interrupt)
    folder = open_run(tmp_path / "run")
    assert not folder.finished
    simulate(folder, folder.config(), folder.cohort(), store, lambda event: None)
    assert hashes(folder) == hashes(whole)


def test_a_pooled_trainer_refuses_a_site_of_its_name(base, tiny_cohort, store, tmp_path):
    from dataclasses import replace

    renamed = tuple(replace(case, site="pooled") if case.site == "B" else case for case in tiny_cohort.cases)
    with pytest.raises(AmosError, match="called 'pooled'"):
        carry_out(centralized(base, Cohort(renamed, tiny_cohort.organs)), tmp_path / "run", store)


def test_a_group_knows_what_is_left(base, tiny_cohort, store, tmp_path):
    members = locals_of(base, tiny_cohort)
    group = create_group(tmp_path / "local", "local", members)
    assert read_group(tmp_path / "local") == group
    assert len(group.unfinished) == 3
    with pytest.raises(AmosError, match="has not finished"):
        read_runs([group.path])
    for folder in group.unfinished:
        simulate(folder, folder.config(), folder.cohort(), store, lambda event: None)
    assert not read_group(group.path).unfinished
    assert [record.name for record in read_runs([group.path])] == ["local/A", "local/B", "local/G"]
    assert [record.name for record in read_runs([group.path / "A", group.path])] == ["local/A", "local/B", "local/G"]
    with pytest.raises(AmosError, match="holds a group of runs already"):
        create_group(tmp_path / "local", "local", members)


def test_a_sites_own_round_is_scored_with_the_weights_of_that_round(tiny_cohort, store, tmp_path):
    kept = {"keep_checkpoints": "all", "selection": "last"}
    folder = federate(tmp_path / "f", tiny_cohort, store, rounds=3, evaluation={"every": 1}, **kept)
    evaluation = folder.read_evaluation(1, "val")
    assert evaluation is not None
    # Round 1 as if it had been perfect at A: A alone would choose it, and its weights must still be worth keeping.
    perfect = evaluation.model_dump()
    for organ in perfect["sites"]["A"]["scores"]["organs"].values():
        organ["dsc_sum"] = organ["counted"] * UNIT
    perfect["sites"]["A"]["cases"] = []  # which would say otherwise
    folder.write_evaluation(1, "val", Evaluation.model_validate(perfect))
    assert best_rounds(folder, 3)["A"] == 1
    assert 1 in rounds_worth_keeping(bests_of(folder, 3), bests_of(folder, 3, OWN["val"]), folder.config(), 3)
    assert "D" not in best_rounds(folder, 3)  # an unseen scanner chooses nothing
    choice = next(choice for choice in site_choices(folder, store) if choice.site == "A")
    assert (choice.round_for_all, choice.own_round) == (3, 1)

    organs = tuple(tiny_cohort.organs)
    network = build_network("small", folder.config().plan, len(organs), seed=0)
    load_arrays(network, read_arrays(folder.checkpoint_folder(1) / "weights.safetensors"))
    case = tiny_cohort.of(site="A", split="test")[0]
    prepared = prepare_cases([case], folder.config().plan, store, organs)[0]
    prediction = predict_case(network, prepared, folder.config().plan, organs=organs)
    reference = reference_of(case, organs)
    scores = score_case(prediction, reference.array, reference.spacing_mm, organs)
    assert choice.test_dsc_own == pytest.approx(np.nanmean([score.dsc for score in scores.values()]), abs=1e-9)
