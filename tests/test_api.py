"""The Python face: the same folders and numbers as the commands, as objects to go on with."""

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import write_tiny_cohort
from federations import TINY, final_weights

import amos_fl
from amos_fl.api.keywords import Settings, settings_of
from amos_fl.cli.main import run as command
from amos_fl.runs.config import RunConfig
from amos_fl.runs.events import Event, RoundFinished
from amos_fl.runs.folder import RunFolder
from amos_fl.weights import hash_of


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    write_tiny_cohort(folder / "cohort")
    return folder


@pytest.fixture(scope="module")
def trained(tiny: Path) -> amos_fl.Run:
    return amos_fl.simulate(cohort=tiny / "cohort", out=tiny / "run", store=tiny / "store", progress=False, **TINY)


def test_a_run_from_python_is_that_of_the_command(tiny: Path, trained: amos_fl.Run) -> None:
    config = trained.path / "config.yaml"
    out = tiny / "by_command"
    assert command(["simulate", "--config", str(config), "--out", str(out), "--store", str(tiny / "store")]) == 0
    assert hash_of(final_weights(RunFolder(out))) == hash_of(final_weights(RunFolder(trained.path)))
    assert (out / "scores.csv").read_text() == (trained.path / "scores.csv").read_text()
    assert (trained.path / "report.html").is_file()


def test_the_tables_of_a_run_are_tidy_and_say_what_its_files_say(trained: amos_fl.Run) -> None:
    scores = trained.scores
    assert list(scores["organ"].unique()) == ["ball", "box"]
    assert set(scores["site"]) == {"A", "D", "G"}
    assert not scores.loc[scores["site"] == "D", "seen"].any()
    by_hand = scores[scores["site"] == "A"].groupby("organ")["dsc"].mean().mean()
    listed = trained.site_scores.set_index("name").loc["A", "dsc"]
    assert by_hand == pytest.approx(listed, abs=1e-9)
    assert len(trained.rounds) == 3 * 3
    assert trained.rounds["steps"].sum() == 3 * 3 * 2
    assert (trained.rounds["missing"] == "").all()
    assert trained.report.name == "report.html"
    assert "<table" in trained._repr_html_()


def test_a_model_predicts_a_scan_on_its_own_grid(tiny: Path, trained: amos_fl.Run) -> None:
    scan = tiny / "cohort/images/d_test_8.nii.gz"
    found = trained.model.predict(scan, "CT")
    assert command(["predict", str(trained.path), str(scan), "-o", str(tiny / "drawn"), "--modality", "CT"]) == 0
    by_command = nib.nifti1.load(tiny / "drawn/d_test_8.nii.gz")
    assert np.array_equal(found.labels, np.asarray(by_command.dataobj))
    assert found.volumes_ml["ball"] == pytest.approx(np.count_nonzero(found.labels == 1) * 0.512)
    assert np.array_equal(np.asarray(nib.nifti1.load(found.save(tiny / "saved.nii.gz")).dataobj), found.labels)
    with pytest.raises(amos_fl.AmosError, match="add --modality CT or --modality MR"):
        trained.model.predict(scan)
    [outcome] = amos_fl.predict(trained, scan, tiny / "again", modality="CT")
    assert outcome.state == "predicted"


def test_pooled_and_local_runs_stand_beside_a_federation(tiny: Path, trained: amos_fl.Run) -> None:
    pooled = amos_fl.pooled(trained, out=tiny / "pooled", store=tiny / "store", progress=False)
    alone = amos_fl.local(trained, out=tiny / "alone", store=tiny / "store", progress=False)
    assert [run.path.name for run in alone] == ["A", "B", "G"]
    compared = amos_fl.compare([trained, pooled, alone], tiny / "compared", resamples=200)
    assert {"fedavg", "pooled"} <= set(compared.scores["arm"])
    assert compared.report.is_file()
    assert compared.findings
    assert set(compared.differences["reference"]) == {"fedavg"}
    with pytest.raises(amos_fl.AmosError, match="takes everything from that run; leave out rounds"):
        amos_fl.pooled(trained, rounds=3)


