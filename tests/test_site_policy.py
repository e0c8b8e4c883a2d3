"""What a hospital's own settings decide: requests beyond them are refused by name, replies hold what is on the list."""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federations import final_weights, hashes, tiny_config
from hospitals import hospital, json_of, tiny_task, write_hospital

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.runs.create import create_run
from amos_fl.runs.events import Event, Listener, SiteWork, silent
from amos_fl.runs.folder import RunFolder
from amos_fl_clients.federation.app import make_client_app
from amos_fl_clients.federation.audit import AUDIT_LOG
from amos_fl_clients.federation.policy import Refusal, pause, pseudonym_key, resume, shared_name
from amos_fl_clients.federation.settings import read_settings
from amos_fl_clients.federation.state import MOMENTUM, load_kept, save_kept
from amos_fl_server.federation.engines.base import SimulatedSites
from amos_fl_server.federation.engines.inline import InlineEngine, InlineGrid
from amos_fl_server.federation.rounds import Federation
from amos_fl_server.federation.simulate import lay_out_sites
from amos_fl_server.federation.strategies import strategy_of


def federate_with(
    out: Path,
    cohort: Cohort,
    store: Path,
    policies: Mapping[str, Mapping[str, object]],
    listener: Listener = silent,
    **settings: object,
) -> RunFolder:
    """A federation in which some sites have a policy of their own."""
    config = tiny_config(**settings)
    folder = create_run(out, config, cohort)
    sites = lay_out_sites(folder, cohort, config, store)
    for site, policy in policies.items():
        file = folder.site(site) / "site.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "share_error_details": False, **policy}))
    settings_of = SimulatedSites(folder.path.resolve() / "sites", sites)
    app = make_client_app(settings_of, listener_of=lambda _: listener)
    strategy = strategy_of(config)
    trainers = cohort.seen_sites
    Federation(config, folder, strategy, InlineEngine(), silent, cohort.organs, sites, trainers).run(
        InlineGrid(app, sites)
    )
    return folder


