"""What a label number means is compared by name wherever label maps of two origins meet."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ORGANS
from deployments import AT_ONCE, Hospitals, deployed_run
from federations import hashes
from hospitals import Hospital, hospital, write_hospital

from amos_fl.annotate.project import create_project, extend_project
from amos_fl.cli.main import run
from amos_fl.cohort.joining import joined
from amos_fl.cohort.organ_names import difference_in_words
from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.table import Cohort, read_organs, write_cohort, write_organs
from amos_fl.deploy.create import create_deployment, make_site_folder
from amos_fl.deploy.layout import read_deployment
from amos_fl.deploy.local_checks import check_organs
from amos_fl.errors import AmosError
from amos_fl.metrics.meaning import organs_beside
from amos_fl_clients.federation.policy import Refusal
from amos_fl_clients.federation.settings import SiteSettings, read_settings
from amos_fl_server.operation.server_app import run_deployed

HEART = {1: "heart", 2: "box"}


def named(cohort: Cohort, organs: dict[int, str]) -> Cohort:
    return replace(cohort, organs=organs)


def requests(site: Hospital) -> list[Callable[[], object]]:
    return [site.describe, site.train, lambda: site.evaluate("test")]


def test_a_site_whose_number_means_another_organ_answers_nothing_but_why(tmp_path: Path, tiny_cohort: Cohort) -> None:
    site = hospital(tmp_path, tiny_cohort)
    write_organs(HEART, tmp_path / "organs.csv")
    for asked in requests(site):
        with pytest.raises(
            Refusal,
            match=r"^refused by site A: label 1 is heart in its cohort and ball in this run; .*'amos-fl data relabel'",
        ):
            asked()
    assert not list((tmp_path / "state/store").glob("*")), "nothing was prepared"


def test_a_site_without_organs_csv_means_amoss_numbers(tmp_path: Path, tiny_cohort: Cohort) -> None:
    site = hospital(tmp_path, tiny_cohort)
    (tmp_path / "organs.csv").unlink()
    with pytest.raises(Refusal, match=r"label 1 is spleen in its cohort and ball in this run \(and 1 more label means"):
        site.describe()


@pytest.mark.parametrize(
    ("organs", "annotated"),
    [
        ({1: "Ball", 2: "BOX"}, (1, 2)),  # another spelling
        ({1: "ball"}, (1,)),  # lacks one
        ({1: "ball", 2: "box", 3: "cone"}, (1, 2, 3)),  # has one more
        ({1: "ball", 2: "heart"}, (1,)),  # means another organ by a number that none of its cases annotates
    ],
)
def test_a_site_that_spells_lacks_or_adds_organs_takes_part(
    organs: dict[int, str], annotated: tuple[int, ...], tmp_path: Path, tiny_cohort: Cohort
) -> None:
    own = tuple(replace(case, annotated=annotated) for case in tiny_cohort.cases)
    settings = write_hospital(tmp_path, Cohort(own, organs), "A")
    site = hospital(tmp_path / "other", tiny_cohort)
    site.settings_file = settings
    described = json.loads(str(site.describe().content.config_records["site"]["description"]))
    assert described["annotated"] == described["annotated_in_training"] == sorted(set(annotated) & set(ORGANS))


def test_an_organ_under_another_number_is_no_fewer_organs(tmp_path: Path, tiny_cohort: Cohort) -> None:
    site = hospital(tmp_path, tiny_cohort)
    moved = tuple(replace(case, annotated=(7,), label_values=((1, 7), (2, 0))) for case in tiny_cohort.cases)
    site.settings_file = write_hospital(tmp_path, Cohort(moved, {7: "ball"}), "A")
    with pytest.raises(Refusal, match="ball is label 7 in its cohort and 1 in this run"):
        site.describe()


def test_a_run_goes_on_without_the_site_whose_numbers_mean_other_organs_and_names_it(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    grid = Hospitals(tmp_path, tiny_cohort, "ABG")
    write_organs(HEART, tmp_path / "1-B/organs.csv")
    folder = deployed_run(tmp_path / "run", tiny_cohort, rounds=1, sites=("A", "B", "G"))
    run_deployed(grid, folder, 0, AT_ONCE)
    [entry] = folder.ledger()
    assert sorted(entry["sites"]) == ["A", "G"]
    assert entry["missing"]["B"].startswith("refused by site B: label 1 is heart in its cohort and ball in this run")
    assert "label 1 is heart in its cohort" in (folder.path / "summary.md").read_text()
    without = deployed_run(tmp_path / "without", tiny_cohort, rounds=1)
    run_deployed(Hospitals(tmp_path / "two", tiny_cohort, "AG"), without, 5, AT_ONCE)
    assert hashes(folder) == hashes(without)


def site_of_a_deployment(tmp_path: Path, cohort: Cohort) -> tuple[Path, SiteSettings]:
    create_deployment(tmp_path / "dep", ["A"], cohort=cohort)
    folder = tmp_path / "dep/sites/site-a"
    return folder, read_settings(folder / "settings.yaml")


def test_a_bundle_says_which_number_is_which_organ_and_the_check_compares_them(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    folder, place = site_of_a_deployment(tmp_path, tiny_cohort)
    assert read_organs(folder / "organs.csv") == ORGANS
    assert "    1,ball\n    2,box\n" in (folder / "README.md").read_text()
    assert check_organs(folder, place).found == "1 ball, 2 box annotated here; the runs learn 2"
    write_organs(HEART, folder / "data/organs.csv")
    finding = check_organs(folder, place)
    assert finding.outcome == "wrong"
    assert finding.found == "label 1 is heart in the site's cohort and ball in the deployment"
    assert "amos-fl data relabel" in finding.remedy
    (folder / "organs.csv").unlink()
    assert "new bundle" in check_organs(folder, place).remedy


def test_a_bundle_that_is_made_again_says_what_the_runs_learn_by_now(tmp_path: Path, tiny_cohort: Cohort) -> None:
    folder, _ = site_of_a_deployment(tmp_path, tiny_cohort)
    write_organs({1: "ball", 2: "cone"}, tmp_path / "dep/organs.csv")
    make_site_folder(tmp_path / "dep", read_deployment(tmp_path / "dep"), "A")
    assert read_organs(folder / "organs.csv") == {1: "ball", 2: "cone"}


def test_cohorts_are_joined_by_what_their_numbers_mean(tiny_cohort: Cohort) -> None:
    other = replace(tiny_cohort, cases=tuple(replace(c, case=f"x-{c.case}") for c in tiny_cohort.cases))
    both = joined([("one", tiny_cohort), ("two", named(other, {1: "Ball", 2: "box"}))])
    assert both.organs == ORGANS
    assert len(both.cases) == 2 * len(tiny_cohort.cases)
    with pytest.raises(AmosError, match=r"two: has other organs than one: label 1 is heart there and ball in one;"):
        joined([("one", tiny_cohort), ("two", named(other, HEART))])
    with pytest.raises(AmosError, match=r"two: has other organs than one; give both the same"):
        joined([("one", tiny_cohort), ("two", named(other, {1: "ball", 2: "box", 3: "cone"}))])


def test_a_labelling_project_is_extended_by_what_the_numbers_mean(tmp_path: Path, tiny_cohort: Cohort) -> None:
    unlabelled = replace(tiny_cohort, cases=tuple(replace(case, label=None) for case in tiny_cohort.cases))
    project = create_project(tmp_path / "project", unlabelled, tuple(ORGANS))
    assert extend_project(project, named(unlabelled, {1: "BALL", 2: "box"}))[1] == []
    with pytest.raises(AmosError, match="label 1 is heart there and ball in the project"):
        extend_project(project, named(unlabelled, HEART))


def predicted(folder: Path, cohort: Cohort) -> Path:
    """The label maps of the test cases as somebody's predictions."""
    folder.mkdir(parents=True)
    for case in cohort.of(split="test", labelled=True):
        assert case.label is not None
        shutil.copy(case.label, folder / f"{case.case}.nii.gz")
    return folder


