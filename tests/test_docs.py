"""The documentation: pages that lead to one another, links that go somewhere, and nothing public left unsaid."""

import logging
import re
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import pytest
import typer
import typer.main
from pydantic import BaseModel, Field
from typer.testing import CliRunner

import amos_fl
from amos_fl.cli.main import app
from amos_fl.runs.config import RunConfig
from amos_fl_clients.federation.settings import SiteSettings

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
ELSEWHERE = ["README.md", "CONTRIBUTING.md", "benchmarks/README.md", "clients/README.md", "server/README.md"]
PAGES = sorted([*DOCS.glob("*.md"), *(ROOT / name for name in ELSEWHERE)])


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    pytest.importorskip("sphinx", reason="Sphinx comes with the extra docs")
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    import amos_fl_docs
    import cli_page
    import settings_page

    yield SimpleNamespace(checks=amos_fl_docs, cli=cli_page, settings=settings_page)
    for name in ("amos_fl_docs", "cli_page", "settings_page"):
        sys.modules.pop(name)


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub, and MyST like it, gives the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_goes_to_a_file_and_a_heading_that_are_there(page: Path):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if target.startswith(("http://", "https://")):
            continue
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            broken.append(target)
    assert not broken


def test_every_page_is_reached_from_the_first():
    blocks = re.findall(r"^```\{toctree\}\n(.*?)^```", (DOCS / "index.md").read_text(encoding="utf-8"), re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines() if line and not line.startswith(":")]
    listed = [re.sub(r".*<(.+)>", r"\1", line) for line in lines]
    assert len(listed) == len(set(listed))
    assert {*listed, "index"} == {page.stem for page in DOCS.glob("*.md")}


def test_the_readme_fits_on_a_screen_and_a_half():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 90


def test_the_floors_of_the_contributors_page_are_those_that_import_linter_enforces():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    level = {name: i for i, layer in enumerate(layers) for name in layer.split(" | ")}
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("| floor |")[2].partition("\n\n")[0]
    floors = [re.findall(r"`(\w+)`", line) for line in table.splitlines()[2:]]
    named = [name for floor in floors for name in floor]
    assert len(named) == len(set(named))
    rooms = {path.parent.name for path in (ROOT / "amos_fl").glob("*/__init__.py")}
    assert rooms <= set(named) <= level.keys()
    above = -1
    for floor in floors:
        levels = [level[name] for name in floor]
        assert above < min(levels), floor
        above = max(levels)
    rows = [level[name] for name in named if name not in floors[-1]]
    assert rows == sorted(rows)


@pytest.mark.parametrize("model", [RunConfig, SiteSettings])
def test_every_setting_is_described_in_its_model(model: type[BaseModel]):
    schema = model.model_json_schema()
    tables = [schema, *schema.get("$defs", {}).values()]
    named = {name: field for table in tables for name, field in table.get("properties", {}).items()}
    assert len(named) > 10
    assert not [name for name, field in named.items() if "$ref" not in field and not field.get("description")]


def test_the_help_of_a_command_says_what_its_arguments_are():
    shown = CliRunner().invoke(app, ["diff", "--help"], terminal_width=200).output
    assert "A run folder." in shown


def test_a_setting_without_a_description_fails_the_documentation(extension: SimpleNamespace, caplog):
    class Settings(BaseModel):
        said: int = Field(default=1, description="Said.")
        unsaid: int = 1

    with caplog.at_level(logging.WARNING):
        page = "\n".join(extension.settings.sections(Settings, "setting"))
    assert [record.getMessage() for record in caplog.records] == ["the setting unsaid has no description"]
    assert "Said." in page


def test_a_command_or_an_option_without_help_fails_the_documentation(extension: SimpleNamespace, caplog):
    made = typer.Typer(help="Made for this.")

    @made.command()
    def first(name: str, silent: int = 1, told: Annotated[int, typer.Option(help="Told.")] = 2) -> None: ...

    @made.command()
    def second() -> None:
        """Second."""

    with caplog.at_level(logging.WARNING):
        page = "\n".join(extension.cli.sections(typer.main.get_command(made), "made"))
    assert {record.getMessage() for record in caplog.records} == {
        "the command made first has no help",
        "NAME of made first has no help",
        "--silent of made first has no help",
    }
    assert "Told. Default: `2`." in page


def test_a_public_name_on_no_page_fails_the_documentation(extension: SimpleNamespace, caplog):
    documented = {f"amos_fl.{name}" for name in amos_fl.__all__ if name != "dsc"}
    env = SimpleNamespace(domains=SimpleNamespace(python_domain=SimpleNamespace(objects=documented)))
    with caplog.at_level(logging.WARNING):
        extension.checks.require_public_names(None, env)
    assert [record.getMessage() for record in caplog.records] == [
        "amos_fl.dsc is public and on no page; add it to docs/api.md"
    ]
