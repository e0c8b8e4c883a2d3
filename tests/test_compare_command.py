"""`amos-fl compare` as a user types it, on runs that were carried out."""

import contextlib
import csv
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from federations import federate

from amos_fl.cli.main import run
from amos_fl.cohort.table import read_cohort


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path, store: Path) -> Path:
    """A folder with a federated, a pooled and three local runs of the tiny cohort."""
    folder = tmp_path_factory.mktemp("runs")
    cohort = read_cohort(tiny_root)
    federate(folder / "fed", cohort, store)
    assert (
        run(["centralized", "--like", str(folder / "fed"), "--out", str(folder / "pooled"), "--store", str(store)]) == 0
    )
    assert run(["local", "--like", str(folder / "fed"), "--out", str(folder / "local"), "--store", str(store)]) == 0
    return folder


@dataclass(frozen=True)
class Made:
    """A comparison that was made once for several tests: its folder and what was printed."""

    folder: Path
    printed: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, runs: Path) -> Made:
    out, printed = tmp_path_factory.mktemp("made") / "out", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert run(arguments(runs, out)) == 0
    return Made(out, printed.getvalue())


def arguments(runs: Path, out: Path, *more: str) -> list[str]:
    return ["compare", *(str(runs / name) for name in ("fed", "pooled", "local")), "--out", str(out), *more]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_it_prints_the_answer_and_leaves_tables_latex_and_a_report(made: Made) -> None:
    out, printed = made.folder, made.printed
    for words in ("DSC by arm", "DSC by site", "What each arm cost", "equal samples", "too few for an interval"):
        assert words in printed
    assert "pooled scores" in printed
    assert printed.rstrip().endswith("report.html")
    names = {path.name for path in out.iterdir()}
    assert {"report.html", "comparison.md", "comparison.json", "scores.csv", "curves.csv", "latex"} <= names
    assert {row["arm"] for row in rows(out / "scores.csv")} == {
        *("fedavg", "pooled", "local, at home", "local, elsewhere", "local A", "local B", "local G")
    }


def test_quiet_prints_the_answer_alone(made: Made, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(arguments(runs, made.folder, "--quiet")) == 0
    printed = capsys.readouterr().out
    assert "DSC by arm" not in printed
    assert "pooled scores" in printed
    assert printed.rstrip().endswith("report.html")
    assert len(printed.splitlines()) < 15


def test_its_scores_and_costs_are_those_of_the_runs(made: Made, runs: Path) -> None:
    found = {
        (row["arm"], row["scope"], row["metric"]): row["value"]
        for row in rows(made.folder / "scores.csv")
        if not row["organ"]
    }
    compared = 0
    for name, arm in (("fed", "fedavg"), ("pooled", "pooled"), ("local/A", "local A")):
        for row in rows(runs / name / "scores_by_site.csv"):
            for metric in ("dsc", "nsd"):
                if value := found.get((arm, row["name"], metric)):
                    assert float(value) == pytest.approx(float(row[metric]), abs=1e-9)
                    compared += 1
    assert compared >= 18
    ledger = [json.loads(line) for line in (runs / "fed/ledger.jsonl").read_text().splitlines()]
    arms = {row["name"]: row for row in rows(made.folder / "arms.csv")}
    assert int(arms["fedavg"]["bytes_up"]) == sum(entry["bytes_up"] for entry in ledger)
    assert arms["pooled"]["patches"] == arms["fedavg"]["patches"] == arms["local, at home"]["patches"]
    curves = [row for row in rows(made.folder / "curves.csv") if row["run"] == "fed"]
    assert [row["round"] for row in curves] == ["3"]
    assert int(curves[-1]["bytes"]) == sum(entry["bytes_up"] + entry["bytes_down"] for entry in ledger)


def test_a_second_comparison_is_the_same_and_takes_the_place_of_the_first(made: Made, runs: Path) -> None:
    kept = (".csv", ".tex", ".json", ".md")
    before = {path: path.read_bytes() for path in made.folder.rglob("*.*") if path.suffix in kept}
    others_first = ["compare", *(str(runs / name) for name in ("local", "pooled", "fed"))]
    assert run([*others_first, "--out", str(made.folder)]) == 0
    assert len(before) > 20
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--metric", "iou"], "--metric is 'iou': choose dsc or nsd"),
        (["--reference", "fedprox"], "--reference fedprox: no such arm; there are fedavg, pooled"),
        (["nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_one_plain_sentence(
    tmp_path: Path, runs: Path, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(arguments(runs, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_unfinished_run_and_a_run_on_other_cases_are_named(
    tmp_path: Path, runs: Path, store: Path, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = tmp_path / "begun"
    shutil.copytree(runs / "fed", begun)
    for file in begun.glob("summary.md"):
        file.unlink()
    (begun / "scores.csv").unlink()
    assert run(["compare", str(runs / "fed"), str(begun), "--out", str(tmp_path / "out")]) == 2
    assert "begun" in capsys.readouterr().err
    fewer = tmp_path / "fewer"
    federate(fewer, read_cohort(tiny_root).only(["A", "B", "G"]), store, sites=["A", "B", "G"])
    capsys.readouterr()
    assert run(["compare", str(runs / "fed"), str(fewer), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "scored other cases" in error
    assert "d_test_8" in error
    assert "--hold-out" in error


def test_a_folder_with_something_else_in_it_is_left_alone(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert run(arguments(runs, tmp_path)) == 2
    assert "holds something other than a comparison" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
