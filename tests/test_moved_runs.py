"""A run whose folder or scans lie elsewhere now: found where they can be, named with --cohort where not."""

import shutil
from pathlib import Path

import pytest
from conftest import write_tiny_cohort
from federations import hashes, tiny_config

from amos_fl.cli.main import run
from amos_fl.cohort.table import read_cohort, write_cohort
from amos_fl.errors import AmosError
from amos_fl.runs.create import create_run
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.moved import cohort_of
from amos_fl_server.federation.simulate import simulate


@pytest.fixture
def begun(tmp_path: Path) -> RunFolder:
    """A run of two rounds over scans of its own, both in one folder, stopped before its first round."""
    write_tiny_cohort(tmp_path / "study/scans")
    config = tiny_config(cohort=str(tmp_path / "study/scans"), rounds=1, local_steps=1)
    return create_run(tmp_path / "study/run", config, read_cohort(tmp_path / "study/scans"))


def missing_of(folder: RunFolder) -> list[str]:
    return [case.case for case in folder.cohort().cases if not case.image.exists()]


def test_a_run_moved_with_its_scans_and_a_run_moved_alone_find_them(begun: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "study/run", tmp_path / "far/away/alone")
    alone = RunFolder(tmp_path / "far/away/alone")
    assert missing_of(alone)
    assert all(case.image.parents[1] == tmp_path / "study/scans" for case in cohort_of(alone).cases)
    shutil.move(tmp_path / "study", tmp_path / "archive")
    together = RunFolder(tmp_path / "archive/run")
    assert all(case.image.resolve().is_relative_to(tmp_path / "archive/scans") for case in cohort_of(together).cases)
    with pytest.raises(AmosError, match=r"is not there any more; .* say with --cohort"):
        cohort_of(alone)


def test_a_resume_is_told_where_the_scans_are_now(
    begun: RunFolder, tmp_path: Path, store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = create_run(tmp_path / "whole", begun.config(), begun.cohort())
    simulate(whole, whole.config(), whole.cohort(), store, lambda event: None)
    shutil.move(tmp_path / "study/scans", tmp_path / "disk2")
    command = ["simulate", "--resume", str(begun.path), "--store", str(store)]
    assert run(command) == 2
    assert "is not there any more; where run folder or scans were moved, say with --cohort" in capfd.readouterr().err
    assert run([*command, "--cohort", str(tmp_path / "disk2")]) == 0
    assert hashes(begun) == hashes(whole)
    assert missing_of(begun) == []
    assert run(["evaluate", str(begun.path), "--out", str(tmp_path / "again"), "--store", str(store)]) == 0


def test_other_cases_are_not_taken_for_the_runs(begun: RunFolder, tmp_path: Path) -> None:
    fewer = read_cohort(tmp_path / "study/scans")
    write_cohort(type(fewer)(fewer.cases[1:], fewer.organs), tmp_path / "fewer.csv")
    with pytest.raises(AmosError, match=f"{fewer.cases[0].case}: is in this run and not in"):
        cohort_of(begun, read_cohort(tmp_path / "fewer.csv"))
    other = (
        (tmp_path / "study/scans/cohort.csv")
        .read_text()
        .replace(f"{fewer.cases[0].case},A,", f"{fewer.cases[0].case},Z,")
    )
    (tmp_path / "study/scans/other.csv").write_text(other)
    with pytest.raises(AmosError, match="site is Z in the cohort that was given and A in this run"):
        cohort_of(begun, read_cohort(tmp_path / "study/scans/other.csv"))
