"""Sites that keep the scores of single cases to themselves: a healthy run that is shown and compared from sums."""

import math
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
from deployments import AT_ONCE, Hospitals, deployed_run
from made_runs import made_run, noisy

from amos_fl.cli.main import run
from amos_fl.cohort.table import Cohort
from amos_fl.comparison.compare import compare_runs
from amos_fl.comparison.comparison import Comparison
from amos_fl.errors import AmosError
from amos_fl.metrics.rows import SiteSums
from amos_fl.metrics.scores import OrganScore, Scores
from amos_fl.metrics.table import sums_of
from amos_fl.report.page import write_run_report
from amos_fl.report.run_page import missing_cases
from amos_fl.runs.record import RunRecord, read_run
from amos_fl_server.operation.server_app import run_deployed


def withholding(record: RunRecord, sites: Collection[str]) -> RunRecord:
    """The run as its server knows it where some sites send sums over their cases alone."""
    results, organs = record.results, record.cohort.organs
    sums = []
    for site in sites:
        mine = [case for case in results.cases if case.site == site]
        modality = " and ".join(sorted({case.modality for case in mine}))
        sums.append(SiteSums(site, mine[0].seen, modality, sums_of(mine, organs)))
    kept = [case for case in results.cases if case.site not in sites]
    return replace(record, results=replace(results, cases=kept, withheld=tuple(sums)))


def three() -> list[RunRecord]:
    return [
        made_run("fedavg", noisy(0.8, unseen=0.1, name="f")),
        made_run("again", noisy(0.81, unseen=0.1, name="g"), seed=1),
        made_run("pooled", noisy(0.85, unseen=0.05, name="p"), arm="centralized"),
    ]


def compared(records: list[RunRecord]) -> Comparison:
    return compare_runs(records, resamples=300)


def values(found: Comparison) -> dict[tuple[str, str, str, str], list[float]]:
    """Every mean with its counts, whatever is known of its spread."""
    return {
        (c.arm, c.scope, c.organ, c.metric): [c.estimate.value, c.estimate.cases, c.missed, c.hallucinated]
        for c in found.cells
    }


@pytest.mark.parametrize("sites", ["A", "DF", "ABDFG"])
@pytest.mark.parametrize("where", ["in every run", "in one run"])
def test_means_counts_and_differences_are_those_of_all_cases(sites: str, where: str) -> None:
    records = three()
    whole = compared(records)
    told = [withholding(r, sites) if where == "in every run" or i == 1 else r for i, r in enumerate(records)]
    parts = compared(told)
    assert values(parts).keys() == values(whole).keys()
    for key, expected in values(whole).items():
        assert values(parts)[key] == pytest.approx(expected, abs=1e-9, nan_ok=True), key
    differences = {(d.arm, d.scope, d.organ, d.metric): d for d in parts.differences}
    for d in whole.differences:
        found = differences[d.arm, d.scope, d.organ, d.metric]
        assert found.estimate.value == pytest.approx(d.estimate.value, abs=1e-9)
        assert found.estimate.cases == d.estimate.cases


def test_only_scopes_with_such_a_site_lack_intervals_and_tests_and_say_why() -> None:
    whole, parts = compared(three()), compared([withholding(record, "A") for record in three()])
    touched = {"A", "seen CT", "seen sites"}
    assert {scope.name for scope in parts.scopes if scope.withheld} == touched
    before = {(c.arm, c.scope, c.organ, c.metric): c.estimate for c in whole.cells}
    for cell in parts.cells:
        estimate = before[cell.arm, cell.scope, cell.organ, cell.metric]
        if cell.scope in touched:
            assert not cell.estimate.has_interval
        elif estimate.has_interval:
            assert (cell.estimate.low, cell.estimate.high) == (estimate.low, estimate.high), "drawn as before"
    for difference in parts.differences:
        if difference.scope in touched:
            assert difference.verdict == "no scores per case"
            assert math.isnan(difference.p)
        elif difference.scope == "unseen CT":
            assert not math.isnan(difference.p)
    assert {row.site for row in parts.case_rows} == {"B", "D", "F", "G"}
    assert any(note.startswith("For A only sums and counts are known") for note in parts.notes)
    assert any("(14 cases; no interval without scores per case)" in gap.sentence for gap in parts.gaps)
    assert not any("too few" in gap.sentence for gap in parts.gaps if gap.scope in touched)