def test_a_site_that_refuses_evaluation_on_one_split_still_trains(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    policy = {"A": {"refuse_evaluation_on": ["test"]}}
    folder = federate_with(tmp_path / "run", tiny_cohort, store, policy, rounds=1, evaluation={"every": 1})
    assert sorted(folder.ledger()[0]["sites"]) == ["A", "B", "G"]
    val, test = folder.read_evaluation(1, "val"), folder.read_evaluation(1, "test")
    assert val is not None
    assert test is not None
    assert "A" in val.sites
    assert test.missing == {"A": "refused by site A: it does not allow evaluation on test"}
    assert sorted(test.sites) == ["D", "G"]


def test_more_steps_than_a_site_allows_are_refused_and_its_name_is_in_the_ledger(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    policy = {"A": {"max_steps_per_round": 1}}
    folder = federate_with(tmp_path / "run", tiny_cohort, store, policy, rounds=1, evaluation={"every": 1})
    entry = folder.ledger()[0]
    assert entry["missing"] == {"A": "refused by site A: it allows 1 steps a round, and 2 were asked for"}
    assert sorted(entry["sites"]) == ["B", "G"]


def test_a_site_trains_in_the_methods_that_it_allows_and_its_log_names_the_one_asked_for(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    policy = {"A": {"allowed_methods": ["fedavg", "scaffold"]}, "B": {"allowed_methods": ["fedprox"]}}
    folder = federate_with(tmp_path / "run", tiny_cohort, store, policy, rounds=1, strategy="fedprox")
    entry = folder.ledger()[0]
    assert entry["missing"] == {"A": "refused by site A: it does not train in fedprox; it allows fedavg, scaffold"}
    assert sorted(entry["sites"]) == ["B", "G"]
    for site, answer in (("A", "refused"), ("B", "sent")):
        lines = (folder.site(site) / "state" / AUDIT_LOG).read_text().splitlines()
        [line] = [line for line in lines if "asked=train" in line]
        assert "method=fedprox" in line
        assert f"answer={answer}" in line


def test_a_site_without_a_policy_gives_the_weights_of_a_site_with_a_generous_one(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    generous = {site: {"max_steps_per_round": 2, "share_case_scores": "pseudonyms"} for site in "ABG"}
    plain = federate_with(tmp_path / "plain", tiny_cohort, store, {}, rounds=1)
    guarded = federate_with(tmp_path / "guarded", tiny_cohort, store, generous, rounds=1)
    assert hashes(plain) == hashes(guarded)
    assert final_weights(plain).keys() == final_weights(guarded).keys()


def test_a_paused_site_refuses_everything_until_it_is_resumed(tmp_path: Path, tiny_cohort: Cohort) -> None:
    site = hospital(tmp_path, tiny_cohort)
    pause(site.settings.state, "the scanner is being moved")
    for asked in (site.describe, site.train, lambda: site.evaluate("val")):
        with pytest.raises(Refusal, match=r"^refused by site A: it is paused$"):
            asked()
    assert resume(site.settings.state)
    assert not resume(site.settings.state)
    assert not site.describe().has_error()


def test_a_site_that_is_paused_while_it_trains_stops_before_its_next_step(tmp_path: Path, tiny_cohort: Cohort) -> None:
    site = hospital(tmp_path, tiny_cohort)
    site.task = tiny_task(tiny_cohort)
    steps: list[int] = []

    def pause_at_the_second_step(event: Event) -> None:
        if isinstance(event, SiteWork) and event.activity == "train":
            steps.append(event.done)
            if event.done == 2:
                pause(site.settings.state)

    app = make_client_app(lambda _: site.settings, listener_of=lambda _: pause_at_the_second_step)
    with pytest.raises(Refusal, match="it is paused"):
        site.ask("train", app=app, round=1, steps=50, first_step=0, total_steps=50)
    assert steps == [1, 2]


@pytest.mark.parametrize("run_id", ["../../elsewhere", "/etc", "", ".hidden", "a" * 65, "a\nb"])
def test_a_run_whose_id_would_lead_out_of_the_sites_state_is_refused(
    tmp_path: Path, tiny_cohort: Cohort, run_id: str
) -> None:
    site = hospital(tmp_path, tiny_cohort)
    site.task = tiny_task(tiny_cohort, run_id=run_id, optimizer_state="keep")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Refusal, match="the run's id"):
        site.train()
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "audit.log"] == [
        path for path in (*before, tmp_path / "state") if path.name != "audit.log"
    ]


@pytest.mark.parametrize("kind", ["query.cohort", "query.default", "train.all", "evaluate.test"])
def test_requests_that_a_site_does_not_know_are_refused(tmp_path: Path, tiny_cohort: Cohort, kind: str) -> None:
    with pytest.raises(Refusal, match="describe, fingerprint, train and evaluate only"):
        hospital(tmp_path, tiny_cohort).ask(kind)


@pytest.mark.parametrize("values", [{}, {"round": 1}, {"round": "one", "steps": 1}, {"round": 0, "steps": 1}])
def test_a_request_that_is_not_whole_is_refused(
    tmp_path: Path, tiny_cohort: Cohort, values: dict[str, str | int | float]
) -> None:
    with pytest.raises(Refusal):
        hospital(tmp_path, tiny_cohort).ask("train", app=None, **values)
    with pytest.raises(Refusal, match="no such split"):
        hospital(tmp_path, tiny_cohort).ask("evaluate", round=1, split="../labels")


def test_scores_of_cases_leave_under_pseudonyms_that_only_the_site_can_undo(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    site = hospital(tmp_path / "one", tiny_cohort, share_case_scores="pseudonyms")
    (case,) = json_of(site.evaluate("test"), "cases")
    (again,) = json_of(site.evaluate("test", round_number=2), "cases")
    assert case["case"] == again["case"] == shared_name(site.settings, "a_test_8")
    key = site.settings.state / "pseudonym.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(pseudonym_key(site.settings.state)) == 32
    other = hospital(tmp_path / "two", tiny_cohort, share_case_scores="pseudonyms")
    assert shared_name(other.settings, "a_test_8") != case["case"]


def test_scores_of_cases_stay_unless_the_site_shares_them(tmp_path: Path, tiny_cohort: Cohort) -> None:
    reply = hospital(tmp_path / "closed", tiny_cohort).evaluate("test")
    assert json_of(reply, "cases") == []
    assert json_of(reply, "scores")["cases"] == 1
    open_site = hospital(tmp_path / "open", tiny_cohort, share_case_scores="named")
    assert [case["case"] for case in json_of(open_site.evaluate("test"), "cases")] == ["a_test_8"]


def write_yaml(path: Path, text: str) -> Path:
    path.write_text(f"site: A\ncohort: data/cohort.csv\nstore: /store\nstate: state\n{text}\n")
    return path


def test_settings_are_yaml_or_json_with_paths_relative_to_the_file(tmp_path: Path, tiny_cohort: Cohort) -> None:
    settings = read_settings(write_yaml(tmp_path / "settings.yaml", "refuse_evaluation_on: [test]"))
    assert settings.cohort == tmp_path / "data/cohort.csv"
    assert settings.store == Path("/store")
    assert settings.refuse_evaluation_on == ("test",)
    assert read_settings(write_hospital(tmp_path / "json", tiny_cohort, "A")).state == tmp_path / "json/state"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("refuse_evaluation: [test]", "no setting 'refuse_evaluation'"),
        ("refuse_evaluation_on: [tests]", "refuse_evaluation_on"),
        ("max_steps_per_round: -1", "max_steps_per_round"),
        ("share_case_scores: all", "share_case_scores"),
        ("allowed_apps: [abc]", "64 hexadecimal digits"),
        ("allowed_methods: [fedavgg]", "no method 'fedavgg'; did you mean 'fedavg"),
        (
            "allowed_modules: {my_lab.nets: 12ab}",
            "allowed_modules.my_lab.nets is '12ab': must be the SHA-256 of the module's file",
        ),
        ("- a", "neither YAML nor JSON"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(AmosError, match=said) as found:
        read_settings(write_yaml(tmp_path / "settings.yaml", text))
    assert str(tmp_path / "settings.yaml") in str(found.value)
    assert "\n" not in str(found.value)


def test_a_site_may_hold_cases_of_one_split_only(tmp_path: Path, tiny_cohort: Cohort) -> None:
    only_test = replace(tiny_cohort, cases=tiny_cohort.of(site="A", split="test"))
    site = hospital(tmp_path, only_test)
    assert json_of(site.describe(), "description")["cases"] == {"train": 0, "val": 0, "test": 1}


def test_runs_beside_one_another_keep_their_momentum_and_old_ones_are_forgotten(tmp_path: Path) -> None:
    buffers = {"weight": np.ones(2, np.float32)}
    for number in range(8):
        save_kept(tmp_path, f"run-{number}", MOMENTUM, 1, buffers)
    kept = {folder.name: folder for folder in (tmp_path / "momentum").iterdir()}
    assert len(kept) == 8
    for number in range(6):
        os.utime(kept[f"run-{number}"], (1e9 + number, 1e9 + number))
    save_kept(tmp_path, "run-7", MOMENTUM, 2, buffers)
    assert {folder.name for folder in (tmp_path / "momentum").iterdir()} == {"run-4", "run-5", "run-6", "run-7"}
    assert load_kept(tmp_path, "run-5", MOMENTUM, 2).value
