"""The server of a deployment: sites that come late, leave, are held out, or say that they are somebody else."""

import errno
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import write_tiny_cohort
from deployments import AT_ONCE, Hospitals, deployed_run
from federations import federate, hashes
from flwr.app import ArrayRecord, Context, Message, RecordDict

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError, Interrupted, RunStopped
from amos_fl.files import write_json
from amos_fl.report.run_page import lead, run_context
from amos_fl.runs.events import event_of, in_words
from amos_fl.runs.folder import open_run
from amos_fl.runs.record import read_run
from amos_fl_clients.federation.messages import ARRAYS
from amos_fl_clients.federation.policy import pause, resume
from amos_fl_clients.federation.records import record_of, views_of
from amos_fl_clients.federation.settings import read_settings
from amos_fl_server.federation.engines.remote import SiteGrid
from amos_fl_server.operation.server_app import app, run_deployed


def test_a_deployed_run_has_the_weights_and_the_folder_of_a_simulation(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    settings = {"rounds": 2, "evaluation": {"every": 1}}
    folder = deployed_run(tmp_path / "run", tiny_cohort, **settings)
    run_deployed(Hospitals(tmp_path, tiny_cohort, "GDAB", share_case_scores="pseudonyms"), folder, 5, AT_ONCE)
    simulated = federate(tmp_path / "simulated", tiny_cohort, store, **settings)
    assert hashes(folder) == hashes(simulated)
    assert folder.finished
    left = {path.name for path in simulated.path.iterdir()} - {"sites", "tensorboard", "tracking.json", "scans.json"}
    assert left <= {path.name for path in folder.path.iterdir()}
    for number in (1, 2):
        ours, theirs = folder.read_evaluation(number, "val"), simulated.read_evaluation(number, "val")
        assert ours is not None
        assert theirs is not None
        assert {s: r.scores for s, r in ours.sites.items()} == {s: r.scores for s, r in theirs.sites.items()}
        assert {s: r.seen for s, r in ours.sites.items()} == {s: r.seen for s, r in theirs.sites.items()}


def test_the_server_knows_numbers_of_cases_and_no_names(tmp_path: Path, tiny_cohort: Cohort) -> None:
    folder = deployed_run(tmp_path / "run", tiny_cohort, rounds=1)
    run_deployed(Hospitals(tmp_path, tiny_cohort, "ABDG"), folder, 5, AT_ONCE)
    known = folder.cohort()
    assert known.seen_sites == tiny_cohort.seen_sites
    for site in tiny_cohort.sites:
        for split in ("train", "val", "test"):
            assert len(known.of(site=site, split=split)) == len(tiny_cohort.of(site=site, split=split))
    everything = "".join(p.read_text(errors="replace") for p in folder.path.rglob("*") if p.is_file())
    assert not [case.case for case in tiny_cohort.cases if case.case in everything]
    assert "A,CT,train,at-the-site/A-train-1" in (folder.path / "cohort.csv").read_text()


def test_sites_that_withhold_their_cases_are_in_every_table_but_that_of_cases(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    tables = {}
    for share in ("none", "named"):
        folder = deployed_run(tmp_path / share / "run", tiny_cohort, rounds=1, local_steps=5)
        run_deployed(Hospitals(tmp_path / share, tiny_cohort, "ABDG", share_case_scores=share), folder, 5, AT_ONCE)
        tables[share] = {f: (folder.path / f"scores{f}.csv").read_text() for f in ("", "_by_site", "_by_organ")}
    assert tables["none"]["_by_site"] == tables["named"]["_by_site"]
    assert tables["none"]["_by_organ"] == tables["named"]["_by_organ"]
    assert len(tables["none"][""].splitlines()) == 1
    assert len(tables["named"][""].splitlines()) > 1
    assert "| D | CT | unseen |" in (tmp_path / "none/run/summary.md").read_text()


def test_scores_of_a_phantom_are_called_synthetic_where_the_server_has_no_scan(tmp_path: Path) -> None:
    cohort = write_tiny_cohort(tmp_path / "cohort")
    (tmp_path / "cohort" / "dataset.json").write_text('{"description": "synthetic phantom"}')
    folder = deployed_run(tmp_path / "run", cohort, rounds=1)
    assert not folder.synthetic
    run_deployed(Hospitals(tmp_path, cohort, "ABDG"), folder, 5, AT_ONCE)
    assert open_run(folder.path).synthetic
    assert "synthetic" in (folder.path / "summary.md").read_text()


def test_a_site_that_is_held_out_trains_nothing_and_is_an_unseen_scanner(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    settings = {"rounds": 1, "evaluation": {"every": 1}}
    folder = deployed_run(tmp_path / "run", tiny_cohort, hold_out=("B", "G"), **settings)
    run_deployed(Hospitals(tmp_path, tiny_cohort, "ABDG"), folder, 5, AT_ONCE)
    simulated = federate(tmp_path / "simulated", tiny_cohort.holding_out(["B", "G"]), store, **settings)
    assert hashes(folder) == hashes(simulated)
    scored = folder.read_evaluation(1, "val")
    assert scored is not None
    assert {site: result.seen for site, result in scored.sites.items()} == {"A": True, "D": False, "G": False}


def test_a_site_that_is_away_is_named_in_every_round_and_takes_part_again_when_it_is_back(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    folder = deployed_run(tmp_path / "run", tiny_cohort, sites=("A", "B", "G"), rounds=3, min_sites=2)

    def there() -> str:
        return "ABG" if len(folder.ledger()) >= 1 else "AG"

    run_deployed(Hospitals(tmp_path, tiny_cohort, "ABG", there), folder, 0, AT_ONCE)
    assert [sorted(entry["sites"]) for entry in folder.ledger()] == [["A", "G"], ["A", "B", "G"], ["A", "B", "G"]]
    assert folder.ledger()[0]["missing"] == {"B": "it is not connected"}
    assert folder.ledger()[1]["missing"] == {}
    events = [json.loads(line) for line in (folder.path / "events.jsonl").read_text().splitlines()]
    assert {"SiteFailed", "RoundStarted", "RoundFinished", "Said"} <= {event["event"] for event in events}


def test_a_paused_site_is_reported_by_its_name_before_anybody_knows_its_node(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    grid = Hospitals(tmp_path, tiny_cohort, "ABG")
    pause(read_settings(grid.settings[1]).state)
    folder = deployed_run(tmp_path / "run", tiny_cohort, sites=("A", "B", "G"), rounds=1, min_sites=2)
    run_deployed(grid, folder, 0, AT_ONCE)
    assert folder.ledger()[0]["missing"] == {"B": "refused by site B: it is paused"}
    assert "refused by site B: it is paused" in (folder.path / "summary.md").read_text()


def test_a_run_waits_no_longer_for_a_site_that_answers_with_an_error_and_says_whom_it_waits_for(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    looks = 0

    def g_comes_late() -> str:
        nonlocal looks
        looks += 1
        return "AB" if looks <= 2 else "ABG"

    grid = Hospitals(tmp_path, tiny_cohort, "ABG", g_comes_late)
    (grid.settings[1].parent / "cohort.csv").unlink()
    folder = deployed_run(tmp_path / "run", tiny_cohort, sites=("A", "B", "G"), rounds=1, min_sites=2)
    began = time.monotonic()
    run_deployed(grid, folder, 600, AT_ONCE, ask_again_s=0.1)
    assert time.monotonic() - began < 300
    assert sorted(folder.ledger()[0]["sites"]) == ["A", "G"]
    lines = (folder.path / "events.jsonl").read_text().splitlines()
    told = [in_words(found[1]) for line in lines if (found := event_of(line))]
    waiting = [text for text in told if text and text.startswith("waiting for ")]
    assert len(waiting) == 2
    assert re.fullmatch(r"waiting for B \(it answered: site B: .+; until \d\d:\d\d UTC\)", waiting[0])
    assert re.fullmatch(r"waiting for G \(it is not connected; until \d\d:\d\d UTC\)", waiting[1])
    assert any(text and text.startswith("site B does not take part yet: site B: ") for text in told)
    assert not any(text and text.startswith("round 0") for text in told)


def test_a_site_that_trained_in_no_round_is_named_at_the_top_and_in_the_card_and_why_the_last_round_was_taken(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    folder = deployed_run(
        tmp_path / "run", tiny_cohort, sites=("A", "B", "G"), rounds=2, min_sites=2, evaluation={"every": 1}
    )
    grid = Hospitals(tmp_path, tiny_cohort, "ABG")
    write_json(grid.settings[1], {**json.loads(grid.settings[1].read_text()), "max_steps_per_round": 0})
    validating = json.loads(grid.settings[0].read_text())
    write_json(grid.settings[0], {**validating, "refuse_evaluation_on": ["val"]})
    run_deployed(grid, folder, 0, AT_ONCE)
    assert [sorted(entry["sites"]) for entry in folder.ledger()] == [["A", "G"]] * 2
    first = "B trained in no round: its scores, under seen, are those of an unseen scanner"
    contributed = "2 of 3 training sites contributed; B trained in none of the rounds"
    summary, card = (folder.path / "summary.md").read_text(), (folder.path / "model/MODEL_CARD.md").read_text()
    assert f"## What went wrong\n\n- {first}" in summary
    assert contributed in summary
    assert "the last one, because not all sites were scored (A was missing)" in summary
    assert contributed in card
    assert f"{first}." in card
    shown = run_context(record := read_run(folder.path), defaultdict(str))
    assert shown["problems"][0] == first
    assert f"{contributed}." in lead(record)
    assert lead(record).startswith("A and G trained one network together")
    assert dict(shown["run_facts"])["Trained on"] == "A, G"


def test_too_few_sites_stop_the_run_and_the_sentence_names_those_that_are_away(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    folder = deployed_run(tmp_path / "run", tiny_cohort, sites=("A", "B", "G"), rounds=1)
    with pytest.raises(
        RunStopped, match=r"1 training sites are connected and 2 are needed \(A: it is not connected; B:"
    ):
        run_deployed(Hospitals(tmp_path, tiny_cohort, "ABG", lambda: "G"), folder, 0, AT_ONCE)
    run_deployed(Hospitals(tmp_path / "again", tiny_cohort, "ABG"), folder, 0, AT_ONCE)
    assert folder.finished


def test_of_two_nodes_that_say_they_are_one_site_one_is_left_out_and_the_run_goes_on(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    folder = deployed_run(tmp_path / "run", tiny_cohort, rounds=1)
    run_deployed(Hospitals(tmp_path, tiny_cohort, "AGA"), folder, 0, AT_ONCE)
    assert "two SuperNodes claim to be site A" in (folder.path / "events.jsonl").read_text()
    assert sorted(folder.ledger()[0]["sites"]) == ["A", "G"]
    assert folder.finished


def test_a_site_that_describes_itself_otherwise_within_a_run_is_left_out_and_named(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    folder = deployed_run(tmp_path / "run", tiny_cohort, sites=("A", "B", "G"), rounds=3, min_sites=2)

    def unseen_for_a_while_and_back_with_a_case_less() -> str:
        done = len(folder.ledger())
        if done == 2:
            own = grid.settings[0].parent / "cohort.csv"
            rows = own.read_text().splitlines(keepends=True)
            own.write_text("".join(row for row in rows if "a_train_0" not in row))
        return "BG" if done == 1 else "ABG"

    grid = Hospitals(tmp_path, tiny_cohort, "ABG", unseen_for_a_while_and_back_with_a_case_less)
    run_deployed(grid, folder, 0, AT_ONCE)
    assert [sorted(entry["missing"]) for entry in folder.ledger()] == [[], [], ["A"]]
    assert "description has changed (train cases 2, not 3)" in folder.ledger()[2]["missing"]["A"]


def test_what_a_site_says_otherwise_after_a_stop_is_in_the_ledger(tmp_path: Path, tiny_cohort: Cohort) -> None:
    folder = deployed_run(tmp_path / "run", tiny_cohort, sites=("A", "B", "G"), rounds=2)

    def stop_after_a_round() -> str:
        if len(folder.ledger()) == 1:
            folder.stop_file.request()
        return "ABG"

    with pytest.raises(Interrupted):
        run_deployed(Hospitals(tmp_path, tiny_cohort, "ABG", stop_after_a_round), folder, 0, AT_ONCE)
    folder.stop_file.clear()
    fewer = replace(tiny_cohort, cases=tuple(case for case in tiny_cohort.cases if case.case != "a_train_0"))
    run_deployed(Hospitals(tmp_path / "again", fewer, "ABG"), folder, 0, AT_ONCE)
    first, second = folder.ledger()
    assert "changes" not in first
    assert second["changes"] == ["site A has changed its description: train cases 2, not 3"]
    assert second["changes"][0] in (folder.path / "summary.md").read_text()


def test_a_site_that_was_not_asked_for_has_no_part_in_the_run(tmp_path: Path, tiny_cohort: Cohort) -> None:
    folder = deployed_run(tmp_path / "run", tiny_cohort, sites=("A", "G"), rounds=1)
    run_deployed(Hospitals(tmp_path, tiny_cohort, "ABG"), folder, 0, AT_ONCE)
    assert sorted(folder.ledger()[0]["sites"]) == ["A", "G"]
    assert "site B is connected and has no part in this run" in (folder.path / "events.jsonl").read_text()


class Unreliable(Hospitals):
    """A grid that does not take the training messages for site A."""

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = super().push_messages(messages := list(messages))
        lost = {
            m.metadata.message_id
            for m in messages
            if m.metadata.dst_node_id == 1001 and "train" in m.metadata.message_type
        }
        for name in lost:
            self._waiting.pop(name)
        return [None if name in lost else name for name in ids]  # pyright: ignore[reportReturnType]


def test_a_message_that_flower_does_not_take_is_a_missing_site_and_no_endless_wait(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    folder = deployed_run(tmp_path / "run", tiny_cohort, rounds=1, min_sites=1)
    run_deployed(Unreliable(tmp_path, tiny_cohort, "ABG"), folder, 0, AT_ONCE)
    assert folder.ledger()[0]["missing"] == {"A": "it is not connected"}


def test_a_killed_run_goes_on_after_its_last_round(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    settings = {"rounds": 3, "optimizer_state": "keep"}
    folder = deployed_run(tmp_path / "run", tiny_cohort, **settings)

    def gone_after_round_1() -> str:
        if len(folder.ledger()) == 1:
            raise ConnectionError
        return "ABG"

    with pytest.raises(ConnectionError):
        run_deployed(Hospitals(tmp_path, tiny_cohort, "ABG", gone_after_round_1), folder, 5, AT_ONCE)
    run_deployed(Hospitals(tmp_path, tiny_cohort, "ABG"), folder, 5, AT_ONCE)
    assert hashes(folder) == hashes(federate(tmp_path / "whole", tiny_cohort.only("ABG"), store, **settings))


def test_the_outcome_of_a_run_is_left_in_its_folder(tmp_path: Path, tiny_cohort: Cohort) -> None:
    folder = deployed_run(tmp_path / "run", tiny_cohort, sites=("A", "G"), rounds=1)
    grid = Hospitals(tmp_path, tiny_cohort, "AG", lambda: "")
    context = Context(1, 1, {}, RecordDict(), {"run-folder": str(folder.path), "wait-for-sites-s": 1})
    with pytest.raises(RunStopped):
        app(grid, context)
    outcome = json.loads((folder.path / "outcome.json").read_text())
    assert outcome["exit_code"] == 3
    assert "0 training sites are connected" in outcome["error"]
    app(replace_there(grid), context)
    assert json.loads((folder.path / "outcome.json").read_text()) == {"exit_code": 0, "error": None}
    with pytest.raises(AmosError, match="say which run this is"):
        app(grid, replace_config(context))


def test_a_stop_that_comes_before_its_server_process_has_begun_is_not_lost(tmp_path: Path, tiny_cohort: Cohort) -> None:
    folder = deployed_run(tmp_path / "run", tiny_cohort, sites=("A", "G"), rounds=1)
    context = Context(12, 1, {}, RecordDict(), {"run-folder": str(folder.path), "wait-for-sites-s": 1})
    folder.stop_file.request(["12", "13"])
    with pytest.raises(Interrupted):
        app(Hospitals(tmp_path, tiny_cohort, "AG"), context)
    assert json.loads((folder.path / "outcome.json").read_text())["exit_code"] == 130
    folder.stop_file.request(["11"])  # an earlier attempt's
    app(Hospitals(tmp_path, tiny_cohort, "AG"), context)
    assert json.loads((folder.path / "outcome.json").read_text())["exit_code"] == 0


def replace_there(grid: Hospitals) -> Hospitals:
    grid._there = None
    return grid


def replace_config(context: Context) -> Context:
    return Context(1, 1, {}, context.state, {"run-folder": ""})


def test_messages_to_all_sites_share_one_packed_copy_of_the_weights(tmp_path: Path, tiny_cohort: Cohort) -> None:
    grid = Hospitals(tmp_path, tiny_cohort, "ABDG")
    nodes = grid.get_node_ids()
    weights = record_of([("a", np.ones(4, np.float32)), ("b", np.zeros(3, np.float32))])
    around = {
        "one content": [RecordDict({ARRAYS: weights})] * 4,
        "a content each, as in an evaluation": [RecordDict({ARRAYS: weights}) for _ in range(4)],
        "a record each, as by a Flower strategy": [RecordDict({ARRAYS: ArrayRecord(dict(weights))}) for _ in range(4)],
    }
    for what, contents in around.items():
        messages = [Message(content, node, "train") for node, content in zip(nodes, contents, strict=True)]
        SiteGrid(grid).push_messages(messages)
        sent = [message.content.array_records[ARRAYS] for message in messages]
        assert all(record is sent[0] for record in sent), what
        assert {name: array.tolist() for name, array in views_of(sent[0]).items()} == {"a": [1] * 4, "b": [0] * 3}


def test_a_sites_grid_is_flowers_own_for_everything_else(tmp_path: Path, tiny_cohort: Cohort) -> None:
    inner = Hospitals(tmp_path, replace(tiny_cohort), "AG")
    outer = SiteGrid(inner)
    assert outer.get_node_ids() == inner.get_node_ids()
    assert outer.run is inner.run


def test_a_message_that_nobody_waits_for_any_more_is_kept_no_longer(tmp_path: Path, tiny_cohort: Cohort) -> None:
    grid = Hospitals(tmp_path, tiny_cohort, "AG")
    outer = SiteGrid(grid)
    nodes = outer.get_node_ids()
    sent = outer.push_messages([Message(RecordDict(), node, "query.describe") for node in nodes])
    assert set(outer._sent) == set(sent)
    outer.pull_messages([])
    assert not outer._sent


def test_a_paused_site_is_not_asked_again_and_again_and_takes_part_once_it_is_resumed(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    grid = Hospitals(tmp_path, tiny_cohort, "ABG")
    state = read_settings(grid.settings[1]).state
    pause(state)
    settings: dict[str, object] = {"sites": ("A", "B", "G"), "rounds": 2, "min_sites": 2}
    folder = deployed_run(tmp_path / "patient", tiny_cohort, **settings)
    run_deployed(grid, folder, 0, AT_ONCE, ask_again_s=1000)
    assert [entry["missing"] for entry in folder.ledger()] == [{"B": "refused by site B: it is paused"}] * 2
    (line,) = (state / "audit.log").read_text().splitlines()
    assert " name=patient asked=query.describe " in line
    again = deployed_run(tmp_path / "keen", tiny_cohort, **settings)

    def resumed_after_round_1() -> str:
        if len(again.ledger()) == 1:
            resume(state)
        return "ABG"

    grid._there = resumed_after_round_1
    run_deployed(grid, again, 0, AT_ONCE, ask_again_s=0)
    assert [sorted(entry["missing"]) for entry in again.ledger()] == [["B"], []]


def test_a_run_that_cannot_go_on_names_no_path_to_be_given_to_resume_at_another_machine(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    """`amos-fl deploy run`, which shows the sentence, adds the command that continues the run from there."""
    settings: dict[str, object] = {"sites": ("A", "G"), "rounds": 2, "min_sites": 2, "engine": {"name": "deployment"}}
    short = deployed_run(tmp_path / "short" / "run", tiny_cohort, **settings)
    with pytest.raises(RunStopped, match=r"1 of 2 sites sent an update") as stopped:
        run_deployed(Unreliable(tmp_path / "short", tiny_cohort, "AG"), short, 0, AT_ONCE)
    assert str(stopped.value).endswith("the last checkpoint is of round 0")
    full = deployed_run(tmp_path / "full" / "run", tiny_cohort, **settings)

    def until_the_disk_is_full() -> str:
        if len(full.ledger()) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return "AG"

    with pytest.raises(RunStopped, match="no space is left on the disk") as stopped:
        run_deployed(Hospitals(tmp_path / "full", tiny_cohort, "AG", until_the_disk_is_full), full, 5, AT_ONCE)
    assert str(stopped.value).endswith("the last checkpoint is of round 1; free some space")
