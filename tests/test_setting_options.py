"""Options come from the settings' models: said once, all in `--help`, and loaded when their command is called."""

import ast
import inspect
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

import click
import pytest
import typer.main
from typer.testing import CliRunner

import amos_fl.cli
from amos_fl.api.keywords import Settings
from amos_fl.cli.main import app, run
from amos_fl.cli.setting_options import DECIDED_ELSEWHERE, flag_of, leaves
from amos_fl.runs.config import RunConfig

ANOTHER_THING = {
    *("data phantom --seed", "data msd --seed", "data nnunet --seed", "data dicom --seed"),  # not of a run
    *("data masks --seed", "data bids --seed"),
    "compare --seed",
    *("annotate start --cohort", "calibrate --cohort"),  # their default is another
    *("evaluate --cohort", "predict --cohort", "score --cohort"),
    *("deploy init --cohort", "deploy init --sites", "experiments run --cohort"),
    *("score --hold-out", "data amos22 --hold-out", "data export nnunet --hold-out"),  # what is scored or written
    *("score --tolerance-mm", "evaluate --predictions"),  # one of each organ; beside the scores
    "data nnunet --fold",  # of nnU-Net's own splits
    *("data check --workers", "data phantom --workers", "data stats --workers", "plan --workers", "score --workers"),
}
"""Options that are called as a setting is and are not it."""


def commands(command: click.Command | None = None, name: str = "") -> Iterator[tuple[str, click.Command]]:
    command = command or typer.main.get_command(app)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for child in command.list_commands(context):
            yield from commands(command.resolve_command(context, [child])[1], f"{name} {child}".strip())
    yield name, command


def options(command: click.Command) -> dict[str, click.Option]:
    return {option.opts[-1]: option for option in command.params if isinstance(option, click.Option)}


COMMANDS = dict(commands())
SETTINGS = {flag_of(key): field for key, field in leaves().items() if key not in DECIDED_ELSEWHERE}


def test_every_setting_is_an_option_of_simulate_with_its_description() -> None:
    names = [name for parameter in COMMANDS["simulate"].params for name in parameter.opts]
    assert len(names) == len(set(names))
    shown = options(COMMANDS["simulate"])
    assert len(SETTINGS) > 40
    assert {flag: str(shown[flag].help).partition(". (")[0].rstrip(".") for flag in SETTINGS} == {
        flag: str(field.description).rstrip(".") for flag, field in SETTINGS.items()
    }
    page = CliRunner().invoke(app, ["simulate", "--help"], terminal_width=80, env={"COLUMNS": "80"}).output
    words = " ".join(page.replace("│", " ").split())
    for flag, option in shown.items():
        assert f"{flag} " in words or f"{flag}," in words
        assert option.hidden is False
    for panel in ("Sites", "Federation", "Network and plan", "Training", "Evaluation", "Engine and machine"):
        assert f"─ {panel} ─" in page


def test_an_option_that_is_a_setting_is_described_by_it_in_every_command() -> None:
    described = tuple(str(field.description).rstrip(".") for field in leaves().values())
    others = set()
    for name, command in COMMANDS.items():
        for flag, option in options(command).items():
            if flag in SETTINGS and not str(option.help).startswith(described):
                others.add(f"{name} {flag}")
    assert others == ANOTHER_THING


def test_no_description_of_a_setting_and_no_help_is_written_twice() -> None:
    said = Counter()
    for file in Path(inspect.getfile(amos_fl.cli)).parent.glob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "typer.Option":
                said.update(ast.unparse(word.value) for word in call.keywords if word.arg == "help")
    assert len(said) > 50
    assert not set(said) & {repr(field.description) for field in leaves().values()}
    assert {text for text, times in said.items() if times > 1} == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_no_name_of_an_option_is_cut_in_80_columns(name: str) -> None:
    page = CliRunner().invoke(app, [*name.split(), "--help"], terminal_width=80, env={"COLUMNS": "80"})
    assert page.exit_code == 0
    assert "…" not in page.output
    assert "Usage: amos-fl" in page.output


def test_a_value_that_is_none_of_the_settings_is_one_plain_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for option, value, wanted in (
        ("--selection", "'x'", "choose best or last"),
        ("--optimizer-state", "'x'", "choose reset or keep"),
        ("--engine", "'deployment'", "choose inline or ray"),
        ("--momentum", "1", "must be a number, at least 0 and below 1"),
        ("--cpus-per-site", "0.5", "must be a whole number, at least 1"),
    ):
        assert run(["simulate", option, value.strip("'")]) == 2
        assert capsys.readouterr().err == f"amos-fl: {option} is {value}: {wanted}\n"


def test_the_words_of_a_keyword_are_those_of_its_setting() -> None:
    for name, field in RunConfig.model_fields.items():
        if name != "arm" and get_origin(field.annotation) is not None and "Literal" in str(field.annotation):
            assert get_args(Settings.__annotations__[name]) == get_args(field.annotation), name


def test_help_of_any_command_loads_no_library_for_learning() -> None:
    code = (
        "import sys, click, typer.main\nfrom amos_fl.cli.main import app\n"
        "def load(command):\n"
        "    context = click.Context(command)\n"
        "    for name in getattr(command, 'commands', ()):\n"
        "        load(command.resolve_command(context, [name])[1])\n"
        "group = typer.main.get_command(app)\n"
        "print([m for m in ('numpy', 'pydantic', 'yaml') if m in sys.modules])\n"
        "load(group)\n"
        "print([m for m in ('torch', 'monai', 'flwr', 'ray', 'matplotlib', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[]"]
