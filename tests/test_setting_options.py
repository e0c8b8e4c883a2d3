"""The options of commands come from the settings' models."""

import pytest
import typer.main

from amos_fl.cli.main import app, run
from amos_fl.cli.setting_options import DECIDED_ELSEWHERE, flag_of, leaves


def test_every_setting_is_an_option_of_simulate_of_its_own() -> None:
    command = typer.main.get_command(app).commands["simulate"]  # pyright: ignore[reportAttributeAccessIssue]
    options = [option for parameter in command.params for option in parameter.opts]
    wanted = [flag_of(key) for key, _ in leaves() if key not in DECIDED_ELSEWHERE]
    assert set(wanted) <= set(options)
    assert len(set(options)) == len(options)


def test_a_choice_that_is_none_of_the_settings_is_one_plain_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for option, choices in (("--weighting", "cases or equal or steps"), ("--optimizer-state", "reset or keep")):
        assert run(["simulate", option, "x"]) == 2
        assert capsys.readouterr().err == f"amos-fl: {option} is 'x': choose {choices}\n"
