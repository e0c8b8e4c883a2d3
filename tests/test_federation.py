"""A federation on the inline engine: what it equals, who takes part, and what happens when a site fails."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federations import distance, federate, final_weights, hashes, tiny_config
from flwr.app import Message

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError, RunStopped
from amos_fl.metrics.table import read_scores
from amos_fl.networks.registry import build_network
from amos_fl.prepared.prepare import prepare_cases
from amos_fl.runs.create import create_run
from amos_fl.runs.events import Event, RoundFinished, SiteFailed, SiteWork, silent
from amos_fl.runs.folder import RunFolder
from amos_fl.training.loop import train
from amos_fl.weights import arrays_of, hash_of
from amos_fl_clients.federation.app import make_client_app
from amos_fl_clients.federation.messages import ARRAYS
from amos_fl_clients.federation.records import record_of, views_of
from amos_fl_server.federation.engines.base import SimulatedSites
from amos_fl_server.federation.engines.inline import InlineEngine, InlineGrid
from amos_fl_server.federation.rounds import Federation
from amos_fl_server.federation.simulate import lay_out_sites
from amos_fl_server.federation.strategies import make_strategy


def test_the_same_run_gives_the_same_weights(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    first = federate(tmp_path / "first", tiny_cohort, store)
    second = federate(tmp_path / "second", tiny_cohort, store)
    other = federate(tmp_path / "other", tiny_cohort, store, seed=1)
    assert hashes(first) == hashes(second)
    assert not set(hashes(first)) & set(hashes(other))


def test_the_order_of_the_cohorts_rows_changes_nothing(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    as_written = federate(tmp_path / "as_written", tiny_cohort, store, rounds=1)
    by_site = replace(tiny_cohort, cases=tuple(sorted(tiny_cohort.cases, key=lambda c: c.site, reverse=True)))
    assert hashes(federate(tmp_path / "by_site", by_site, store, rounds=1)) == hashes(as_written)


@pytest.mark.parametrize("optimizer_state", ["keep", "reset"])
def test_one_site_alone_is_training_at_that_site(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, optimizer_state: str
) -> None:
    alone = tiny_cohort.only(["A"])
    folder = federate(tmp_path / "run", alone, store, optimizer_state=optimizer_state)
    config = folder.config()
    network = build_network(config.model, config.plan, 2, seed=config.seed)
    cases = prepare_cases(alone.of(split="train"), config.plan, store, (1, 2))
    # With `keep` it is one training of all steps; with `reset` one that starts its optimizer anew at every round.
    steps = [6] if optimizer_state == "keep" else [2, 2, 2]
    for number, count in enumerate(steps):
        train(
            network,
            cases,
            config.plan,
            config.training,
            organs=(1, 2),
            seed=config.seed,
            site="A",
            steps=count,
            first_step=number * count,
            total_steps=6,
        )
    assert hash_of(arrays_of(network)) == hashes(folder)[-1]


def test_keeping_and_resetting_the_optimizer_differ(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    kept = federate(tmp_path / "keep", tiny_cohort, store, optimizer_state="keep")
    reset = federate(tmp_path / "reset", tiny_cohort, store, optimizer_state="reset")
    assert hashes(kept)[0] == hashes(reset)[0]
    assert hashes(kept)[1] != hashes(reset)[1]


def test_fedprox_with_mu_0_is_fedavg_and_a_larger_mu_stays_nearer(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    settings = {"rounds": 1, "local_steps": 6}
    fedavg = federate(tmp_path / "fedavg", tiny_cohort, store, **settings)

    def with_mu(mu: float) -> RunFolder:
        options = {"strategy": "fedprox", "strategy_options": {"mu": mu}}
        return federate(tmp_path / f"mu{mu}", tiny_cohort, store, **options, **settings)

    assert hashes(with_mu(0.0)) == hashes(fedavg)
    config = fedavg.config()
    start = arrays_of(build_network(config.model, config.plan, 2, seed=config.seed))
    moved = [distance(final_weights(folder), start) for folder in (fedavg, with_mu(1.0), with_mu(10.0))]
    assert moved[0] > moved[1] > moved[2]


def test_flowers_own_strategy_in_the_loop_gives_the_same_weights(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    ours = federate(tmp_path / "ours", tiny_cohort, store)
    theirs = federate(tmp_path / "theirs", tiny_cohort, store, strategy="flwr.serverapp.strategy:FedAvg")
    assert hashes(ours) == hashes(theirs)
    prox = federate(
        tmp_path / "prox",
        tiny_cohort,
        store,
        strategy="flwr.serverapp.strategy:FedProx",
        strategy_options={"proximal_mu": 0.5},
    )
    our_prox = federate(tmp_path / "our_prox", tiny_cohort, store, strategy="fedprox", strategy_options={"mu": 0.5})
    assert hashes(prox) == hashes(our_prox) != hashes(ours)


def test_unseen_and_held_out_sites_train_nothing(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    seen: list[Event] = []
    folder = federate(tmp_path / "run", tiny_cohort.holding_out(["A"]), store, seen.append, rounds=1)
    trained = {event.site for event in seen if isinstance(event, SiteWork) and event.activity == "train"}
    scored = {event.site for event in seen if isinstance(event, SiteWork) and event.activity == "evaluate"}
    assert trained == {"B", "G"}
    assert scored == {"A", "D", "G"}
    assert {case.site: case.seen for case in read_scores(folder.path / "scores.csv")} == {
        "A": False,
        "D": False,
        "G": True,
    }


@pytest.mark.parametrize(("weighting", "shares"), [("cases", (3, 1, 2)), ("equal", (1, 1, 1)), ("steps", (2, 2, 2))])
def test_updates_weigh_by_the_rule(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, weighting: str, shares: tuple[int, ...]
) -> None:
    folder = federate(tmp_path / "run", tiny_cohort, store, rounds=1, weighting=weighting)
    config = folder.config()
    updates = []
    for site in ("A", "B", "G"):
        network = build_network(config.model, config.plan, 2, seed=config.seed)
        cases = prepare_cases(tiny_cohort.of(site=site, split="train"), config.plan, store, (1, 2))
        settings = {"organs": (1, 2), "seed": config.seed, "site": site}
        train(network, cases, config.plan, config.training, steps=2, first_step=0, total_steps=2, **settings)
        updates.append(arrays_of(network))
    for name, array in final_weights(folder).items():
        mean = sum(share * update[name].astype(np.float64) for share, update in zip(shares, updates, strict=True))
        np.testing.assert_allclose(array, mean / sum(shares), rtol=1e-4, atol=1e-6)


def test_a_site_needs_no_file_of_another_site(tmp_path: Path, store: Path) -> None:
    from conftest import write_tiny_cohort

    cohort = write_tiny_cohort(tmp_path / "cohort")
    reference = federate(tmp_path / "reference", cohort, store, rounds=1)
    run = tmp_path / "run"
    aside = tmp_path / "aside"

    def others_gone_while_a_trains(event: Event) -> None:
        if not (isinstance(event, SiteWork) and (event.site, event.activity) == ("A", "train")):
            return
        others = [path for c in cohort.cases if c.site != "A" for path in (c.image, c.label) if path]
        others += [run / "sites" / site for site in ("B", "D", "G")]
        if event.done == 1:
            aside.mkdir()
            for number, path in enumerate(others):
                shutil.move(path, aside / str(number))
        if event.done == event.total:
            for number, path in enumerate(others):
                shutil.move(aside / str(number), path)

    assert hashes(federate(run, cohort, store, others_gone_while_a_trains, rounds=1)) == hashes(reference)
    assert {c.site for c in RunFolder(run / "sites" / "A").cohort().cases} == {"A"}


def test_a_site_that_fails_is_left_out_of_the_round_and_named(tmp_path: Path, store: Path) -> None:
    from conftest import write_tiny_cohort

    cohort = write_tiny_cohort(tmp_path / "cohort")
    scan = cohort.of(site="B", split="train")[0].image
    failed: list[SiteFailed] = []

    def scan_gone_in_round_2(event: Event) -> None:
        if isinstance(event, RoundFinished):
            scan.rename(scan.with_suffix(".away")) if event.round == 1 else scan.with_suffix(".away").rename(scan)
        if isinstance(event, SiteFailed):
            failed.append(event)

    folder = federate(tmp_path / "run", cohort, store, scan_gone_in_round_2, rounds=2, evaluation={"every": 9})
    assert [(event.site, event.round) for event in failed] == [("B", 2)]
    assert "b_train_0.nii.gz" in failed[0].reason
    assert [sorted(entry["sites"]) for entry in folder.ledger()] == [["A", "B", "G"], ["A", "G"]]
    assert "B" in folder.ledger()[1]["missing"]
    assert (folder.path / "summary.md").read_text().index("What went wrong") < 200


def test_below_the_minimum_of_sites_the_run_stops_with_its_last_checkpoint(tmp_path: Path, store: Path) -> None:
    from conftest import write_tiny_cohort

    cohort = write_tiny_cohort(tmp_path / "cohort")
    scan = cohort.of(site="B", split="train")[0].image

    def scan_gone(event: Event) -> None:
        if isinstance(event, RoundFinished) and event.round == 1:
            scan.unlink()

    with pytest.raises(RunStopped, match=r"round 2: 2 of 3 sites.*B: b_train_0.nii.gz") as stopped:
        federate(tmp_path / "run", cohort, store, scan_gone, min_sites=3)
    assert stopped.value.exit_code == 3
    assert RunFolder(tmp_path / "run").rounds_with_checkpoints() == [1]


def test_a_site_over_its_time_is_stopped_between_steps(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    with pytest.raises(RunStopped, match=r"it was stopped after 1e-06 s, at step 1"):
        federate(tmp_path / "run", tiny_cohort, store, site_timeout_s=1e-6)


def test_a_site_whose_loss_diverges_is_named(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    with pytest.raises(RunStopped, match=r"site A: the loss at step \d+ is not finite"):
        federate(tmp_path / "run", tiny_cohort, store, rounds=1, local_steps=20, training={"learning_rate": 1e30})


@pytest.mark.parametrize("harm", ["nan", "missing", "misshapen"])
def test_a_poisoned_update_is_refused_and_its_site_named(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, harm: str
) -> None:
    config = tiny_config(rounds=1, evaluation={"every": 1})
    folder = create_run(tmp_path / "run", config, tiny_cohort)
    sites = lay_out_sites(folder, tiny_cohort, config, store)
    app = make_client_app(SimulatedSites(folder.path / "sites", sites))

    def hostile(message: Message, context: object) -> Message:
        reply = app(message, context)  # pyright: ignore[reportArgumentType]
        if message.metadata.message_type == "train" and reply.content.config_records["site"]["site"] == "B":
            arrays = {name: array.copy() for name, array in views_of(reply.content.array_records[ARRAYS]).items()}
            first = next(iter(arrays))
            if harm == "nan":
                arrays[first].flat[0] = np.nan
            elif harm == "missing":
                del arrays[first]
            else:
                arrays[first] = arrays[first][:1]
            reply.content[ARRAYS] = record_of(arrays.items())
        return reply

    strategy = make_strategy("fedavg", {})
    federation = Federation(
        config, folder, strategy, InlineEngine(), silent, tiny_cohort.organs, sites, tiny_cohort.seen_sites
    )
    federation.run(InlineGrid(hostile, sites))
    entry = folder.ledger()[0]
    assert sorted(entry["sites"]) == ["A", "G"]
    assert {"nan": "NaN", "missing": "lacks 1 arrays", "misshapen": "must be"}[harm] in entry["missing"]["B"]


def test_the_chosen_round_is_the_best_on_seen_validation_and_the_last_without(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    folder = federate(tmp_path / "run", tiny_cohort, store, rounds=3, evaluation={"every": 1})
    from amos_fl.runs.selection import choose_round, macro_dsc

    evaluations = {n: folder.read_evaluation(n, "val") for n in (1, 2, 3)}
    scores = {n: macro_dsc(found, seen=True) for n, found in evaluations.items() if found is not None}
    assert scores.keys() == {1, 2, 3}
    assert choose_round(folder, folder.config(), 3).round == max(scores, key=lambda n: (scores[n], -n))
    without = replace(tiny_cohort, cases=tuple(c for c in tiny_cohort.cases if c.split != "val"))
    second = federate(tmp_path / "without", without, store, rounds=2)
    chosen = choose_round(second, second.config(), 2)
    assert chosen.round == 2
    assert "no validation scores" in chosen.sentence
    assert second.read_evaluation(2, "test") is not None


def test_a_truncated_scan_is_one_plain_sentence(tmp_path: Path, store: Path) -> None:
    from conftest import write_tiny_cohort

    cohort = write_tiny_cohort(tmp_path / "cohort")
    scan = cohort.of(site="G", split="train")[0].image
    scan.write_bytes(scan.read_bytes()[:2000])
    with pytest.raises(AmosError, match=r"g_train_0.nii.gz"):
        federate(tmp_path / "run", cohort, store)


def test_no_case_to_train_on_is_said(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    with pytest.raises(AmosError, match="no site has a labelled training case"):
        federate(tmp_path / "run", tiny_cohort.only(["D"]), store)
