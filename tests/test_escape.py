"""Text that comes from elsewhere stays text where it lands: in tables, pages, summaries and terminals."""

import ast
import csv
import html
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amos_fl.cohort.table import Case, Cohort, read_cohort, read_organs, write_cohort
from amos_fl.comparison.latex import escape as latex
from amos_fl.escape.csv_cells import DictWriter, Writer, cell, rows_as_written, text_of
from amos_fl.escape.markdown import table, text
from amos_fl.escape.terminal import one_line, visible, without_colours
from amos_fl.metrics.rows import write_scores
from amos_fl.metrics.scores import OrganScore
from amos_fl.metrics.table import CaseScores, organs_of_scores, read_scores

ROOT = Path(__file__).resolve().parents[1]
FORMULAS = ["=1+2", '=HYPERLINK("http://x.example")', "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1", "'=1"]
NUMBERS = ["-0.5", "+3", "1e-05", "-1.25e+10", "-", "nan", "12", "-inf"]


def written(values: list[object]) -> list[str]:
    file = io.StringIO()
    Writer(file).writerow(values)
    return next(csv.reader(io.StringIO(file.getvalue(), newline="")))


def test_no_cell_of_a_table_is_a_formula_and_numbers_stay_numbers() -> None:
    for found in written(list(FORMULAS)):
        assert found.startswith("'")
    assert written(list(NUMBERS)) == NUMBERS
    assert written([-0.5, -3, None, True]) == ["-0.5", "-3", "", "True"]
    file = io.StringIO()
    writer = DictWriter(file, ["case", "=dsc"])
    writer.writeheader()
    writer.writerows([{"case": "@x", "=dsc": -0.25}])
    assert file.getvalue().splitlines() == ["case,'=dsc", "'@x,-0.25"]


@given(st.text())
def test_the_text_in_a_cell_reads_back_as_it_was(value: str) -> None:
    assert text_of(cell(value)) == value
    assert cell(value) in (value, f"'{value}")
    assert list(rows_as_written([{"a": cell(value), "b": None}])) == [{"a": value, "b": None}]


def test_every_table_is_written_by_the_writer_that_knows_formulas() -> None:
    """Whoever writes a table with the csv module itself forgets them."""
    direct = []
    for path in sorted([*ROOT.glob("amos_fl/**/*.py"), *ROOT.glob("server/**/*.py"), *ROOT.glob("clients/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ("writer", "DictWriter", "to_csv"):
                direct.append(path.relative_to(ROOT).as_posix())
    assert set(direct) == {"amos_fl/escape/csv_cells.py"}


def test_a_cohort_and_scores_with_such_names_are_read_as_they_were_written(tmp_path: Path) -> None:
    organs = {1: "=1+1", 2: "-spleen"}
    file = tmp_path / "-x"
    case = Case("-a", "A", "CT", "train", tmp_path / "=x.nii.gz", file, (1, 2))
    cohort = Cohort((case, replace(case, case="b")), organs)
    write_cohort(cohort, tmp_path / "cohort.csv")
    assert read_organs(tmp_path / "organs.csv") == organs
    found = read_cohort(tmp_path / "cohort.csv")
    assert [(c.case, c.image.name, c.label and c.label.name) for c in found.cases] == [
        ("-a", "=x.nii.gz", "-x"),
        ("b", "=x.nii.gz", "-x"),
    ]
    scores = CaseScores("-a", "A", "CT", True, "test", {1: OrganScore(0.5, 0.25, "scored", 1.0, 0.5)})
    write_scores(tmp_path / "scores.csv", [scores], organs)
    assert "'=1+1" in (tmp_path / "scores.csv").read_text()
    assert read_scores(tmp_path / "scores.csv") == [scores]
    assert organs_of_scores(tmp_path / "scores.csv") == {1: "=1+1"}
    assert ",-0.5\n" in (tmp_path / "scores.csv").read_text().replace("\r\n", "\n")


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a | b | c",
    "[click](http://x.example)",
    "![x](http://x.example/pixel.png)",
    "see https://x.example and www.x.example",
    "**bold** _x_ `code` ~~gone~~",
    "line\n# heading\n\n- list",
    "&lt;script&gt;",
    "a\\<b>",
    "# heading",
    "1. list",
    "> quote",
    "\x1b[31mred",
]


def rendered(markdown: str) -> str:
    """What a CommonMark renderer with tables, links from bare addresses and raw HTML makes of it."""
    commonmark = pytest.importorskip("markdown_it", reason="markdown-it-py comes with rich")
    return commonmark.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)


@pytest.mark.parametrize("value", HOSTILE)
def test_markdown_shows_the_text_and_nothing_that_was_made_of_it(value: str) -> None:
    shown = " ".join(visible(value).split())
    page = rendered(f"- {text(value)}\n")
    assert re.findall(r"<(/?\w+)", page) == ["ul", "li", "/li", "/ul"], page
    assert html.unescape(re.sub(r"</?(ul|li)>|\n", "", page)) == shown
    assert "://" not in text(value)
    cells = rendered(table(["site", "DSC"], [[value, "0.5"], ["B", "-"]]) + "\n")
    assert cells.count("<td") == 4
    assert set(re.findall(r"<(\w+)", cells)) == {"table", "thead", "tbody", "tr", "th", "td"}


@given(st.text())
def test_no_text_makes_an_element_in_markdown(value: str) -> None:
    page = rendered(f"- a {text(value)}\n")
    assert set(re.findall(r"<(\w+)", page)) <= {"ul", "li"}


@given(st.text())
def test_nothing_reaches_a_terminal_but_letters(value: str) -> None:
    assert all(c.isprintable() or c in "\n\t" or c.isspace() for c in visible(value))
    assert "\x1b" not in visible(value)
    assert "\n" not in one_line(value)
    assert len(one_line(value, most=20)) <= 20


def test_a_console_prints_markup_and_control_characters_as_text() -> None:
    from rich.table import Table

    from amos_fl.escape.console import Console

    shown = Table("[red]head[/red]", title="[bold]x")
    shown.add_row("[link=http://x.example]a[/link] :smile:\x1b[2J")
    out = io.StringIO()
    console = Console(file=out, width=100)
    console.print(shown)
    console.print("[bold]B\x07[/bold]")
    said = out.getvalue()
    assert "\x1b" not in said
    assert "\x07" not in said
    for whole in (
        "[red]head[/red]",
        "[bold]x",
        "[link=http://x.example]a[/link] :smile:\\x1b[2J",
        "[bold]B\\x07[/bold]",
    ):
        assert whole in said


def test_every_command_prints_on_that_console() -> None:
    direct = [
        path.name
        for path in ROOT.glob("amos_fl/cli/*.py")
        if re.search(r"^(?!if TYPE_CHECKING).*\brich\.console\.Console\(", path.read_text(), re.MULTILINE)
        or (
            re.search(r"\bConsole\(", path.read_text().replace("class Console(", ""))
            and not re.search(r"^from amos_fl\.escape\.console import .*\bConsole\b", path.read_text(), re.MULTILINE)
        )
    ]
    assert direct == []


def test_colours_of_another_programs_log_are_taken_out() -> None:
    assert without_colours("\x1b[92mINFO\x1b[0m: x\x1b[2J\n") == "INFO: x\\x1b[2J\n"


def test_latex_gets_no_control_character_and_no_command() -> None:
    assert latex("\\input{/etc/passwd}\x1b") == r"\textbackslash{}input\{/etc/passwd\}\textbackslash{}x1b"