@pytest.mark.parametrize(
    ("name", "option", "value", "wanted"),
    [
        ("rounds", "--rounds", 0, "must be a whole number, at least 1 and at most 1,000,000"),
        ("training.momentum", "--momentum", 1, "must be a number, at least 0 and below 1"),
        ("evaluation.overlap", "--overlap", "x", "must be a number, at least 0 and below 1"),
        ("weighting", "--weighting", "age", "choose cases, equal, steps or modality"),
    ],
)
def test_a_wrong_setting_gets_one_sentence_wherever_it_was_given(
    name: str, option: str, value: object, wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = f"is {value!r}: {wanted}"
    assert command(["simulate", option, str(value)]) == 2
    assert f"{option} {said}" in capsys.readouterr().err
    assert command(["simulate", "--set", f"{name}={value}"]) == 2
    assert f"{name} {said}" in capsys.readouterr().err
    (tmp_path / "run.yaml").write_text(f"{name.replace('.', ': {')}: {value}{'}' * name.count('.')}\n")
    assert command(["simulate", "--config", str(tmp_path / "run.yaml")]) == 2
    assert f"run.yaml: {name} {said}" in capsys.readouterr().err
    with pytest.raises(amos_fl.AmosError) as found:
        amos_fl.simulate(**{name: value})  # pyright: ignore[reportArgumentType]
    assert str(found.value) == f"the keywords: {name} {said}"


def test_a_setting_by_its_dotted_name_in_a_file_is_shown_as_a_file_has_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text("evaluation.predictions: true\n")
    assert command(["simulate", "--config", str(tmp_path / "run.yaml")]) == 2
    assert "write it as evaluation: {predictions: ...}" in capsys.readouterr().err


@pytest.mark.parametrize("written", ["A, G", "A G", "[A, G]"])
def test_sites_are_written_in_a_file_as_in_an_option_or_as_a_list(
    written: str, tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(f"cohort: {tiny}/cohort\nsites: {written}\nhold_out: G\nmodel: small\n")
    assert command(["simulate", "--config", str(tmp_path / "run.yaml"), "--dry-run"]) == 0
    assert "hold_out:\n- G\n" in capsys.readouterr().out


def test_a_setting_without_its_section_is_recognised() -> None:
    with pytest.raises(amos_fl.AmosError, match=r"no setting 'overlap'; did you mean 'evaluation.overlap'"):
        amos_fl.simulate(overlap=3)  # pyright: ignore[reportCallIssue]
    with pytest.raises(amos_fl.AmosError, match=r"did you mean 'training.batch_size' or 'evaluation.batch_size'\?"):
        amos_fl.simulate(batch_size=3)  # pyright: ignore[reportCallIssue]


def test_errors_name_the_arguments_of_the_functions(tiny: Path, trained: amos_fl.Run) -> None:
    wrong = {
        "split is 'all': choose train, val or test": lambda: amos_fl.evaluate(trained, split="all"),  # pyright: ignore
        "modality is 'PET': choose CT or MR": lambda: amos_fl.predict(trained, tiny, tiny / "x", modality="PET"),
        "overlap is 1: must be a number, at least 0 and below 1": lambda: amos_fl.evaluate(trained, overlap=1),
        "copies is -1: must be a whole number, at least 0": lambda: amos_fl.calibrate(trained, copies=-1),
        "already exists; choose another folder": lambda: amos_fl.evaluate(trained, out=tiny),
        "like takes everything from that run": lambda: amos_fl.pooled(trained, rounds=3),
    }
    for sentence, call in wrong.items():
        with pytest.raises(amos_fl.AmosError) as found:
            call()
        assert sentence in str(found.value)
        assert "--" not in str(found.value)


def test_evaluating_a_run_on_its_own_cohort_gives_its_own_scores(tiny: Path, trained: amos_fl.Run) -> None:
    scored = amos_fl.evaluate(trained, out=tiny / "evaluated", store=tiny / "store")
    assert (tiny / "evaluated/scores.csv").read_bytes() == (trained.path / "scores.csv").read_bytes()
    assert scored.scores.equals(trained.scores)


def test_a_stopped_run_is_opened_and_carried_to_its_end(tiny: Path, trained: amos_fl.Run) -> None:
    def stopping(event: Event) -> None:
        if isinstance(event, RoundFinished) and event.round == 1:
            RunFolder(tiny / "stopped").stop_file.request()

    with pytest.raises(Exception, match="stopped by request"):
        amos_fl.simulate(cohort=tiny / "cohort", out=tiny / "stopped", store=tiny / "store", listener=stopping, **TINY)
    stopped = amos_fl.open_run(tiny / "stopped")
    assert not stopped.finished
    assert len(stopped.rounds) == 3
    with pytest.raises(amos_fl.AmosError, match="has not finished"):
        _ = stopped.scores
    again = stopped.resume(store=tiny / "store", progress=False)
    assert hash_of(final_weights(RunFolder(again.path))) == hash_of(final_weights(RunFolder(trained.path)))


def test_the_keywords_are_the_settings() -> None:
    assert set(Settings.__annotations__) == set(RunConfig.model_fields) - {"arm"}
    assert settings_of({"training.learning_rate": 0.1, "training": {"threads": 1}}) == {
        "training": {"learning_rate": 0.1, "threads": 1}
    }
    with pytest.raises(amos_fl.AmosError, match="did you mean 'rounds'"):
        amos_fl.simulate(round=3)  # pyright: ignore[reportCallIssue] - that it is no keyword is the subject


def test_the_package_shows_its_public_names_and_nothing_else() -> None:
    program = "import amos_fl; print(*[name for name in dir(amos_fl) if not name.startswith('__')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == set(amos_fl.__all__) - {"__version__"}
