"""Trackers beside a run: told everything once, and never in its way."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from federations import federate, hashes, killed_after, resume

from amos_fl.cli.main import run
from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.runs.events import Event, Said, TrackerFailed, in_words
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.results import results_of
from amos_fl.runs.selection import macro_dsc
from amos_fl.runs.tracking import follow
from amos_fl.runs.tracking.content import parameters_of
from amos_fl.runs.tracking.follow import send
from amos_fl.runs.tracking.tracker import check_trackers

MINE = '''
import json
from pathlib import Path
from amos_fl import Tracker

class Mine(Tracker):
    """Writes down what it is told, beside the run."""

    def _add(self, *what):
        with self.file.open("a") as file:
            file.write(json.dumps(what) + "\\n")

    def begin(self, run):
        self.file = run.folder.parent / "told.jsonl"
        self._add("begin", run.name, run.known_as, run.parameters["seed"], run.group and run.group.name)
        return "number 7"

    def event(self, event):
        self._add("event", type(event).__name__)

    def round(self, number, values):
        self._add("round", number, values)

    def end(self, how, values, files):
        self._add("end", how, values, [file.name for file in files])

class Broken(Tracker):
    def round(self, number, values):
        raise ConnectionError("no such server")

class Hanging(Tracker):
    def begin(self, run):
        import threading
        threading.Event().wait()

class Slow(Tracker):
    def end(self, how, values, files):
        import time
        time.sleep(0.5)

heard = []

def function(event):
    heard.append(event)

number = 3
'''


def told(folder: Path) -> list[list]:
    return [json.loads(line) for line in (folder / "told.jsonl").read_text().splitlines()]


def test_a_tracker_is_told_every_round_score_and_result_once_also_over_a_resume(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, written: Callable[[str], str]
) -> None:
    name = f"{written(MINE)}:Mine"
    settings = {"rounds": 2, "trackers": (name,), "evaluation": {"every": 1}, "sites": ("A", "D", "G")}
    cohort = tiny_cohort.only(("A", "D", "G"))
    killed_after(tmp_path / "run", 1, cohort, store, **settings)
    folder = resume(tmp_path / "run", store)
    found = told(tmp_path)
    assert [line[1:] for line in found if line[0] == "begin"] == [
        ["run", None, 0, None],
        ["run", "number 7", 0, None],
    ]
    rounds = [(number, values) for what, number, values in (line for line in found if line[0] == "round")]
    ledger = folder.ledger()
    losses = {number: values for number, values in rounds if "loss/mean" in values}
    assert sorted(number for number, values in rounds if "loss/mean" in values) == [1, 2]
    for entry in ledger:
        assert losses[entry["round"]]["loss/A"] == entry["sites"]["A"]["loss"]
        assert losses[entry["round"]]["loss/mean"] == entry["loss"]
    scored = {number: values for number, values in rounds if "DSC/seen" in values}
    assert sorted(number for number, values in rounds if "DSC/seen" in values) == [1, 2]
    for number, values in scored.items():
        evaluation = folder.read_evaluation(number, "val")
        assert evaluation is not None
        assert values["DSC/G"] == evaluation.sites["G"].scores.to_scores().mean_dsc()
        assert values["DSC/unseen"] == macro_dsc(evaluation, seen=False)
        assert values["DSC/seen"] == macro_dsc(evaluation, seen=True)
        for group, which in (("seen", True), ("unseen", False)):
            members = [values[f"NSD/{site}"] for site, about in evaluation.sites.items() if about.seen == which]
            assert values[f"NSD/{group}"] == pytest.approx(sum(members) / len(members), abs=1e-12)
    ends = [line[1:] for line in found if line[0] == "end"]
    assert [how for how, _, _ in ends] == ["failed", "finished"]
    _, values, files = ends[1]
    by_site = {row.name: row.dsc for row in results_of(folder, folder.config(), folder.cohort()).by_site}
    assert {site: values[f"test DSC/{site}"] for site in by_site} == by_site
    assert {"model", "summary.md", "scores.csv"} <= set(files)
    assert ["event", "RoundScored"] in found
    before = len(found)
    send(folder, [name], print)  # a run that was sent is not sent again
    assert len(told(tmp_path)) == before
    # Who is told of a run is no part of what it computes.
    plain = federate(tmp_path / "plain", cohort, store, **{**settings, "trackers": ()})
    assert hashes(plain) == hashes(folder)
    assert plain.run_id == folder.run_id
    send(plain, [name], print)
    later = told(tmp_path)[before:]
    told_later = [(number, values) for what, number, values in (line for line in later if line[0] == "round")]
    for _, values in rounds + told_later:
        values.pop("seconds", None)
    assert told_later == in_order(rounds)


def in_order(rounds: list) -> list:
    """Losses first, then scores: as they are sent afterwards."""
    return sorted(rounds, key=lambda each: ("DSC/seen" in each[1], each[0]))


def test_a_tracker_that_fails_or_hangs_is_said_once_and_changes_nothing(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, written: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "FINISHED_S", 0.5)
    name = written(MINE)
    events: list[Event] = []
    trackers = (f"{name}:Broken", f"{name}:Hanging")
    started = time.monotonic()
    folder = federate(tmp_path / "run", tiny_cohort.only("A"), store, events.append, sites=("A",), trackers=trackers)
    assert folder.finished
    assert time.monotonic() - started < 600
    said = [in_words(event) or "" for event in events if isinstance(event, TrackerFailed)]
    assert said[0].startswith(f"tracker {name}:Broken: no such server; the run goes on without it (to send it later:")
    assert said[1].startswith(f"tracker {name}:Hanging: does not answer")
    assert len(said) == 2
    assert f"amos-fl track {folder.path} --tracker {name}:Broken" in said[0]


def test_a_run_that_is_sent_slowly_is_sent_and_only_a_tracker_that_fails_is_a_failure(
    tmp_path: Path,
    finished_run: Path,
    written: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(follow, "SOON_S", 0.05)
    name, run_folder = written(MINE), copied(finished_run, tmp_path)
    assert run(["track", str(run_folder), "--tracker", f"{name}:Slow"]) == 0
    said = capsys.readouterr()
    assert f"waiting until {name}:Slow has the results" in said.out
    assert said.out.endswith(f"{run_folder}: sent to {name}:Slow\n")
    assert said.err == ""
    # Two trackers that fail are one run that could not be sent.
    monkeypatch.setattr(follow, "FINISHED_S", 2.0)
    trackers = [f"--tracker={name}:{which}" for which in ("Broken", "Hanging", "Slow")]
    assert run(["track", str(run_folder), *trackers]) == 2
    assert "1 of 1 run could not be sent; see above" in capsys.readouterr().err


def test_tensorboard_has_a_runs_settings_as_text_once_also_after_a_resume(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    killed_after(tmp_path / "run", 1, tiny_cohort.only("A"), store, sites=("A",), rounds=2)
    resume(tmp_path / "run", store)
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    read.Reload()
    [event] = read.Tensors("settings/text_summary")
    said = event.tensor_proto.string_val[0].decode().splitlines()
    assert "    rounds: 2" in said
    assert any(line.startswith("    training.learning_rate: ") for line in said)
    assert [scalar.step for scalar in read.Scalars("loss/A")] == [1, 2]


def test_a_function_of_events_is_a_tracker_too(
    tmp_path: Path, finished_run: Path, written: Callable[[str], str]
) -> None:
    import importlib

    from amos_fl.runs.tracking.follow import tracked

    name = written(MINE)
    folder = RunFolder(finished_run)
    with tracked(RunFolder(copied(finished_run, tmp_path)), [f"{name}:function"], print) as listen:
        listen(Said("hello"))
    assert importlib.import_module(name).heard == [Said("hello")]
    assert parameters_of(folder.config())["training.learning_rate"] == 0.2


def copied(run: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(run, to / "copy"))


def test_what_is_no_tracker_is_refused_before_a_run_begins(written: Callable[[str], str]) -> None:
    name = written(MINE)
    for wrong, words in (
        ("mlfow", "there is none of that name; did you mean 'mlflow'"),
        ("no_such_module:Mine", "cannot be imported"),
        (f"{name}:number", "must be a subclass of amos_fl.Tracker, or a function of an event"),
    ):
        with pytest.raises(AmosError, match=words):
            check_trackers([wrong])
