"""`amos-fl diff`: where two runs part, to the round and the site."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federations import federate, tiny_config
from hypothesis import given
from hypothesis import strategies as st

from amos_fl.cli.main import run
from amos_fl.cohort.table import read_cohort
from amos_fl.runs.create import create_run
from amos_fl.runs.difference import Change, compare_folders
from amos_fl.runs.evaluation import Evaluation
from amos_fl.runs.folder import RunFolder
from amos_fl.weights import fingerprint_of


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path, store: Path) -> RunFolder:
    """A run of three rounds; not to be changed."""
    return federate(tmp_path_factory.mktemp("diff") / "one", read_cohort(tiny_root), store)


@pytest.fixture
def copy(finished: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(finished.path, tmp_path / "two")
    return RunFolder(tmp_path / "two")


def test_a_run_and_its_repetition_are_the_same(
    finished: RunFolder, tmp_path: Path, tiny_root: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = federate(tmp_path / "again", read_cohort(tiny_root), store)
    assert run(["diff", str(finished.path), str(again.path)]) == 0
    printed = capsys.readouterr().out
    assert "the ledgers are the same over 3 rounds" in printed
    assert "the two runs are the same" in printed


def test_another_seed_parts_in_the_first_round_at_every_site(
    finished: RunFolder, tmp_path: Path, tiny_root: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = federate(tmp_path / "other", read_cohort(tiny_root), store, seed=1)
    assert run(["diff", str(finished.path), str(other.path)]) == 1
    printed = capsys.readouterr().out
    assert "the ledgers part in round 1 at site A (and at B, G in the same round)" in printed
    found = compare_folders(finished.path, other.path)
    assert found.settings == (Change("seed", "0", "1"),)
    assert found.cases == ()


def test_one_site_with_another_scan_is_the_site_that_is_named(
    finished: RunFolder, tmp_path: Path, tiny_root: Path, store: Path
) -> None:
    import nibabel
    from nibabel.nifti1 import Nifti1Image

    shutil.copytree(tiny_root, tmp_path / "cohort")
    cohort = read_cohort(tmp_path / "cohort")
    path = cohort.of(site="B", split="train")[0].image
    scan = Nifti1Image.from_filename(path)
    nibabel.save(Nifti1Image(np.asarray(scan.dataobj)[:, ::-1].copy(), scan.affine), path)
    other = federate(tmp_path / "other", cohort, store)
    found = compare_folders(finished.path, other.path)
    assert found.settings == ()
    assert [change.name for change in found.cases] == ["b_train_0: content of scan and label map"]
    assert found.parting is not None
    assert (found.parting.round, found.parting.sites) == (1, ("B",))
    assert found.parting.sentence == "the ledgers part in round 1 at site B"
    assert not found.same


def test_an_update_that_differs_by_one_bit_names_its_round_and_site(finished: RunFolder, copy: RunFolder) -> None:
    ledger = copy.ledger()
    ledger[1]["sites"]["G"]["update_fingerprint"] = "0" * 16
    ledger[1]["weights_sha256"] = "1" * 64
    copy.write_ledger(ledger)
    parting = compare_folders(finished.path, copy.path).parting
    assert parting is not None
    assert (parting.round, parting.sites) == (2, ("G",))


def test_equal_updates_and_other_weights_are_the_servers_doing(finished: RunFolder, copy: RunFolder) -> None:
    (copy.path / "summary.md").unlink()  # in a finished run, the weights would have to be those
    ledger = copy.ledger()
    ledger[2]["weights_sha256"] = "1" * 64
    copy.write_ledger(ledger)
    parting = compare_folders(finished.path, copy.path).parting
    assert parting is not None
    assert parting.sites == ()
    assert "round 3: all sites' updates are the same" in parting.sentence


def test_ledgers_without_check_values_part_by_loss_or_say_that_the_site_cannot_be_named(
    finished: RunFolder, copy: RunFolder
) -> None:
    ledger = copy.ledger()
    for entry in ledger:
        for site in entry["sites"].values():
            del site["update_fingerprint"]
    copy.write_ledger(ledger)
    assert compare_folders(finished.path, copy.path).same
    ledger[0]["weights_sha256"] = "1" * 64
    copy.write_ledger(ledger)
    assert "the site cannot be named" in getattr(compare_folders(finished.path, copy.path).parting, "sentence", "")
    ledger[0]["sites"]["A"]["loss"] += 1e-9
    copy.write_ledger(ledger)
    assert getattr(compare_folders(finished.path, copy.path).parting, "sites", ()) == ("A",)


def test_a_site_that_was_missing_in_one_run_is_where_they_part(finished: RunFolder, copy: RunFolder) -> None:
    ledger = copy.ledger()
    del ledger[1]["sites"]["B"]
    ledger[1]["missing"] = {"B": "disk full"}
    copy.write_ledger(ledger)
    parting = compare_folders(finished.path, copy.path).parting
    assert parting is not None
    assert (parting.round, parting.sites) == (2, ("B",))
    assert Change("B: taken part", "yes", "missing: disk full") in parting.changes


def test_a_run_that_was_stopped_is_the_same_as_far_as_it_went_and_still_differs(
    finished: RunFolder, copy: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    copy.write_ledger(copy.ledger()[:2])
    copy.prune_checkpoints({2})
    assert run(["diff", str(finished.path), str(copy.path)]) == 1
    printed = capsys.readouterr().out
    assert "the ledgers are the same over 2 rounds" in printed
    assert "rounds finished: 3 and 2" in printed


def test_other_scores_from_equal_weights_are_named(finished: RunFolder, copy: RunFolder) -> None:
    evaluation = copy.read_evaluation(3, "test")
    assert evaluation is not None
    other = evaluation.model_dump()
    (copy.path / "summary.md").unlink()  # a finished run has tables, which would have to say the same
    other["sites"]["D"].update(seconds=1e6, cases=[])  # withheld
    copy.write_evaluation(3, "test", Evaluation.model_validate(other))
    assert compare_folders(finished.path, copy.path).same
    other["sites"]["D"]["scores"]["organs"]["1"]["reference_ml_sum"] += 1
    other["sites"]["D"]["scores"]["organs"]["1"]["volume_error_sum"] += 1
    copy.write_evaluation(3, "test", Evaluation.model_validate(other))
    found = compare_folders(finished.path, copy.path)
    assert found.scores == "the test scores of round 3 part at site D"
    assert not found.same


def test_cases_versions_and_engine_that_differ_are_listed(tmp_path: Path, tiny_root: Path) -> None:
    cohort = read_cohort(tiny_root)
    one = create_run(tmp_path / "one", tiny_config(), cohort)
    fewer = replace(cohort, cases=(replace(cohort.cases[0], annotated=(1,)), *cohort.cases[2:]))
    other = create_run(tmp_path / "other", tiny_config(engine={"name": "ray"}), fewer)
    about = json.loads((other.path / "versions.json").read_text())
    about["versions"]["torch"] = "1.0"
    (other.path / "versions.json").write_text(json.dumps(about))
    found = compare_folders(one.path, other.path)
    assert [change.name for change in found.cases] == ["a_train_0", "a_train_1"]
    assert found.cases[0].second == "train at A (CT), organs 1"
    assert found.cases[1].second == "-"
    assert [change.name for change in found.where] == ["engine.name", "version.torch"]
    assert found.settings == ()


def test_the_json_says_the_same(finished: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diff", str(finished.path), str(finished.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["same"] is True


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("ledger.jsonl", '{"round": 1', "ledger.jsonl, line 1: cannot be read"),
        ("versions.json", "[]", "versions.json: cannot be read"),
        ("config.yaml", "a: [", "is not YAML"),
        ("evaluations/round_0003_val.json", "{", "round_0003_val.json: holds impossible scores"),
    ],
)
def test_a_damaged_run_is_one_plain_sentence(
    finished: RunFolder, copy: RunFolder, file: str, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy.path / file).write_text(text)
    assert run(["diff", str(finished.path), str(copy.path)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_what_is_no_run_is_refused(finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diff", str(finished.path), str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    (tmp_path / "group.yaml").write_text("kind: local\nruns: [A]\n")
    assert run(["diff", str(finished.path), str(tmp_path)]) == 2
    assert "is a group of runs" in capsys.readouterr().err


@given(st.integers(1, 20_000), st.data())
def test_the_check_value_changes_with_every_bit(size: int, data: st.DataObject) -> None:
    values = np.arange(size, dtype=np.float32)
    before = fingerprint_of({"a": values})
    changed = values.copy()
    word, bit = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, 31))
    changed.view(np.uint32)[word] ^= np.uint32(1 << bit)
    assert fingerprint_of({"a": changed}) != before
    assert fingerprint_of({"b": values}) != before
    assert fingerprint_of({"a": values.reshape(1, -1)}) != before
    assert fingerprint_of({"a": values.copy()}) == before
