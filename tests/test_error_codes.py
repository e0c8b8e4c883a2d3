"""What went wrong is known by codes and fields: sentences may be reworded, and whoever writes them decides nothing."""

import errno
import logging
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.server.superlink.linkstate.utils import (
    NODE_UNAVAILABLE_ERROR_REASON,
    REPLY_MESSAGE_UNAVAILABLE_ERROR_REASON,
)
from flwr.supercore.task_identity import TaskIdentity
from hospitals import hospital
from hypothesis import given
from hypothesis import strategies as st

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError, Code, DiskFull, RunStopped, SiteTimeout, TrainingDiverged, code_of
from amos_fl.runs.folder import RunFolder
from amos_fl_clients.federation.error_replies import error_reply
from amos_fl_clients.federation.messages import CONFIG, DESCRIBE, request_config
from amos_fl_clients.federation.policy import Refusal, pause
from amos_fl_clients.federation.reply_models import MOST_SENTENCE, REPORTED, Failure
from amos_fl_clients.flower.clientapp import in_a_sentence
from amos_fl_server.federation.exchange import failure_of
from amos_fl_server.federation.full_disk import stop_where_a_disk_is_full
from amos_fl_server.operation.overview import _site


def request() -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 42, 1, 1
    return Message(RecordDict(), 7, DESCRIBE)


def arrived(error: Exception, *, in_full: bool = False) -> AmosError:
    """A site's error as the server knows it."""
    return failure_of(error_reply(request(), "B", error, in_full=in_full).error)


def test_an_error_is_its_finding_and_its_remedy_and_survives_the_way_between_processes() -> None:
    error = AmosError("a.nii: cannot be read", "check its permissions", code="file-unreadable")
    for same in (error, pickle.loads(pickle.dumps(error))):
        assert str(same) == "a.nii: cannot be read; check its permissions"
        assert (same.what, same.remedy) == ("a.nii: cannot be read", "check its permissions")
        assert same.code == "file-unreadable"
    assert str(error.of("site B")) == "site B: a.nii: cannot be read; check its permissions"
    assert error.of("site B").code == "file-unreadable"
    alone = AmosError("one sentence; of two parts")
    assert (alone.what, alone.remedy, alone.code) == ("one sentence; of two parts", "", "bad-input")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "Kein Platz mehr"), "disk-full"),
        (OSError(errno.EDQUOT, "Quota"), "disk-full"),
        (PermissionError(errno.EACCES, "No space left on device"), "file-unreadable"),
        (DiskFull("voll"), "disk-full"),
        (MemoryError(), "out-of-memory"),
        (SiteTimeout("late"), "timed-out"),
        (TrainingDiverged("NaN"), "diverged"),
        (KeyError("x"), "failed"),
        (AmosError("no space is left on its disk"), "bad-input"),
    ],
)
@pytest.mark.parametrize("in_full", [True, False])
def test_the_server_knows_by_its_code_what_went_wrong_at_a_site(error: Exception, code: Code, in_full: bool) -> None:
    assert code_of(error) == code
    assert arrived(error, in_full=in_full).code == code
    folder = RunFolder(Path("a-run"))
    if code != "disk-full":
        stop_where_a_disk_is_full(folder, {"B": arrived(error, in_full=in_full)})
        return
    with pytest.raises(RunStopped, match="no space is left on the disk"):
        stop_where_a_disk_is_full(folder, {"B": arrived(error, in_full=in_full)})


@pytest.mark.parametrize(
    ("code", "flowers", "sentence", "ours"),
    [
        (5, NODE_UNAVAILABLE_ERROR_REASON, "it is offline", "not-connected"),
        (4, REPLY_MESSAGE_UNAVAILABLE_ERROR_REASON, "its answer came too late and is gone", "timed-out"),
        (8, "ClientApp stopped responding.", "its process died", "process-died"),
    ],
)
def test_what_flower_answers_for_a_lost_site_is_said_in_plain_words(
    code: int, flowers: str, sentence: str, ours: Code
) -> None:
    failure = failure_of(Error(code, flowers))
    assert (str(failure), failure.code, failure.site) == (sentence, ours, None)


def test_flower_logs_a_refusal_as_its_sentence_and_a_fault_with_its_traceback() -> None:
    def logged(error: Exception) -> str:
        raised = (type(error), error, None)
        record = logging.LogRecord("flwr", logging.ERROR, "", 1, "%s raised an exception", ("ClientApp",), raised)
        assert in_a_sentence(record)
        return logging.Formatter("%(levelname)s %(message)s").format(record)

    assert logged(Refusal("B", "it is paused", "paused")) == "INFO refused by site B: it is paused"
    assert logged(KeyError("x")) == "ERROR ClientApp raised an exception\nKeyError: 'x'"


def test_a_paused_site_answers_with_its_name_and_the_code(tmp_path: Path, tiny_cohort: Cohort) -> None:
    site = hospital(tmp_path, tiny_cohort)
    pause(site.settings.state, "the scanner of Jane Doe is being moved")
    message = request()
    message.content = RecordDict({CONFIG: request_config(site.task)})
    reply = site.app(message, Context(1, 7, {}, RecordDict(), {}))
    failure = failure_of(reply.error)
    assert (failure.site, failure.code) == ("A", "paused")
    assert str(failure) == "refused by site A: it is paused"
    assert "Jane" not in reply.error.reason


@pytest.mark.parametrize(("code", "state"), [("paused", "paused"), ("failed", "online"), ("", "online")])
def test_a_site_is_shown_as_paused_by_its_code_and_not_by_its_words(code: str, state: str) -> None:
    node = SimpleNamespace(status="online", last_activated_at="", last_deactivated_at="")
    assert _site("B", node, True, {"B": (1.0, "refused by site B: it is paused", code)}).state == state


def test_an_unknown_code_and_a_reply_without_one_are_failures_in_general() -> None:
    newer = Failure(site="B", code="on-holiday", sentence="it is paused").model_dump_json()
    older = "<class 'amos_fl_clients.federation.policy.Refusal'>:<'refused by site B: it is paused'>"
    for error in (Error(REPORTED, newer), Error(2, older)):
        assert failure_of(error).code == "failed"
        assert str(failure_of(error)).endswith("it is paused")
    assert failure_of(Error(2, newer)).site is None


@given(
    st.text()
    | st.builds(
        lambda site, code, text: f'{{"site": {site}, "code": {code}, "sentence": {text}}}',
        *[st.sampled_from(['"B"', "3", "null", '"../x"', '"\\u0000"', "[]", '"paused"', "NaN"])] * 3,
    )
)
def test_whatever_a_site_writes_as_its_failure_is_one_bounded_line_and_a_code(text: str) -> None:
    failure = failure_of(Error(REPORTED, text))
    assert failure.code in get_args(Code)
    assert 0 < len(str(failure)) <= MOST_SENTENCE
    assert len(str(failure).splitlines()) == 1


@pytest.mark.parametrize("text", ["[" * 100_000, '{"site": "B", "code": "paused", "sentence": "' + "a" * 10**6 + '"}'])
def test_a_failure_longer_than_any_site_writes_has_no_code(text: str) -> None:
    failure = failure_of(Error(REPORTED, text))
    assert (failure.code, failure.site) == ("failed", None)
    assert len(str(failure)) <= MOST_SENTENCE
