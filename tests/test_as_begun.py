"""A run's folder that does not hold what the run was begun with is not scored, compared or reported under its name."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from amos_fl.cli.main import run
from amos_fl.errors import AmosError
from amos_fl.runs.as_begun import changed_settings
from amos_fl.runs.folder import open_run
from amos_fl.runs.listing import ListedRun, list_runs
from amos_fl.runs.record import read_run

NOT_AS_BEGUN = "is not what the run was begun with"


@pytest.fixture
def copy(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "copy")


def cut(file: Path, lines: int) -> None:
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:lines]))


def edited(copy: Path) -> None:
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("tolerance_mm: 1.0", "tolerance_mm: 2.0"))


def half_of_the_settings(copy: Path) -> None:
    lines = (copy / "config.yaml").read_text().splitlines()
    cut(copy / "config.yaml", lines.index("evaluation:"))


def without_the_last_case(copy: Path) -> None:
    cut(copy / "cohort.csv", len((copy / "cohort.csv").read_text().splitlines()) - 1)


def another_organ(copy: Path) -> None:
    (copy / "organs.csv").write_text((copy / "organs.csv").read_text().replace("ball", "cone"))


@pytest.mark.parametrize("part", range(1, 60))
def test_settings_that_are_cut_off_anywhere_never_count_as_others(copy: Path, part: int) -> None:
    whole = open_run(copy).config().science()
    cut(copy / "config.yaml", part)
    try:
        found, why = read_run(copy).config.science(), ""
    except AmosError as error:
        found, why = None, str(error)
    assert found == whole or "config.yaml" in why


@pytest.mark.parametrize("command", ["report", "compare", "evaluate", "diff", "centralized"])
@pytest.mark.parametrize("harm", [edited, half_of_the_settings, without_the_last_case, another_organ])
def test_every_command_that_reads_runs_names_the_file(
    command: str,
    harm: Callable[[Path], None],
    copy: Path,
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    harm(copy)
    arguments = {
        "report": [str(copy)],
        "compare": [str(copy), str(finished_run), "--out", str(tmp_path / "out")],
        "evaluate": [str(copy), "--out", str(tmp_path / "out")],
        "diff": [str(finished_run), str(copy)],
        "centralized": ["--like", str(copy), "--dry-run"],
    }[command]
    assert run([command, *arguments]) == 2
    said = capsys.readouterr().err
    assert re.search(rf"copy/(config\.yaml|cohort\.csv|organs\.csv): {NOT_AS_BEGUN}", said)
    assert "put it back" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("harm", "file"),
    [
        (edited, "config.yaml"),
        (half_of_the_settings, "config.yaml"),
        (without_the_last_case, "cohort.csv"),
        (another_organ, "organs.csv"),
    ],
)
def test_a_list_of_runs_says_so_too(copy: Path, harm: Callable[[Path], None], file: str) -> None:
    harm(copy)
    [found] = list_runs([copy])
    assert isinstance(found, ListedRun)
    assert found.state_in_words == f"damaged: {file} {NOT_AS_BEGUN}"


def test_a_run_as_it_was_begun_is_read_by_all(copy: Path, finished_run: Path) -> None:
    assert read_run(copy).config == read_run(finished_run).config
    [found] = list_runs([copy])
    assert found.state_in_words == "finished"


def test_a_setting_of_the_plan_that_the_runs_version_did_not_have_is_unchanged_at_its_default(
    finished_run: Path,
) -> None:
    folder = open_run(finished_run)
    config = folder.config()
    plan = config.plan.model_dump(mode="json")
    older = folder.about().model_copy(update={"plan": {key: plan[key] for key in plan if key != "mr_percentile"}})
    assert changed_settings(older, config) == {"config.yaml": []}
    other = config.model_copy(update={"plan": config.plan.model_copy(update={"mr_percentile": 99.5})})
    assert any(
        "plan.mr_percentile was - and is 99.5" in change for change in changed_settings(older, other)["config.yaml"]
    )
