"""The page of faulty input says what the commands do today."""

import re
from pathlib import Path

import pytest
from bad_scans import SITUATIONS, Situation
from situations import COMMANDS, PAGE, TITLES, tried

from amos_fl.escape.markdown import text

AGAIN = {"data check", "predict", "score", "data nnunet"}
"""What is tried again; all of it takes some ten minutes."""


def exit_codes(page: str) -> dict[tuple[str, str, str], int]:
    """Of each kind of input, situation and command."""
    codes = {}
    for section in page.split("\n## ")[1:]:
        title, situation = section.partition("\n")[0], ""
        for line in section.splitlines():
            if row := re.match(r"\| (.*?) ?\| ([a-z].*?) \| (-?\d+) \| ", line):
                situation = row[1] or situation
                codes |= {(title, situation, command): int(row[3]) for command in row[2].split(", ")}
    return codes


def test_the_page_has_every_situation_and_nothing_of_the_machine_that_it_was_made_on() -> None:
    page = PAGE.read_text(encoding="utf-8")
    codes = exit_codes(page)
    for situation in SITUATIONS:
        told = {command for title, words, command in codes if (title, words) == _place(situation)}
        assert told
        assert told <= set(COMMANDS[situation.kind])
    assert set(codes.values()) == {0, 2}
    assert "Traceback" not in page
    assert not re.search(r"(?<![\w.])/(tmp|work|home|root|private|Users)\b", page)


def _place(situation: Situation) -> tuple[str, str]:
    return TITLES[situation.kind], text(situation.words)


@pytest.mark.slow
def test_commands_end_as_the_page_says_and_without_a_traceback(tmp_path: Path) -> None:
    codes = exit_codes(PAGE.read_text(encoding="utf-8"))
    number = 0
    for situation, command, outcome in tried(tmp_path, lambda _, command: command in AGAIN):
        assert not outcome.traceback, (situation.words, command, outcome)
        assert outcome.code == codes[(*_place(situation), command)], (situation.words, command, outcome)
        number += 1
    assert number > 100