def test_score_refuses_label_maps_that_say_that_their_numbers_mean_other_organs(
    tmp_path: Path, tiny_cohort: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = predicted(tmp_path / "maps", tiny_cohort)
    write_cohort(tiny_cohort, tmp_path / "cohort/cohort.csv")
    command = ["score", str(maps), "--cohort", str(tmp_path / "cohort"), "--split", "test", "--workers", "1"]
    assert run(command) == 0
    for name, said in (
        ("predict.json", {"organs": {"1": "heart", "2": "box"}}),
        ("dataset.json", {"labels": {"background": 0, "heart": 1, "box": 2}}),
        ("dataset.json", {"labels": {"0": "background", "1": "heart"}}),
    ):
        (maps / name).write_text(json.dumps(said))
        capsys.readouterr()
        assert run(command) == 2
        assert f"{maps / name}: label 1 is heart there and ball in the cohort" in capsys.readouterr().err
        (maps / name).unlink()
    (maps / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "Ball": 1, "BOX": 2}}))
    assert run(command) == 0
    write_organs(HEART, maps / "organs.csv")
    assert run(command) == 2
    write_organs(ORGANS, tmp_path / "mine.csv")
    assert run([*command, "--organs", str(tmp_path / "mine.csv")]) == 0, "who says it himself is believed"


def test_amoss_own_spellings_are_amoss_organs(tmp_path: Path) -> None:
    release = {str(label): name for label, name in AMOS_ORGANS.items()} | {"8": "arota", "9": "postcava"}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"0": "background", **release}}))
    (tmp_path / "labelsTr").mkdir()
    found = organs_beside(tmp_path / "labelsTr")
    assert found is not None
    assert difference_in_words(found[1], AMOS_ORGANS, ("there", "here")) == ""


def test_an_evaluation_compares_by_name_and_says_what_its_label_maps_mean(
    tmp_path: Path, finished_run: Path, tiny_cohort: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    swapped = tuple(replace(case, label_values=((1, 2), (2, 1))) for case in tiny_cohort.cases)
    write_cohort(Cohort(swapped, {1: "Box", 2: "Ball"}), tmp_path / "swapped/cohort.csv")
    command = ["evaluate", str(finished_run), "--device", "cpu", "--store", str(tmp_path / "store"), "--predictions"]
    assert run([*command, "--out", str(tmp_path / "own")]) == 0
    assert run([*command, "--cohort", str(tmp_path / "swapped"), "--out", str(tmp_path / "other")]) == 0
    capsys.readouterr()

    def by_organ(folder: Path) -> set[str]:
        lines = (folder / "scores_by_organ.csv").read_text().splitlines()[1:]
        return {line.lower() for line in lines}

    assert by_organ(tmp_path / "own") == by_organ(tmp_path / "other")
    assert read_organs(tmp_path / "other/predictions/organs.csv") == {1: "Box", 2: "Ball"}
    maps = tmp_path / "other/predictions/A"
    assert organs_beside(maps) == (tmp_path / "other/predictions/organs.csv", {1: "Box", 2: "Ball"})
