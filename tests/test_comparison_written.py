"""What a comparison writes: CSV files that read back, LaTeX that compiles, and what is synthetic says so."""

import csv
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_runs import SITES, compared, constant, everything, made_cohort, made_run, noisy

from amos_fl.comparison.comparison import Comparison
from amos_fl.comparison.latex import latex_document, latex_table
from amos_fl.comparison.overview import overview_page
from amos_fl.comparison.paper import paper_page
from amos_fl.comparison.tables import TextTable, all_tables, markdown_page, rich_table
from amos_fl.comparison.write import write_comparison
from amos_fl.errors import AmosError
from amos_fl.report.comparison_page import comparison_context
from amos_fl.report.page import render, write_comparison_report
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.summary import PHANTOM_NOTE


@pytest.fixture(scope="module")
def whole() -> Comparison:
    """Federated, pooled, three local and three leave-one-out runs."""
    return compared(everything())


def test_every_number_is_in_a_csv_file_and_reads_back_as_it_was(tmp_path: Path, whole: Comparison) -> None:
    write_comparison(whole, tmp_path / "out")
    with (tmp_path / "out" / "scores.csv").open() as file:
        rows = {(r["arm"], r["scope"], r["metric"], r["organ"]): r for r in csv.DictReader(file)}
    assert len(rows) == len(whole.cells)
    for cell in whole.cells:
        row = rows[cell.arm, cell.scope, cell.metric, cell.organ]
        assert float(row["value"]) == cell.estimate.value
        assert row["low"] == ("" if math.isnan(cell.estimate.low) else repr(cell.estimate.low))
    for name, parts in (("differences", whole.differences), ("gaps", whole.gaps), ("cases", whole.case_rows)):
        with (tmp_path / "out" / f"{name}.csv").open() as file:
            assert len(list(csv.DictReader(file))) == len(parts)