def test_sites_that_scored_other_cases_are_refused_though_nobody_knows_their_names() -> None:
    first, second, third = (withholding(record, "A") for record in three())
    [sums] = third.results.withheld

    def other(scores: Scores) -> RunRecord:
        return replace(third, results=replace(third.results, withheld=(replace(sums, scores=scores),)))

    fewer = sums_of([case for case in three()[2].results.cases if case.site == "A"][1:], third.cohort.organs)
    with pytest.raises(AmosError, match="pooled: site A scored 7 test cases, and 8 in"):
        compared([first, second, other(fewer)])

    def larger(case: str, site: str, organ: int) -> OrganScore:
        return OrganScore(0.8, 0.7, "scored", 101.0, 90.0)

    label = sums_of([c for c in made_run("x", larger).results.cases if c.site == "A"], third.cohort.organs)
    with pytest.raises(AmosError, match="pooled: site A has 808 ml of liver in its label maps, and 800 ml in"):
        compared([first, second, other(label)])


def test_a_site_with_both_modalities_sends_one_sum_and_is_compared_by_it() -> None:
    def mixed(record: RunRecord) -> RunRecord:
        cases = [
            replace(c, site="A", modality="MR" if c.site == "G" else "CT", seen=True) for c in record.results.cases
        ]
        return withholding(replace(record, results=replace(record.results, cases=cases)), "A")

    found = compared([mixed(record) for record in three()])
    assert {(scope.name, scope.modality, scope.cases) for scope in found.scopes} == {
        ("A", "CT and MR", 33),
        ("seen CT and MR", "CT and MR", 33),
    }
    assert len(found.differences) > 0


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two deployed runs of two strategies at hospitals with the settings that they begin with."""
    from conftest import write_tiny_cohort

    root = tmp_path_factory.mktemp("deployed")
    cohort = write_tiny_cohort(root / "cohort")
    folders = []
    for strategy in ("fedavg", "fedprox"):
        settings = {"rounds": 1, "engine": {"name": "deployment"}, "evaluation": {"every": 1}}
        folder = deployed_run(root / strategy, cohort, strategy=strategy, **settings)
        run_deployed(Hospitals(root / f"sites-{strategy}", cohort, "ABDG"), folder, 5, AT_ONCE)
        folders.append(folder.path)
    return folders


def test_a_healthy_run_is_shown_as_one_with_its_scores(deployed: list[Path]) -> None:
    page = write_run_report(read_run(deployed[0])).read_text()
    assert "What went wrong" not in page
    assert "Nothing went wrong: every site took part in every round, and every test case was scored." in page
    for heading in ("Scores by site and organ", "Distributions by organ", "Seen and unseen scanners", "Cases"):
        assert f">{heading}</h2>" in page
    assert "heat-dsc" in page
    assert re.search(r'id="by-organ".*?<th scope=row class="">ball</th>', page, re.DOTALL)
    withheld = "Sites A, D and G send sums and counts, and the scores of single cases stay there"
    assert page.count(withheld) == 2, "where distributions and cases would stand"
    assert "box-dsc" not in page
    assert "No test case was scored" not in page


def test_a_test_case_that_was_not_scored_is_still_missed(deployed: list[Path]) -> None:
    record = read_run(deployed[0])
    assert missing_cases(record) == []
    kept = tuple(part for part in record.results.withheld if part.site != "D")
    without = replace(record, results=replace(record.results, withheld=kept))
    assert missing_cases(without) == ["no test scores of 1 test case of 1 at site D"]


def test_names_of_missing_cases_are_a_few(tiny_cohort: Cohort) -> None:
    record = made_run("run", noisy(0.8))
    none = replace(record, results=replace(record.results, cases=[c for c in record.results.cases if c.site != "A"]))
    assert missing_cases(none) == [
        "no test scores of a_test_0, a_test_1, a_test_2, a_test_3, a_test_4 and 3 more at site A"
    ]


def test_pseudonyms_are_no_missing_cases(tmp_path: Path, tiny_cohort: Cohort) -> None:
    folder = deployed_run(tmp_path / "run", tiny_cohort, rounds=1, engine={"name": "deployment"})
    run_deployed(Hospitals(tmp_path, tiny_cohort, "ABDG", share_case_scores="pseudonyms"), folder, 5, AT_ONCE)
    record = read_run(folder.path)
    assert len(record.results.cases) == 3
    assert missing_cases(record) == []


def test_such_runs_are_compared_on_the_command_line(
    deployed: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", *map(str, deployed), "--out", str(tmp_path / "answer")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "For A, D and G only sums and counts are known" in said
    assert "no scores per case" in said
    page = (tmp_path / "answer/report.html").read_text()
    assert page.count("For A, D and G only sums and counts are known") == 2
    assert ">Distributions over cases</h2>" in page
    found = compared([read_run(path) for path in deployed])
    row = next(cell for cell in found.cells if (cell.scope, cell.organ, cell.metric) == ("A", "", "dsc"))
    own = next(row for row in read_run(deployed[0]).results.by_site if row.name == "A")
    assert (row.arm, row.estimate.value, row.estimate.cases) == ("fedavg", own.dsc, own.cases)
