"""The ray engine: the weights of the inline engine, and sites that die or hang in processes of their own."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from federations import federate, hashes, resume
from flwr.app import RecordDict

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError, Interrupted
from amos_fl.runs.events import Event, SiteFailed, SiteWork
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.record import read_run
from amos_fl_server.federation.engines.ray_cluster import running_ray

pytestmark = pytest.mark.slow  # Ray takes about ten seconds to start
RAY = {"name": "ray", "cpus_per_site": 1, "parallel_sites": 2}


def site_process(run: Path, site: str) -> int:
    return json.loads((run / "sites" / site / "state" / "process.json").read_text())["pid"]


def test_ray_and_inline_give_the_same_weights(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    fedprox = {"optimizer_state": "keep", "strategy": "fedprox", "strategy_options": {"mu": 0.1}}
    settings = {**fedprox, "training": {"synthetic_share": 0.5}}
    inline = federate(tmp_path / "inline", tiny_cohort, store, **settings)
    ray = federate(tmp_path / "ray", tiny_cohort, store, engine=RAY, **settings)
    assert hashes(ray) == hashes(inline)
    assert (ray.path / "scores.csv").read_bytes() == (inline.path / "scores.csv").read_bytes()


@pytest.mark.parametrize(
    "settings",
    [
        # The one that sends, keeps at the sites and at the server: what an engine could get wrong of a method.
        {"strategy": "scaffold"},
        # The updates side by side, of sites that are drawn and do unequal work, and encode their updates.
        {"strategy": "geometric-median", "sites_per_round": 2, "site_steps": {"A": 1}, "update_codec": "top-k"},
        # A second model at each site, scored there.
        {"strategy": "ditto", "local_steps": 1},
    ],
)
def test_ray_carries_out_any_method_as_inline_does(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, settings: dict[str, Any]
) -> None:
    inline = federate(tmp_path / "inline", tiny_cohort, store, **settings)
    ray = federate(tmp_path / "ray", tiny_cohort, store, engine=RAY, **settings)
    assert hashes(ray) == hashes(inline)
    personal = [read_run(run.path).results.personal for run in (inline, ray)]
    assert bool(personal[0]) == (settings["strategy"] == "ditto")
    assert (personal[0] and personal[0].by_site) == (personal[1] and personal[1].by_site)


def test_a_site_whose_process_dies_is_named_and_comes_back(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    run = tmp_path / "run"
    failed: list[SiteFailed] = []

    def kill_b_once(event: Event) -> None:
        if isinstance(event, SiteFailed):
            failed.append(event)
        training_b = isinstance(event, SiteWork) and (event.site, event.activity, event.round) == ("B", "train", 1)
        if training_b and not failed and event.done < event.total:
            os.kill(site_process(run, "B"), signal.SIGKILL)

    settings = {"rounds": 3, "local_steps": 60, "evaluation": {"every": 9}}
    folder = federate(run, tiny_cohort, store, kill_b_once, engine={**RAY, "parallel_sites": 1}, **settings)
    assert ("B", 1) in [(event.site, event.round) for event in failed]
    # The process that takes up the next message is a new one: nobody else has failed with B.
    assert {event.site for event in failed} == {"B"}
    assert "its process died" in [event.reason for event in failed if event.site == "B"]
    assert "B" in folder.ledger()[-1]["sites"]
    assert len(folder.ledger()) == 3


def test_a_site_that_hangs_is_given_up_after_its_time(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    run = tmp_path / "run"
    failed: list[SiteFailed] = []

    def stop_b(event: Event) -> None:
        if isinstance(event, SiteFailed):
            failed.append(event)
        if isinstance(event, SiteWork) and (event.site, event.activity, event.round) == ("B", "train", 1):
            os.kill(site_process(run, "B"), signal.SIGSTOP)

    settings = {"rounds": 1, "local_steps": 60, "site_timeout_s": 15.0, "evaluation": {"every": 9}}
    folder = federate(run, tiny_cohort, store, stop_b, engine=RAY, **settings)
    assert [(event.site, event.round) for event in failed] == [("B", 1)]
    assert "did not answer within" in failed[0].reason
    assert sorted(folder.ledger()[0]["sites"]) == ["A", "G"]


def test_ctrl_c_stops_the_sites_of_a_ray_run_and_it_resumes(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    settings = {"rounds": 2, "local_steps": 40}
    whole = federate(tmp_path / "whole", tiny_cohort, store, **settings)
    run = tmp_path / "run"

    def ctrl_c(event: Event) -> None:
        if isinstance(event, SiteWork) and (event.activity, event.round) == ("train", 2):
            RunFolder(run).stop_file.request()

    with pytest.raises(Interrupted):
        federate(run, tiny_cohort, store, ctrl_c, engine=RAY, **settings)
    assert hashes(RunFolder(run)) == hashes(whole)[:1]
    assert hashes(resume(run, store)) == hashes(whole)


def test_a_machine_of_a_cluster_that_dies_fails_for_its_sites_alone(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    from ray.cluster_utils import Cluster

    failed: list[SiteFailed] = []
    settings = {"rounds": 2, "local_steps": 60, "evaluation": {"every": 9}}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        others = [cluster.add_node(num_cpus=1)]

        def lose_a_machine(event: Event) -> None:
            if isinstance(event, SiteFailed):
                failed.append(event)
            in_training = isinstance(event, SiteWork) and (event.activity, event.round) == ("train", 1)
            if others and in_training and 0 < event.done < event.total:
                cluster.remove_node(others.pop(), allow_graceful=False)

        engine = {"name": "ray", "cpus_per_site": 1, "address": cluster.address}
        folder = federate(tmp_path / "run", tiny_cohort, store, lose_a_machine, engine=engine, **settings)
    finally:
        cluster.shutdown()
    assert not others
    assert [(event.round, event.reason) for event in failed] == [(1, "its process died")]
    ledger = folder.ledger()
    assert len(ledger[0]["sites"]) == 2
    assert sorted(ledger[1]["sites"]) == ["A", "B", "G"]


def test_a_cluster_without_room_or_the_run_folder_is_refused_and_what_is_given_up_is_not_begun(tmp_path: Path) -> None:
    arguments = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    with running_ray(address="local", **arguments):
        from amos_fl_server.federation.engines.ray_grid import RayGrid
        from amos_fl_server.federation.engines.ray_hosts import InRunFolder, Room, start_hosts

        with pytest.raises(AmosError, match=r"no machine of the Ray cluster has 2 CPUs and 0\.5 GPUs for a site"):
            start_hosts(InRunFolder(tmp_path, ("A",)), Room(2, 0.5), None)
        (tmp_path / "config.yaml").touch()
        sites = ("A", "B")
        grid = RayGrid(start_hosts(InRunFolder(tmp_path, sites), Room(1), 1), sites)
        asked = [grid.create_message(RecordDict(), "query.describe", node, "") for node in grid.get_node_ids()]
        ids = grid.push_messages(asked)
        grid.give_up(1)  # B, which waits for the only process
        replies = []
        while not replies:
            replies = grid.pull_messages(ids)
        assert [reply.metadata.reply_to_message_id for reply in replies] == ids[:1]
        assert grid.pull_messages(ids) == []
        nowhere = tmp_path / "nowhere"
        grid = RayGrid(start_hosts(InRunFolder(nowhere, sites), Room(1), None), sites)
        with pytest.raises(AmosError, match=r"nowhere: is not there on .* on a disk that all machines"):
            grid.send_and_receive([grid.create_message(RecordDict(), "query.describe", 1001, "")])
