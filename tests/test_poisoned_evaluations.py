"""A file of scores that cannot be is named, set aside and scored again when its run is continued."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from federations import federate, hashes, resume

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.metrics.scores import UNIT
from amos_fl.metrics.table import scores_to_json
from amos_fl.runs.events import Event, Said
from amos_fl.runs.folder import RunFolder, open_run
from amos_fl.runs.record import read_run

SETTINGS: dict[str, Any] = {"rounds": 3, "local_steps": 1, "evaluation": {"every": 1}, "keep_checkpoints": "all"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path, store: Path) -> RunFolder:
    from amos_fl.cohort.table import read_cohort

    return federate(tmp_path_factory.mktemp("whole") / "run", read_cohort(tiny_root), store, **SETTINGS)


def site_a(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    """The file with another result of site A."""

    def poison(text: str) -> str:
        data = json.loads(text)
        change(data["sites"]["A"])
        return json.dumps(data)

    return poison


def organ(**values: Any) -> Callable[[str], str]:
    return site_a(lambda result: next(iter(result["scores"]["organs"].values())).update(values))


OF_A_MISS = {"outcome": "missed", "dsc": 0.0, "nsd": 0.0, "reference_ml": 7.0, "predicted_ml": 0.0, "hd95_mm": None}
POISON: dict[str, Callable[[str], str]] = {
    "a DSC of 5": organ(dsc_sum=5 * UNIT),
    "a text for a count": organ(counted="1"),
    "a number of 400 digits": organ(missed=10**400),
    "no scores": site_a(lambda result: result.pop("scores")),
    "a list for the scores": site_a(lambda result: result.update(scores=[])),
    "HTML for a case": site_a(lambda result: result["cases"][0].update(case="<script>")),
    "a million cases": site_a(lambda result: result["scores"].update(cases=1_000_000)),
    "a missing site's reason that is a list": lambda text: json.dumps({**json.loads(text), "missing": {"B": []}}),
    "another round": lambda text: json.dumps({**json.loads(text), "round": 2}),
    "half of it": lambda text: text[: len(text) // 2],
    "nothing": lambda text: "",
    "deep nesting": lambda text: "[" * 100_000,
    "another score of a case": site_a(lambda r: next(iter(r["cases"][0]["scores"].values())).update(OF_A_MISS)),
    "NaN": lambda text: text.replace('"seconds": ', '"seconds": NaN, "was": ', 1),
}


@pytest.mark.parametrize("what", POISON)
def test_a_poisoned_evaluation_is_named_set_aside_and_scored_again(
    tmp_path: Path, whole: RunFolder, store: Path, what: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole.path, run, ignore=shutil.ignore_patterns("tensorboard"))
    folder = open_run(run)
    file = folder.evaluation_file(1, "val")
    file.write_text(POISON[what](file.read_text()))
    with pytest.raises(AmosError, match=r"round_0001_val\.json: .*continue the run with --resume") as found:
        read_run(run)
    assert "\n" not in str(found.value)
    assert "<" not in str(found.value)
    said: list[Event] = []
    resume(run, store, said.append)
    sentences = [event.text for event in said if isinstance(event, Said)]
    assert any("round_0001_val.json" in text and "it is set aside as" in text for text in sentences)
    aside = file.with_name("round_0001_val.json.set-aside")
    assert aside.read_text() == POISON[what](whole.evaluation_file(1, "val").read_text())
    again, before = folder.read_evaluation(1, "val"), whole.read_evaluation(1, "val")
    assert again is not None
    assert before is not None
    assert {s: r.scores for s, r in again.sites.items()} == {s: r.scores for s, r in before.sites.items()}
    assert hashes(folder) == hashes(whole)
    assert (run / "summary.md").read_text() == (whole.path / "summary.md").read_text()
    read_run(run)


def test_one_whose_weights_are_gone_is_set_aside_and_the_others_decide(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    folder = federate(tmp_path / "run", tiny_cohort, store, **{**SETTINGS, "keep_checkpoints": "needed"})
    gone = min({1, 2, 3} - set(folder.rounds_with_checkpoints()), default=None)
    if gone is None:
        shutil.rmtree(folder.checkpoint_folder(gone := 1))
    folder.evaluation_file(gone, "val").write_text("{}")
    said: list[Event] = []
    resume(folder.path, store, said.append)
    assert any(f"the weights of round {gone} are gone" in e.text for e in said if isinstance(e, Said))
    assert folder.read_evaluation(gone, "val") is None
    assert folder.finished


def test_a_poisoned_test_evaluation_is_scored_again_and_one_set_aside_before_stays(
    tmp_path: Path, whole: RunFolder, store: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole.path, run, ignore=shutil.ignore_patterns("tensorboard"))
    folder = open_run(run)
    ((number, split),) = [(n, s) for n, s in folder.evaluations() if s == "test"]
    file = folder.evaluation_file(number, split)
    for _ in range(2):
        file.write_text("[]")
        resume(run, store)
        assert folder.read_evaluation(number, split) is not None
    names = {path.name for path in file.parent.iterdir()} - {
        path.name for path in (whole.path / "evaluations").iterdir()
    }
    assert names == {f"{file.name}.set-aside", f"{file.name}.set-aside-1"}


def test_an_evaluation_is_the_same_record_at_every_reading_and_is_written_to_the_byte(
    tmp_path: Path, whole: RunFolder
) -> None:
    again = RunFolder(tmp_path)
    for number, split in whole.evaluations():
        first, second = (whole.read_evaluation(number, split) for _ in range(2))
        assert first is not None
        assert second is not None
        assert (first, repr(first)) == (second, repr(second))
        again.write_evaluation(number, split, second)
        file = whole.evaluation_file(number, split)
        assert again.evaluation_file(number, split).read_bytes() == file.read_bytes()
        for site, about in json.loads(file.read_bytes())["sites"].items():
            scored = second.sites[site]
            assert scored.scores.to_scores().to_dict() == about["scores"]
            told = {case["case"]: case["scores"] for case in about["cases"]}
            assert {case.case: scores_to_json(case.by_organ()) for case in scored.cases} == told
