"""The check of a reply before it leaves: what is not on the list does not leave, whatever it is called."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_tiny_cohort
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from hospitals import Hospital, hospital, json_of
from hostile_replies import Tamper, first, record
from hypothesis import given
from hypothesis import strategies as st

from amos_fl.cohort.table import Cohort
from amos_fl_clients.federation.error_replies import ReplyWithheld, SiteFailure
from amos_fl_clients.federation.guard import GuardedApp
from amos_fl_clients.federation.messages import ARRAYS
from amos_fl_clients.federation.records import LAYOUT, VALUES, is_packed, packed, record_of, views_of
from amos_fl_clients.federation.replies import check_reply, names_and_forms


def _put(record: str, key: str, value: object) -> Tamper:
    def tamper(reply: Message) -> None:
        reply.content[record][key] = value  # pyright: ignore[reportArgumentType, reportIndexIssue, reportCallIssue]

    return tamper


def _arrays(change: Callable[[dict[str, np.ndarray]], object]) -> Tamper:
    def tamper(reply: Message) -> None:
        arrays = {name: array.copy() for name, array in views_of(reply.content.array_records[ARRAYS]).items()}
        change(arrays)
        serialise = packed if is_packed(reply.content.array_records[ARRAYS]) else record_of
        reply.content[ARRAYS] = serialise(arrays.items())

    return tamper


def _bytes_after_the_values(reply: Message) -> None:
    record = reply.content.array_records[ARRAYS]
    name = next(iter(record))
    array = record[name]
    record[name] = Array(dtype=array.dtype, shape=array.shape, stype=array.stype, data=array.data + b"a voxel")


def _pickled(reply: Message) -> None:
    record = reply.content.array_records[ARRAYS]
    name = next(iter(record))
    array = record[name]
    record[name] = Array(dtype=array.dtype, shape=array.shape, stype="pickle", data=array.data)


TAMPERED: dict[str, tuple[str, Tamper]] = {
    "another record": ("train", record("extra", MetricRecord({"a": 1}))),
    "a record of another kind": ("train", record("metrics", ConfigRecord({"a": "b"}))),
    "another number": ("train", _put("metrics", "age", 72)),
    "a list for a number": ("train", _put("metrics", "cases", [1, 2, 3])),
    "a float for a count": ("train", _put("metrics", "cases", 19470101.5)),
    "a loss that its method has nobody report": ("train", _put("metrics", "val_loss_after", 0.5)),
    "another text": ("train", _put("site", "patient", "x")),
    "another site": ("train", _put("site", "site", "B")),
    "another array": ("train", _arrays(lambda a: a.update(voxels=np.zeros(3, np.float32)))),
    "an array less": ("train", _arrays(lambda a: a.pop(first(a)))),
    "another shape": ("train", _arrays(lambda a: a.update({first(a): a[first(a)][:1]}))),
    "another dtype": ("train", _arrays(lambda a: a.update({first(a): a[first(a)].astype(np.float64)}))),
    "bytes after the values": ("train", _bytes_after_the_values),
    "another serialisation": ("train", _pickled),
    "arrays with scores": ("evaluate", record(ARRAYS, record_of([("a", np.zeros(2))]))),
    "scores of another organ": ("evaluate", _put("site", "scores", '{"cases": 1, "organs": {"9": {}}}')),
    "more in the scores": ("evaluate", _put("site", "scores", '{"cases": 1, "organs": {}, "who": "x"}')),
    "another modality": ("evaluate", _put("site", "modalities", '["CT of somebody"]')),
    "a case that is not shared": ("evaluate", _put("site", "cases", '[{"case": "x", "modality": "CT", "scores": {}}]')),
    "more in the description": (
        "query.describe",
        _put("site", "description", '{"site": "A", "modalities": [], "cases": {}, "annotated": [], "ages": [72]}'),
    ),
    "a note on a modality": (
        "query.describe",
        _put(
            "site",
            "description",
            '{"site": "A", "modalities": {"CT": "of somebody"}, "cases": {"train": 1, "val": 0, "test": 0},'
            ' "annotated": [], "synthetic": false}',
        ),
    ),
    "a key that is there twice": (
        "query.describe",
        _put(
            "site",
            "description",
            '{"site": "somebody", "site": "A", "modalities": [], "cases": {"train": 1, "val": 0, "test": 0},'
            ' "annotated": [], "synthetic": false}',
        ),
    ),
    "a text for a count": (
        "query.describe",
        _put(
            "site",
            "description",
            '{"site": "A", "modalities": [], "cases": {"train": "x", "val": 0, "test": 0}, "annotated": [],'
            ' "synthetic": false}',
        ),
    ),
}


def answer(site: Hospital, kind: str) -> Message:
    return {"train": site.train, "evaluate": lambda: site.evaluate("test"), "query.describe": site.describe}[kind]()


def check(site: Hospital, reply: Message) -> None:
    form = None
    if reply.metadata.message_type == "train":
        form = {name: (array.shape, str(array.dtype)) for name, array in views_of(site.weights()).items()}
    check_reply(reply, site.settings, organs=site.task.organs, form=form)


@pytest.fixture(scope="module", params=[packed, record_of])
def closed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    """A hospital that shares no scores of cases."""
    folder = tmp_path_factory.mktemp("closed")
    site = hospital(folder / "site", write_tiny_cohort(folder / "cohort"))
    return replace(site, serialise=request.param)


@pytest.fixture(scope="module")
def described(closed: Hospital) -> tuple[Hospital, Message]:
    """A hospital with its description of itself."""
    return closed, closed.describe()


@pytest.mark.parametrize("what", TAMPERED)
def test_a_reply_with_anything_that_is_not_on_the_list_is_withheld(closed: Hospital, what: str) -> None:
    kind, tamper = TAMPERED[what]
    reply = answer(closed, kind)
    check(closed, reply)
    tamper(reply)
    with pytest.raises(ReplyWithheld, match=r"^site A: its reply was withheld") as withheld:
        check(closed, reply)
    assert "somebody" not in str(withheld.value)


@given(record=st.sampled_from(["metrics", "site"]), key=st.text(min_size=1).filter(lambda key: key != "site"))
def test_whatever_a_key_is_called_it_does_not_leave_and_neither_does_its_name(
    described: tuple[Hospital, Message], record: str, key: str
) -> None:
    site, reply = described
    values = reply.content[record]
    if key in values:
        return
    values[key] = 1  # pyright: ignore[reportArgumentType, reportIndexIssue, reportCallIssue]
    with pytest.raises(ReplyWithheld) as withheld:
        check(site, reply)
    del values[key]  # pyright: ignore[reportArgumentType, reportIndexIssue, reportCallIssue]
    what = {"metrics": "number", "site": "text"}[record]
    assert str(withheld.value) == f"site A: its reply was withheld: it holds a {what} that is not on the list"


def test_a_handler_that_says_too_much_is_stopped_by_the_app_itself(closed: Hospital) -> None:
    assert type(closed.app) is GuardedApp
    talkative = GuardedApp(
        lambda _: closed.settings,
        lambda *_: {name: (array.shape, str(array.dtype)) for name, array in views_of(closed.weights()).items()},
    )

    @talkative.query("describe")
    @talkative.train()
    @talkative.evaluate()
    def answer_and_more(message: Message, context: Context) -> Message:
        reply = closed.app.answer(message, context)
        reply.content.config_records["site"]["patient"] = "Jane Doe"
        return reply

    asked: dict[str, dict[str, Any]] = {
        "query.describe": {},
        "train": {"round": 1, "steps": 1, "first_step": 0, "total_steps": 6},
        "evaluate": {"round": 1, "split": "test"},
    }
    for kind, more in asked.items():
        with pytest.raises(SiteFailure, match="withheld: it holds a text that is not on the list"):
            closed.ask(kind, app=talkative, **more)
        assert "answer=failed" in closed.audit[-1]


def test_the_form_of_a_network_is_that_of_its_weights(closed: Hospital) -> None:
    from amos_fl.networks.registry import build_network

    network = build_network(closed.task.model, closed.task.plan, len(closed.task.organs), seed=0)
    forms = {name: (array.shape, str(array.dtype)) for name, array in views_of(closed.weights()).items()}
    assert names_and_forms(network.state_dict()) == forms


def test_packed_weights_say_no_more_than_the_network_has_room_for(tmp_path: Path, tiny_cohort: Cohort) -> None:
    site = hospital(tmp_path, tiny_cohort)
    reply = site.train()
    check(site, reply)
    honest = reply.content.array_records[ARRAYS]
    arrays, layout, values = views_of(honest), honest[LAYOUT].numpy(), honest[VALUES].numpy()
    assert "arrays=" + str(len(arrays)) in site.audit[-1]
    for told in (
        packed(reversed(arrays.items())),
        ArrayRecord({LAYOUT: Array(np.append(layout[:-1], np.frombuffer(b" ]", np.uint8))), VALUES: honest[VALUES]}),
        ArrayRecord({LAYOUT: honest[LAYOUT], VALUES: Array(np.append(values, np.uint8(7)))}),
        ArrayRecord({LAYOUT: honest[LAYOUT], VALUES: Array(values.view(np.int8))}),
    ):
        reply.content[ARRAYS] = told
        with pytest.raises(ReplyWithheld, match=r"shape and dtype|the layout of its packed weights"):
            check(site, reply)


def test_a_reply_is_withheld_where_the_network_of_the_request_is_another(closed: Hospital) -> None:
    reply = closed.train()
    other = {f"other.{name}": form for name, form in {"w": ((1,), "float32")}.items()}
    with pytest.raises(ReplyWithheld):
        check_reply(reply, closed.settings, organs={1: "ball", 2: "box"}, form=other)


def test_a_case_under_a_name_of_its_own_is_withheld_where_pseudonyms_are_asked_for(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    site = hospital(tmp_path, tiny_cohort, share_case_scores="pseudonyms")
    reply = site.evaluate("test")
    check(site, reply)
    cases = json_of(reply, "cases")
    reply.content.config_records["site"]["cases"] = json.dumps([{**cases[0], "case": "a_test_8"}])
    with pytest.raises(ReplyWithheld, match="a case is sent under its own name"):
        check(site, reply)
