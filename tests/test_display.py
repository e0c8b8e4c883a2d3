"""What a run says while it goes on: how long the rest of a site's cases and of a group takes."""

import io
import json
from pathlib import Path

import pytest
from federations import TINY
from rich.console import Console

from amos_fl.cli.display import Display
from amos_fl.cli.main import run
from amos_fl.runs.events import RoundFinished, SiteWork
from amos_fl.runs.layers import merge


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the display sees; to be set."""
    now = [0.0]
    monkeypatch.setattr("amos_fl.cli.display.time.monotonic", lambda: now[0])
    return now


def test_the_time_for_the_rest_of_a_sites_cases_is_said_at_the_pace_of_those_done(clock: list[float]) -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=200)) as display:
        for seconds, done in ((0.0, 1), (20.0, 3), (40.0, 7), (60.0, 10)):
            clock[0] = seconds
            display(SiteWork("A", "prepare", 0, done, 10))
        clock[0] = 80.0
        display(SiteWork("B", "evaluate", 2, 4, 9))  # its first: there is no pace yet
        clock[0] = 100.0
        display(SiteWork("B", "evaluate", 2, 5, 9))
        display(RoundFinished(2, 4, 0.5, 30.0, ("A", "B")))
    assert out.getvalue().splitlines() == [
        "preparing A: 3/10 about 1:10 left",
        "preparing A: 7/10 about 0:20 left",
        "round 2, scoring B: 4/9",
        "round 2, scoring B: 5/9 about 1:20 left",
        "round 2/4: loss 0.500 from A B in 30.0 s, about 1:00 left to train",
    ]


def test_a_group_says_how_long_its_other_runs_take(
    tmp_path: Path, tiny_root: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "sweep.yaml"
    settings = merge(TINY, {"cohort": str(tiny_root), "rounds": 1, "local_steps": 1})
    sweep.write_text(json.dumps({"settings": settings, "grid": {"seed": [0, 1, 2]}}))
    assert run(["sweep", str(sweep), "--out", str(tmp_path / "out"), "--store", str(store)]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("sweep: about ")]
    assert [line.split(" left for ")[1] for line in said] == ["2 runs", "1 run"]
