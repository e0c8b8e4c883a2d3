"""The report of a run and of a comparison, as text; `test_report_browser.py` opens it."""

import csv
import json
import math
import re
import shutil
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from made_runs import compared, everything, with_cases
from reports import Pages
from typer.testing import CliRunner

from amos_fl.cli.main import run as amos_fl
from amos_fl.comparison.compare import compare_runs
from amos_fl.comparison.write import write_comparison
from amos_fl.errors import AmosError
from amos_fl.files import write_json
from amos_fl.metrics.rows import ScoreRow, rows_by_case, sums_by_case
from amos_fl.metrics.table import CaseScores
from amos_fl.report import series
from amos_fl.report.examples import chosen_examples
from amos_fl.report.figures import _named_apart, learning_curves
from amos_fl.report.page import render, write_comparison_report, write_run_report
from amos_fl.report.run_figures import DATA_FOLDER, write_data
from amos_fl.report.run_page import missing_cases, run_context
from amos_fl.report.site_page import write_site_report
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.record import RunRecord
from amos_fl.runs.summary import PHANTOM_NOTE
from amos_fl_clients.operation.command import app as site_command


@pytest.fixture
def pages(report_pages: Pages) -> Pages:
    return report_pages


class Outline(HTMLParser):
    """What a page is made of: ids, addresses, headings, and inline SVG elements with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.headings: list[str] = []
        self.svgs: list[dict[str, str | None]] = []
        self._heading = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        self.addresses += [str(found[key]) for key in ("href", "src", "xlink:href") if key in found]
        self._heading = tag in ("h1", "h2")
        if tag == "svg":
            self.svgs.append(found)

    def handle_data(self, data: str) -> None:
        if self._heading:
            self.headings.append(data)
            self._heading = False


def page_of(record: RunRecord, tmp_path: Path) -> str:
    return render("run.html", run_context(record, write_data(record, tmp_path)))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_report_goes_from_what_was_run_to_its_cases(pages: Pages) -> None:
    headings = Outline(pages.run_page.read_text()).headings
    assert headings == [
        "fedavg-001",
        "What was run",
        "Learning curves",
        "Scores by site and organ",
        "Distributions by organ",
        "Seen and unseen scanners",
        "Cost",
        "Cases",
    ]


def test_a_comparison_report_goes_from_its_arms_to_their_cases(pages: Pages) -> None:
    headings = Outline(pages.comparison_page.read_text()).headings
    assert headings[1:5] == ["What is compared", "Scores of the arms", "The gap, taken apart", "By organ"]
    assert headings[-1] == "Cases"
    assert "Learning curves" in headings


def test_a_comparison_shows_each_sites_best_median_and_worst_case_by_the_reference(
    pages: Pages, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "fedavg")
    shutil.copytree(pages.run.folder.path, folder.path)
    case = next(case for case in pages.run.results.cases if case.site == "D")
    pictures = folder.site("D") / "pictures"

    def scored(name: str, dsc: float) -> CaseScores:
        shutil.copy(pictures / f"{case.case}.npz", pictures / f"{name}.npz")
        return replace(case, case=name, scores={o: replace(s, dsc=dsc) for o, s in case.scores.items()})

    marks = {"good": 0.9, "bad": 0.2, "fair": 0.6, "poor": 0.4}
    cases = [scored(name, dsc) for name, dsc in marks.items()]
    record = replace(with_cases(pages.run, cases), folder=folder)
    better = replace(with_cases(pages.run, [scored(c.case, 0.95) for c in cases]), folder=folder, name="better")
    better = replace(better, config=better.config.model_copy(update={"arm": "centralized"}))
    comparison = compare_runs([record, better], resamples=200)
    write_comparison(comparison, tmp_path / "out")
    text = write_comparison_report(comparison, tmp_path / "out").read_text()
    assert "<summary>D, CT: good, fair, bad</summary>" in text
    assert re.findall(r"<h3>(.+)</h3>", text) == ["Best case: good", "Median case: fair", "Worst case: bad"]
    told = re.findall(r"Mean DSC of the case: fedavg ([\d.]+) and pooled ([\d.]+)\.<?", text)
    assert told == [("0.900", "0.950"), ("0.600", "0.950"), ("0.200", "0.950")]
    for name in marks:  # any case can be looked at, with both arms
        page = (tmp_path / "out" / "cases" / "D" / f"{name}.html").read_text()
        assert f'href="cases/D/{name}.html"' in text
        assert re.findall(r'class="model"><b>(\w+)</b>', page) == ["fedavg", "pooled"]


def test_a_comparison_draws_the_curve_of_every_site_from_the_runs_own_scores(pages: Pages) -> None:
    written = {
        (row["run"], int(row["round"]), row["site"]): row["dsc"]
        for row in rows_of(pages.comparison_page.parent / "curves_by_site.csv")
    }
    points = [point for point in pages.run.scores_by_round() if not math.isnan(point.dsc)]
    assert len({point.round for point in points}) > 1
    assert {point.site for point in points} > {"D"}
    for point in points:
        assert written["fedavg-001", point.round, point.site] == repr(point.dsc)
    told = pages.comparison_page.read_text().split("Learning curves by site", 1)[1]
    assert all(f"{site}, fedavg-001:" in told for site in {point.site for point in points})


@pytest.mark.parametrize("which", ["run_page", "comparison_page"])
def test_a_page_refers_to_nothing_but_itself_and_the_files_beside_it(pages: Pages, which: str) -> None:
    page = getattr(pages, which)
    found = Outline(page.read_text())
    files = [a for a in found.addresses if not a.startswith(("#", "data:"))]
    assert files
    assert [name for name in files if not (page.parent / name).is_file()] == []
    assert {a[1:] for a in found.addresses if a.startswith("#")} <= set(found.ids)


@pytest.mark.parametrize("which", ["run_page", "comparison_page"])
def test_ids_are_unique_and_every_figure_has_words(pages: Pages, which: str) -> None:
    text = getattr(pages, which).read_text()
    found = Outline(text)
    assert sorted(found.ids) == sorted(set(found.ids))
    shown = [svg for svg in found.svgs if "aria-hidden" not in svg]
    assert len(shown) > 5
    for svg in shown:
        assert svg["role"] == "img"
        for part in str(svg["aria-labelledby"]).split():
            words = re.search(rf'<(?:title|desc) id="{re.escape(part)}">([^<]+)<', text)
            assert words, part
            assert words[1].strip()


def test_figures_are_drawn_in_the_pages_own_colours(pages: Pages) -> None:
    for page in (pages.run_page, pages.comparison_page):
        text = page.read_text()
        assert "#0d0e" not in text
        assert "var(--series-1)" in text
        assert "background: #fff" not in text


def test_the_same_run_gives_the_same_page(pages: Pages) -> None:
    before = pages.run_page.read_bytes()
    assert write_run_report(pages.run).read_bytes() == before


def test_a_simulation_leaves_planes_of_every_test_case_and_the_report_shows_them(pages: Pages) -> None:
    kept = {file.stem for file in pages.run.folder.path.glob("sites/*/pictures/*.npz")}
    assert kept == {case.case for case in pages.run.results.cases}
    assert len(re.findall('class="plane"', pages.run_page.read_text())) == 3 * len(kept)


def test_any_case_can_be_looked_at_from_the_table_of_all_cases(pages: Pages) -> None:
    for page in (pages.run_page, pages.comparison_page):
        linked = set(re.findall(r'<a href="(cases/[^"]+)">', page.read_text()))
        assert linked == {f"cases/{case.site}/{case.case}.html" for case in pages.run.results.cases}
        for address in linked:
            text = (page.parent / address).read_text()
            found = Outline(text)
            files = [a for a in found.addresses if not a.startswith(("#", "data:"))]
            assert [name for name in files if not ((page.parent / address).parent / name).exists()] == []
            assert len([name for name in files if name.endswith(".nii.gz")]) == 2  # the scan and its label
            assert "as confidential as the scans" in text
            assert json.loads(re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)[0])[
                "views"
            ]


def test_a_hospital_makes_a_page_of_its_own_cases_and_says_what_it_lacks(pages: Pages, tmp_path: Path) -> None:
    site, out = pages.run.folder.site("D"), tmp_path / "page"
    done = CliRunner().invoke(site_command, ["report", str(site), "--out", str(out)])
    assert (done.exit_code, done.stdout) == (0, f"wrote {out / 'report.html'}; it holds pictures of patients\n")
    text = (out / "report.html").read_text()
    case = next(case for case in pages.run.results.cases if case.site == "D")
    (row,) = rows_by_case(sums_by_case([case], pages.run.cohort.organs))
    assert f'<a href="cases/D/{case.case}.html">{case.case}</a>' in text
    assert f'data-value="{row.dsc}"' in text
    assert "normalised surface Dice with a tolerance of 1 mm:" in text
    page = out / "cases" / "D" / f"{case.case}.html"
    assert 'class="plane"' in page.read_text()
    files = [page.parent / unquote(a) for a in Outline(page.read_text()).addresses if a.endswith(".nii.gz")]
    assert [file.resolve() for file in files] == [
        file.resolve() for c in pages.run.cohort.of(site="D", split="test") for file in (c.image, c.label) if file
    ]
    assert not re.search(r"(src|href)=.https?:", text)
    assert "when a run asks for them; of one case they are its own. By audit.log" in text
    (tmp_path / "older").mkdir()
    for name in ("scores.csv", f"{case.case}.npz"):  # without a record of the tolerance, or a cohort
        shutil.copy(site / "pictures" / name, tmp_path / "older" / name)
    older = write_site_report("D", tmp_path / "older", tmp_path / "older", tmp_path / "gone.csv")
    assert "normalised surface Dice: which" in older.read_text()
    assert ".nii.gz" not in (tmp_path / "older/cases/D" / f"{case.case}.html").read_text()
    settings = json.loads((site / "site.json").read_text())
    write_json(tmp_path / "settings.yaml", {**settings, "pictures": None})
    lacking = CliRunner().invoke(site_command, ["report", str(tmp_path)])
    assert "keeps no pictures of its test cases; write 'pictures: state/pictures' into" in str(lacking.exception)
    write_json(tmp_path / "settings.yaml", {**settings, "pictures": "none yet"})
    early = CliRunner().invoke(site_command, ["report", str(tmp_path)])
    assert "no test case of site D has been scored yet" in str(early.exception)


def test_case_pages_of_an_earlier_report_go(pages: Pages) -> None:
    old = pages.run_page.parent / "cases" / "A" / "gone.html"
    old.write_text("a patient")
    write_run_report(pages.run)
    assert not old.exists()


def test_every_figure_is_a_file_for_a_paper_in_light_colours(pages: Pages) -> None:
    for page in (pages.run_page, pages.comparison_page):
        linked = re.findall(r'<a href="(figures/[^"]+)">', page.read_text())
        assert len(linked) >= 10
        assert {f"figures/{file.name}" for file in (page.parent / "figures").iterdir()} == set(linked)
        for address in linked:
            content = (page.parent / address).read_bytes()
            if address.endswith(".pdf"):
                assert content.startswith(b"%PDF-")
                streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL)
                drawn = b"".join(zlib.decompress(part) for part in streams if part[:1] == b"x")
                assert not re.search(rb"0\.05\d+ 0\.05\d+ 0(?:\.0\d*)? (?:rg|RG)", drawn)  # no stand-in
            else:
                assert ElementTree.fromstring(content).tag.endswith("svg")
                assert not re.search(rb'0d0e|var\(|<text|font-family|href="(?!#)', content)


def test_words_of_the_field_are_explained_before_they_are_used(pages: Pages) -> None:
    for page in (pages.run_page, pages.comparison_page):
        text = page.read_text()
        begin, end = text.index('class="words"'), text.index("</dl>", text.index('class="words"'))
        words = text[begin:end]
        assert "Dice similarity coefficient" in words
        assert "tolerance of 1 mm" in words
        found = ["seen", "unseen", "missed", "hallucinated", "patches", "seed"]
        found += ["95 % interval", "arm"] if page == pages.comparison_page else []
        for word in found:
            assert f"<dt>{word}</dt>" in words
        used = text[:begin] if page == pages.run_page else text[text.index("</h1>") : begin]  # its title names its arms
        shown = re.sub(r"<(style|head)>.*?</\1>|<[^>]+>", " ", used, flags=re.DOTALL)
        assert [word for word in ("DSC", "NSD", *found) if re.search(rf"\b{word}\b", shown)] == []
        assert end < min(text.index('class="lead"'), text.index('class="numbers"'))


def test_pooled_training_and_intervals_are_explained_where_they_are_used(pages: Pages, tmp_path: Path) -> None:
    records = [replace(r, folder=pages.run.folder) for r in everything() if r.name in ("fedavg-0", "pooled-0")]
    text = write_comparison_report(compared(records), tmp_path).read_text()
    assert text.index("<dt>pooled</dt>") < text.index("<dt>missed</dt>") < text.index('class="lead"')


def test_long_tables_are_folded_and_the_top_is_one_click_away(pages: Pages) -> None:
    text, compared_text = pages.run_page.read_text(), pages.comparison_page.read_text()
    for page in (text, compared_text):  # the cases of the first site are open
        folded = re.findall(r'<details class="site"( open)?><summary>(\w), [CTMR]{2}(?:, \w+)?: ', page)
        assert [bool(is_open) for is_open, _ in folded] == [i == 0 for i in range(len(folded))]
        assert len(folded) > 2
    assert "<summary>The runs (" not in compared_text
    assert re.search(r"<details><summary>Every round \(3\)</summary>", text)
    assert '<a href="#top">Top</a>' in text
    assert text.index('class="skip" href="#content"') < text.index("<h1>")
    assert re.search(r"Last round ended</dt><dd>\d{4}-\d\d-\d\d \d\d:\d\d UTC", text)


def test_one_round_has_whole_numbers_and_no_empty_chart() -> None:
    losses = [series.LossPoint(1, "A", 1.0, 2, 1.0)]
    svg = learning_curves("learning", losses, [])
    assert re.findall(r">([\d.]+)</text>", svg)[0] == "1"
    assert "DSC during training" not in svg
    scores = [ScoreRow(round=1, site="A", group="seen", dsc=0.5)]
    assert "DSC during training" in learning_curves("learning", losses, scores)


def test_names_of_sites_with_like_scores_stand_above_each_other() -> None:
    marks = [(0.80 + i / 1000, f"site-{i}") for i in range(5)]
    lines = [line for _, _, line in _named_apart(marks, (0.0, 1.0))]
    assert len(set(lines)) == 5


def test_without_pictures_the_report_says_why(pages: Pages, tmp_path: Path) -> None:
    folder = replace(pages.run.folder, path=tmp_path / "copy")
    for file in pages.run.folder.path.rglob("*"):
        if file.is_file() and file.suffix in (".json", ".yaml", ".csv", ".jsonl"):
            copy = folder.path / file.relative_to(pages.run.folder.path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    page = page_of(replace(pages.run, folder=folder), tmp_path)
    assert "only a simulation keeps pictures" in page
    assert 'class="plane"' not in page


def test_what_went_wrong_comes_before_everything_else(pages: Pages, tmp_path: Path) -> None:
    assert "Nothing went wrong" in pages.run_page.read_text()
    results = replace(pages.run.results, problems=["round 2: site B is missing: it broke"])
    page = page_of(replace(pages.run, results=results), tmp_path)
    assert "Nothing went wrong" not in page
    assert Outline(page).headings[1] == "What went wrong"
    assert page.index("site B is missing") < page.index('class="lead"')


def test_a_test_case_without_scores_is_named(pages: Pages, tmp_path: Path) -> None:
    assert missing_cases(pages.run) == []
    results = replace(pages.run.results, cases=[c for c in pages.run.results.cases if c.site != "D"])
    record = replace(pages.run, results=results)
    assert missing_cases(record) == ["no test scores of d_test_8 at site D"]
    assert "no test scores of d_test_8 at site D" in page_of(record, tmp_path)


def test_synthetic_scores_say_so_first_and_others_do_not(pages: Pages, tmp_path: Path) -> None:
    assert PHANTOM_NOTE not in pages.run_page.read_text()
    page = page_of(replace(pages.run, synthetic=True), tmp_path)
    assert page.index(PHANTOM_NOTE) < page.index('class="lead"')


def test_pictures_of_patients_are_called_confidential(pages: Pages, tmp_path: Path) -> None:
    assert "as confidential as the scans" in pages.run_page.read_text()
    assert "as confidential as the scans" in pages.comparison_page.read_text()
    assert "as confidential as the scans" not in page_of(replace(pages.run, synthetic=True), tmp_path)


def test_every_page_says_that_it_is_no_medical_device(pages: Pages) -> None:
    for page in (pages.run_page, pages.comparison_page):
        assert re.search(r"neither .* medical device", page.read_text())


def test_names_from_a_cohort_cannot_become_markup(pages: Pages, tmp_path: Path) -> None:
    name = "<script>alert('$x$')</script>"
    cases = [replace(case, site=name if case.site == "A" else case.site) for case in pages.run.results.cases]
    record = replace(pages.run, name=name, results=replace(pages.run.results, cases=cases))
    page = page_of(record, tmp_path)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "$x$" in page


def test_the_numbers_beside_the_page_are_the_ledgers(pages: Pages) -> None:
    folder = pages.run.folder.path / "report_data"
    losses = rows_of(folder / "learning_losses.csv")
    expected = [(e["round"], s, about["loss"]) for e in pages.run.ledger for s, about in e["sites"].items()]
    assert [(int(r["round"]), r["site"], float(r["loss"])) for r in losses] == expected
    rounds = rows_of(folder / "rounds.csv")
    assert [float(row["loss"]) for row in rounds] == [entry["loss"] for entry in pages.run.ledger]
    cost = rows_of(folder / "cost.csv")[-1]
    assert int(cost["bytes"]) == pages.run.cost.bytes_down + pages.run.cost.bytes_up
    assert int(cost["steps"]) == pages.run.cost.steps
    assert float(cost["seconds"]) == pytest.approx(pages.run.cost.seconds)


def test_the_heat_map_holds_the_scores_of_the_tables(pages: Pages) -> None:
    rows = rows_of(pages.run_page.parent / DATA_FOLDER / "heat_map.csv")
    means = {row["site"]: (row["dsc"], row["nsd"]) for row in rows if row["organ"] == "mean"}
    assert means == {row.name: (repr(row.dsc), repr(row.nsd)) for row in pages.run.results.by_site}
    assert {row["organ"] for row in rows} == {"ball", "box", "mean"}


def test_the_gap_is_seen_minus_unseen_and_has_no_interval_for_few_cases(pages: Pages) -> None:
    dsc = next(row for row in series.gap_rows(pages.run) if row.metric == "dsc")
    groups = {(row.group, row.modality): row.dsc for row in pages.run.results.by_group}
    assert dsc.modality == "CT"
    assert dsc.gap == pytest.approx(groups["seen", "CT"] - groups["unseen", "CT"], abs=1e-9)
    assert str(dsc.low) == "nan"


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([], []),
        ([0.5], [("Only case", "0")]),
        ([0.5, 0.7], [("Best", "1"), ("Worst", "0")]),
        ([0.5, 0.9, 0.7], [("Best", "1"), ("Median", "2"), ("Worst", "0")]),
        ([0.1, 0.2, 0.3, 0.4], [("Best", "3"), ("Median", "2"), ("Worst", "0")]),
        ([0.5, float("nan")], [("Only case", "0")]),
    ],
)
def test_best_median_and_worst_case_are_those(scores: list[float], expected: list[tuple[str, str]]) -> None:
    assert chosen_examples({str(i): dsc for i, dsc in enumerate(scores)}) == expected


def test_report_writes_the_page_anew(pages: Pages, capsys: pytest.CaptureFixture[str]) -> None:
    before = pages.run_page.read_bytes()
    pages.run_page.unlink()
    assert amos_fl(["report", str(pages.run.folder.path)]) == 0
    assert pages.run_page.read_bytes() == before
    assert capsys.readouterr().out == f"fedavg-001: {pages.run_page}\n"


def test_report_refuses_what_is_no_finished_run(
    pages: Pages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert amos_fl(["report", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert amos_fl(["report", str(pages.comparison_page.parent)]) == 2
    assert "holds a comparison" in capsys.readouterr().err


def test_an_evaluation_that_missed_a_site_is_a_problem_on_the_page(pages: Pages, tmp_path: Path) -> None:
    file = pages.run.folder.evaluation_file(1, "val")
    before = json.loads(file.read_text())
    others = {site: scores for site, scores in before["sites"].items() if site != "G"}
    try:
        write_json(file, {**before, "sites": others, "missing": {"G": "it did not answer"}})
        from amos_fl.runs.record import read_run

        page = page_of(read_run(pages.run.folder.path), tmp_path)
        assert "val scores of round 1: site G is missing: it did not answer" in page
    finally:
        write_json(file, before)


def test_a_damaged_picture_is_left_out(pages: Pages, tmp_path: Path) -> None:
    file = pages.run.folder.site("D") / "pictures" / "d_test_8.npz"
    content = file.read_bytes()
    try:
        file.write_bytes(content[: len(content) // 2])
        page = page_of(pages.run, tmp_path)
        assert len(re.findall('class="plane"', page)) == 3 * (len(pages.run.results.cases) - 1)
        assert "d_test_8" in page
    finally:
        file.write_bytes(content)


def test_a_run_folder_that_is_not_finished_has_no_report(pages: Pages, tmp_path: Path) -> None:
    for name in ("config.yaml", "versions.json", "cohort.csv"):
        (tmp_path / name).write_bytes((pages.run.folder.path / name).read_bytes())
    with pytest.raises(AmosError, match="has not finished"):
        write_run_report(tmp_path)


def test_a_run_without_any_score_still_has_a_page(pages: Pages, tmp_path: Path) -> None:
    results = replace(pages.run.results, cases=[])
    cohort = replace(pages.run.cohort, cases=pages.run.cohort.of(split="train"))
    folder = replace(pages.run.folder, path=tmp_path)
    (tmp_path / "versions.json").write_bytes((pages.run.folder.path / "versions.json").read_bytes())
    page = page_of(replace(pages.run, results=results, cohort=cohort, folder=folder), tmp_path)
    assert "No test case was scored." in page
    assert Outline(page).headings[1:] == ["What was run", "Learning curves", "Cost"]


def test_a_run_without_unseen_scanners_says_that_nothing_is_known_of_them(pages: Pages, tmp_path: Path) -> None:
    seen = [case for case in pages.run.results.cases if case.seen]
    cohort = pages.run.cohort.only(pages.run.seen_sites)
    record = replace(pages.run, cohort=cohort, results=replace(pages.run.results, cases=seen))
    assert "it is unknown how the network does on an unseen one" in page_of(record, tmp_path)


def test_two_strategies_can_be_compared_without_any_baseline(pages: Pages, tmp_path: Path) -> None:
    other = replace(pages.run, name="fedavg-002", config=pages.run.config.model_copy(update={"strategy": "fedprox"}))
    comparison = compare_runs([pages.run, other], resamples=200)
    write_comparison(comparison, tmp_path)
    page = write_comparison_report(comparison, tmp_path).read_text()
    assert "fedavg and fedprox" in Outline(page).headings[0].lower()
    assert "The gap, taken apart" in page


def test_a_comparison_of_synthetic_runs_says_so_first(pages: Pages, tmp_path: Path) -> None:
    records = [
        replace(pages.run, name=name, synthetic=True, config=config)
        for name, config in (
            ("one", pages.run.config),
            ("two", pages.run.config.model_copy(update={"local_steps": 3})),
        )
    ]
    comparison = compare_runs(records, resamples=200)
    page = write_comparison_report(comparison, tmp_path).read_text()
    assert page.index(PHANTOM_NOTE) < page.index('class="lead"')
