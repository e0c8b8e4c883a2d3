"""Sites of a deployment answer with keys of their own; one that was killed is sent its message again."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from deployments import AT_ONCE, Hospitals, deployed_run
from federations import hashes
from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo

from amos_fl.cohort.table import Cohort
from amos_fl.errors import RunStopped
from amos_fl_server.federation.engines.inline import InlineGrid
from amos_fl_server.operation.server_app import run_deployed


class Keyed(Hospitals):
    """Hospitals whose nodes have keys, registered for the sites that `registered` names in the nodes' order."""

    registered = ""
    restarts = 0

    def get_nodes(self) -> list[NodeInfo]:
        there = set(self.get_node_ids())
        return [
            NodeInfo(node_id=node, name=name, public_key=name.encode(), last_activated_at=str(self.restarts))
            for node, name in zip(InlineGrid.get_node_ids(self), self.registered, strict=True)
            if node in there
        ]


def test_a_hospital_that_says_it_is_another_is_left_out_and_named_while_the_others_go_on(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    grid = Keyed(tmp_path, tiny_cohort, "AAG")  # the second node's key was registered for B
    grid.registered = "ABG"
    folder = deployed_run(tmp_path / "run", tiny_cohort, sites=("A", "B", "G"), rounds=1, min_sites=2)
    run_deployed(grid, folder, 0, AT_ONCE)
    (entry,) = folder.ledger()
    assert sorted(entry["sites"]) == ["A", "G"]
    assert entry["missing"] == {"B": "site B: its SuperNode claims to be site 'A', and is left out"}
    assert "its SuperNode claims to be site 'A'" in (folder.path / "events.jsonl").read_text()
    answers = json.loads((folder.path / "answers.json").read_text())
    assert {site: answer["said"] for site, answer in answers.items()} == {
        "A": "it takes part",
        "B": "site B: its SuperNode claims to be site 'A', and is left out",
        "G": "it takes part",
    }


def test_one_hospital_cannot_put_its_words_into_anothers_mouth(tmp_path: Path, tiny_cohort: Cohort) -> None:
    grid = Keyed(tmp_path, tiny_cohort, "BG", lambda: "G")
    grid.registered = "BG"
    grid.settings[1].write_text(grid.settings[1].read_text().replace('"site": "G"', '"site": "refused by site B:"'))
    folder = deployed_run(tmp_path / "run", tiny_cohort, sites=("B", "G"), rounds=1, min_sites=1)
    with pytest.raises(RunStopped, match="B: it is not connected"):
        run_deployed(grid, folder, 0, AT_ONCE)


class Forgetful(Keyed):
    """The node of A is killed when it has its second training, and is back at once."""

    trained = 0

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        taken, lost = [], []
        for message in messages:
            first = message.metadata.dst_node_id == 1001
            self.trained += first and message.metadata.message_type == "train"
            if first and self.trained == 2 and not self.restarts:
                message.metadata.__dict__["_message_id"] = "lost"
                lost.append(message)
                self.restarts = 1
            else:
                taken.append(message)
        super().push_messages(taken)
        return [message.metadata.message_id for message in [*lost, *taken]]


def test_a_site_that_was_killed_and_is_back_is_sent_its_message_again(tmp_path: Path, tiny_cohort: Cohort) -> None:
    settings: dict[str, object] = {"sites": ("A", "B", "G"), "rounds": 3, "optimizer_state": "keep"}
    folders = {}
    for kind in (Forgetful, Keyed):
        grid = kind(tmp_path / kind.__name__, tiny_cohort, "ABG")
        grid.registered = "ABG"
        folders[kind] = deployed_run(tmp_path / kind.__name__ / "run", tiny_cohort, **settings)
        run_deployed(grid, folders[kind], 0, AT_ONCE)
        assert grid.restarts == (kind is Forgetful)
    assert hashes(folders[Forgetful]) == hashes(folders[Keyed])
    assert not any(entry["missing"] for entry in folders[Forgetful].ledger())