def test_a_comparison_replaces_a_comparison_and_nothing_else(tmp_path: Path, whole: Comparison) -> None:
    write_comparison(whole, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    write_comparison(whole, tmp_path / "out")
    assert {path: path.read_bytes() for path in before} == before
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    with pytest.raises(AmosError, match="something other than a comparison"):
        write_comparison(whole, tmp_path / "thesis")


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Names that mean something to LaTeX, and synthetic scans; the runs' folders hold as much as a report reads."""
    organs = {1: "liver_50% & {co}", 2: "spleen~#1", 3: "$x^2$ \\end, é λ ≥ Δ"}
    cohort = made_cohort({**SITES, "B_x": ("CT", True, 6)}, organs)
    about = {"run_id": "0" * 16, "cohort_sha256": "0" * 64, "synthetic": True, "versions": {}}
    runs = []
    for arm in ("federated", "centralized"):
        folder = tmp_path_factory.mktemp(arm)
        (folder / "versions.json").write_text(json.dumps(about))
        record = made_run(f"run_{arm}", noisy(0.8, name=arm), cohort=cohort, arm=arm, synthetic=True)
        runs.append(replace(record, folder=RunFolder(folder)))
    return compared(runs)


def test_latex_tables_are_whole_and_escaped(awkward: Comparison) -> None:
    for table in all_tables(awkward):
        text = latex_table(table, synthetic=True)
        assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\end{tabular}") >= 1
        assert PHANTOM_NOTE in text
        lines = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len(lines) == len(table.rows) + text.count(r"\toprule")
        assert all(line.replace(r"\&", "").count("&") == len(table.columns) - 1 for line in lines)
        bare = text.replace(r"\{", "").replace(r"\}", "")
        assert bare.count("{") == bare.count("}")


def test_a_table_longer_than_a_page_goes_on_in_another() -> None:
    long = TextTable("long", "Long", ("a", "b"), tuple((f"row {i}", "0.5") for i in range(80)), sections=(36, 40))
    text = latex_table(long, synthetic=False)
    assert text.count(r"\begin{table}") == 3
    assert text.count("(continued)") == 2
    assert text.count("row ") == 80
    assert text.count(r"\midrule") == 4
    labels = [line for line in text.splitlines() if line.startswith(r"\label")]
    assert len(set(labels)) == 3


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex on this machine")
def test_latex_compiles_with_its_figures(tmp_path: Path, awkward: Comparison) -> None:
    write_comparison(awkward, tmp_path)
    write_comparison_report(awkward, tmp_path)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "comparison.tex"]
    done = subprocess.run(command, cwd=tmp_path / "latex", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "too large" not in done.stdout
    assert "<../figures/arm-groups.pdf>" in done.stdout.replace("\n", "")
    assert "undefined" not in done.stdout


def test_a_page_begins_with_eight_findings_and_folds_the_others(tmp_path: Path, awkward: Comparison) -> None:
    many = replace(awkward, findings=tuple(f"Finding {i}." for i in range(1, 21)))
    page = write_comparison_report(many, tmp_path).read_text()
    summary = page.index("All else that was found (12)")
    assert page.index("Finding 8.") < summary < page.index("Finding 9.") < page.index("Finding 20.")
    assert page.index("Finding 20.") < page.index("What is compared")
    assert "All else" not in render("comparison.html", comparison_context(replace(many, findings=many.findings[:8])))
    assert all(f"- {finding}" in markdown_page(many).splitlines() for finding in many.findings)


def latex_is_sound(text: str) -> bool:
    """Whether braces and environments are closed in their order, and every row of a tabular has its columns."""
    bare = re.sub(r"(?<!\\)%.*", "", text.replace(r"\\", "")).replace(r"\{", "").replace(r"\}", "")
    depth = 0
    for letter in bare:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth < 0:
            return False
    opened: list[str] = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if what == "begin":
            opened.append(name)
        elif not opened or opened.pop() != name:
            return False
    for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        for row in re.findall(r"^(.*) \\\\$", body, re.MULTILINE):
            spanned = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", row))
            if row.replace(r"\&", "").count("&") + spanned != len(columns) - 1:
                return False
    return depth == 0 and not opened


def test_a_paper_has_one_table_with_mean_sd_best_and_test_of_three_seeds() -> None:
    arms: list[tuple[str, float, dict[str, Any]]] = [
        ("fedavg", 0.6, {}),
        ("median", 0.5, {"strategy": "median"}),
        ("pooled", 0.7, {"arm": "centralized"}),
    ]
    cohort = made_cohort({"A": ("CT", True, 12), "D": ("CT", False, 3)})
    runs = [
        made_run(f"{arm}-{seed}", constant(score + seed / 100), cohort=cohort, seed=seed, synthetic=True, **settings)
        for arm, score, settings in arms
        for seed in range(3)
    ]
    text = paper_page(compared(runs))
    assert latex_is_sound(text)
    assert text.count(r"\begin{table}") == 1
    rows = {
        line.split(" & ")[0]: line.removesuffix(r" \\").split(" & ")[1:] for line in text.splitlines() if "&" in line
    }
    assert rows[""] == ["seen CT (12)", "unseen CT (3)"] * 2
    # The means of the seeds are 0.70, 0.71 and 0.72: their mean is 0.71 and their standard deviation 0.01. The p of
    # twelve equal differences is 2 in 4096, and twice that after Holm's correction; three cases are too few for a test.
    assert rows["pooled"][:2] == [r"$\mathbf{0.710} \pm 0.010^{***}$", r"$\mathbf{0.710} \pm 0.010$"]
    assert rows["fedavg"][:2] == [r"$0.610 \pm 0.010$", r"$0.610 \pm 0.010$"]
    assert rows["median"][0] == r"$0.510 \pm 0.010^{***}$"
    assert rows["median"][2] == r"$0.459 \pm 0.009^{***}$"
    caption = text[text.index(r"\caption") : text.index(r"\label")]
    for words in ("3 seeds", "paired permutation test", "Holm", "Difference from fedavg", PHANTOM_NOTE):
        assert words in caption
    assert "Not tested: DSC on unseen CT and NSD on unseen CT" in caption


def test_a_papers_latex_is_sound_whatever_the_names(awkward: Comparison) -> None:
    assert latex_is_sound(paper_page(awkward))
    assert not latex_is_sound(paper_page(awkward).replace(r"\end{tabular}", "", 1))
    assert not latex_is_sound(paper_page(awkward).replace(" & ", " ", 1))


def test_what_is_synthetic_says_so_wherever_its_scores_are(awkward: Comparison) -> None:
    assert PHANTOM_NOTE in markdown_page(awkward)
    assert PHANTOM_NOTE in latex_document(awkward, all_tables(awkward))


def test_tables_have_a_row_for_every_arm_and_fit_a_terminal(whole: Comparison) -> None:
    from rich.console import Console

    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in all_tables(whole):
        assert all(len(row) == len(table.columns) for row in table.rows)
        console.print(rich_table(table))
    printed = console.export_text()
    for arm in whole.arms:
        assert arm.name.split(",")[0] in printed
    assert "…" not in printed


def test_the_overview_has_one_row_for_each_arm_with_interval_spread_test_worst_site_and_costs() -> None:
    arms: list[tuple[str, float, dict[str, Any]]] = [
        ("fedavg", 0.6, {}),
        ("median", 0.5, {"strategy": "median"}),
        ("pooled", 0.7, {"arm": "centralized"}),
    ]
    runs = [
        made_run(f"{arm}-{seed}", constant(score + seed / 100), seed=seed, synthetic=True, **settings)
        for arm, score, settings in arms
        for seed in range(3)
    ]
    comparison = compared(runs)
    page = overview_page(comparison)
    assert page.startswith(f"> {PHANTOM_NOTE}")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    dsc, nsd, minus, cost = ([row for row in rows if row[0].rstrip("*") == "median"][i] for i in range(4))
    head = next(row for row in rows if row[0] == "arm")
    assert head[1:] == [
        "seen CT (14)",
        "seen MR (6)",
        "unseen CT (7)",
        "unseen MR (6)",
        "worst seen site",
        "worst unseen site",
    ]
    # The means of the seeds are 0.50, 0.51 and 0.52: their mean is 0.51 and their standard deviation 0.01.
    assert dsc[:2] == ["median*", "0.510 [0.510, 0.510] ± 0.010"]
    assert nsd[1].startswith("0.459 [")
    assert dsc[5:] == ["B 0.510", "D 0.510"]
    assert minus[1].startswith("-0.100 [-0.100, -0.100], p ")
    assert minus[1].endswith("worse")
    assert cost[1:] == ["0, 1, 2", "1", "30", "60", "0.0 / 0.0", "1"]
    # Two arms in four groups are eight tests, and the least p of seven cases is 1/64.
    assert "any arm differs: seen MR (6 cases), unseen CT (7 cases), unseen MR (6 cases)." in page
    assert any("Too few cases to show that any arm differs" in note for note in comparison.notes)


@pytest.mark.parametrize(("cases", "intervals"), [(2, False), (7, True)])
def test_the_overview_speaks_of_intervals_and_tests_only_where_it_has_them(cases: int, intervals: bool) -> None:
    cohort = made_cohort({"A": ("MR", True, cases), "F": ("MR", False, cases)})
    runs = [
        made_run(f"{arm}-{seed}", constant(score + seed / 100), cohort=cohort, seed=seed, strategy=arm)
        for arm, score in (("fedavg", 0.6), ("median", 0.5))
        for seed in range(3)
    ]
    page = overview_page(compared(runs))
    assert ("[0.510, 0.510]" in page, "95 % interval" in page, "permutation test" in page) == (intervals,) * 3
    assert ("without intervals or tests" in page) != intervals
