"""A run as it goes on, read from its files: on the terminal, as a page in a real browser, and at a hospital."""

import http.client
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from browsing import WITHOUT_CUE
from federations import federate, killed_after, resume
from playwright.sync_api import Browser
from typer.testing import CliRunner

from amos_fl.cli.main import run as command
from amos_fl.cohort.table import Cohort
from amos_fl.live.run_view import watched
from amos_fl.live.serve import page_server
from amos_fl.live.view import Chart, View
from amos_fl.locks import at_work
from amos_fl.runs.events import (
    Continued,
    Event,
    RoundFinished,
    Said,
    SiteWork,
    TrackerFailed,
    Warned,
    event_of,
    in_words,
    line_of,
)
from amos_fl.runs.folder import open_run
from amos_fl.runs.selection import macro_dsc
from amos_fl_clients.federation.audit import audit_line
from amos_fl_clients.federation.policy import pause
from amos_fl_clients.federation.settings import SiteSettings, write_settings
from amos_fl_clients.operation.command import app as site_command
from amos_fl_clients.operation.site_view import WatchedSite


def cells(view: View, table: int = 0) -> dict[str, tuple[str, ...]]:
    return {row[0]: row[1:] for row in view.tables[table].rows}


def test_a_run_is_seen_while_it_goes_on_when_it_was_stopped_and_when_it_has_finished(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    path = tmp_path / "run"
    seen: list[View] = []
    cohort = tiny_cohort.only(("A", "D"))

    def written() -> dict[Path, int]:  # but for what a tracker's own thread writes at any time
        theirs = {"tracking.json", "tensorboard"}
        files = (file for file in path.rglob("*") if file.is_file() and not theirs.intersection(file.parts))
        return {file: file.stat().st_mtime_ns for file in files}

    def look(event: Event) -> None:
        if (isinstance(event, SiteWork) and event.activity == "train" and event.done == 1) or (
            isinstance(event, RoundFinished) and event.round == 2
        ):
            before = written()
            seen.append(watched(path).look())
            assert written() == before
            if isinstance(event, RoundFinished):
                raise ConnectionError

    settings = {"rounds": 3, "evaluation": {"every": 1}, "sites": ("A", "D")}
    with pytest.raises(ConnectionError):
        federate(path, cohort, store, look, **settings)
    assert [view.state for view in seen] == [f"running, {n} of 3 rounds done" for n in (0, 1, 2)]
    assert next((bar.label, bar.done, bar.total) for bar in seen[0].bars) == ("rounds", 0, 3)
    assert "about" in seen[2].bars[0].text
    stopped = watched(path).look()
    assert stopped.state == f"stopped, 2 of 3 rounds done; continue with: amos-fl simulate --resume {path}"
    assert not stopped.over
    folder = resume(path, store)
    view = watched(path).look()
    assert (view.state, view.over) == ("finished", True)
    assert view.alarms == ()
    ledger = folder.ledger()
    assert cells(view)["A"][0] == "3"
    assert cells(view)["A"][2] == f"{ledger[-1]['sites']['A']['loss']:.3f}"
    losses, means, by_site = view.charts
    assert losses.lines == {"A": [(e["round"], e["sites"]["A"]["loss"]) for e in ledger]}
    evaluation = folder.read_evaluation(2, "val")
    assert evaluation is not None
    assert dict(means.lines["unseen"])[2] == macro_dsc(evaluation, seen=False)
    assert sorted(by_site.lines) == ["A", "D"]
    assert any("round 3/3: loss" in line for line in view.lines)


def test_who_was_missing_and_how_long_it_takes_is_seen(tmp_path: Path, finished_run: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(finished_run, path)
    (path / "summary.md").unlink()
    first, second = (path / "ledger.jsonl").read_text().splitlines()
    (path / "ledger.jsonl").write_text(first + "\n" + second[:40])  # being written
    view = watched(path).look()
    assert view.state.startswith("stopped, 1 of 2 rounds done")
    entry = json.loads(first)
    entry["missing"] = {"B": "its process died"}
    (path / "ledger.jsonl").write_text(json.dumps(entry) + "\n")
    now = datetime.now(UTC).timestamp()
    lines = [line_of(RoundFinished(n, 9, 0.5, 1.0, ("A",)), now - 120 * (2 - n)) for n in (1, 2)]
    (path / "events.jsonl").write_text("\n".join(lines) + "\n")
    config = open_run(path).config()
    open_run(path).write_config(config.model_copy(update={"rounds": 9}))
    view = watched(path).look()
    assert view.alarms == ("round 1: site B was missing: its process died",)
    assert cells(view)["B"][-1] == "1"
    assert view.bars[0].text == "about 16:00 left"  # 120 s a round, 8 rounds
    assert event_of(lines[0]) is not None


def test_a_pause_is_no_round_and_what_went_wrong_is_an_alarm_by_the_kind_of_event(
    tmp_path: Path, finished_run: Path
) -> None:
    path = tmp_path / "run"
    shutil.copytree(finished_run, path, ignore=shutil.ignore_patterns("summary.md", "sites"))
    now = datetime.now(UTC).timestamp()
    failed = TrackerFailed("mlflow", "no such server", "amos-fl track run")
    events = {
        now - 36_000: RoundFinished(1, 9, 0.5, 1.0, ("A",)),
        now - 60: Continued(1, 9),
        now - 50: Warned("no case annotates box"),
        now - 40: failed,
        now - 30: Said("tracker, warning and continuing after round 1 are only words here"),
        now - 1: RoundFinished(2, 9, 0.5, 1.0, ("A",)),
    }
    (path / "events.jsonl").write_text("".join(line_of(event, when) + "\n" for when, event in events.items()))
    config = open_run(path).config()
    open_run(path).write_config(config.model_copy(update={"rounds": 9}))
    view = watched(path).look()
    assert view.alarms == ("warning: no case annotates box", in_words(failed))
    assert "h" not in view.bars[0].text.split()  # the ten hours of the pause are no round's
    assert [line.split("  ", 1)[1] for line in view.lines][1] == "continuing after round 1 of 9"


def test_a_deployed_run_is_watched_where_its_files_are_fetched(tmp_path: Path, finished_run: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(finished_run, path, ignore=shutil.ignore_patterns("summary.md", "sites"))
    (path / "deployment.json").write_text("{}")
    assert watched(path).look().state.startswith("deployed, 2 of 2 rounds done; the last round ended")
    (path / "outcome.json").write_text(json.dumps({"exit_code": 3, "error": "too few sites"}))
    view = watched(path).look()
    assert (view.state, view.over) == ("failed, 2 of 2 rounds done: too few sites", True)


def test_the_command_shows_a_run_and_a_group(
    tmp_path: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["watch", str(finished_run)]) == 0
    said = capsys.readouterr().out
    assert "run run: finished" in said
    assert "Sites, as of their last round" in said
    group = tmp_path / "sweep-001"
    shutil.copytree(finished_run, group / "one")
    shutil.copytree(finished_run, group / "two")
    (group / "two/summary.md").unlink()
    (group / "group.yaml").write_text("kind: sweep\nruns: [one, two]\n")
    assert command(["watch", str(group)]) == 0
    said = capsys.readouterr().out
    assert "sweep sweep-001: 1 of 2 runs finished" in said
    assert "run two: stopped, 2 of 2 rounds done" in said
    assert command(["watch", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert command(["watch", str(group), "--port", "80"]) == 2
    assert "--port needs --page" in capsys.readouterr().err


def long_path(folder: Path) -> Path:
    path = folder / "a-folder-whose-name-is-as-long-as-a-group-of-experiments" / "with-another-one-below-it-as-long"
    path.mkdir(parents=True)
    return path


def test_a_path_stays_in_one_piece_where_there_is_no_terminal(
    tmp_path: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = long_path(tmp_path) / "run"
    shutil.copytree(finished_run, path, ignore=shutil.ignore_patterns("summary.md", "sites"))
    assert command(["watch", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"continue with: amos-fl simulate --resume {path}\n" in said
    assert "│ A " in said  # a table is one still


def test_a_hospital_watches_on_the_programs_own_console(tmp_path: Path) -> None:
    folder = long_path(tmp_path)
    settings = site(folder)
    write_settings(settings, folder / "settings.yaml")
    refused = {"run": 42, "asked": "[red]", "answer": "refused", "why": "\x1b[2J"}
    (settings.state / "audit.log").write_text(audit_line(datetime(2026, 3, 1, tzinfo=UTC), refused) + "\n")
    work = {"site": "north", "activity": "[red]", "round": 3, "done": 4, "total": 50, "loss": None}
    (settings.state / "progress.json").write_text(json.dumps(work))
    done = CliRunner().invoke(site_command, ["watch", str(folder)])
    assert done.exit_code == 0
    assert f"\n{settings.state / 'audit.log'}\n" in done.stdout
    assert "[red] was refused" in done.stdout
    assert "round 3, [red]" in done.stdout
    assert "\x1b" not in done.stdout


def test_no_work_is_shown_of_a_run_that_nobody_works_on(tmp_path: Path, finished_run: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(finished_run, path, ignore=shutil.ignore_patterns("summary.md"))
    work = {"site": "G", "activity": "evaluate", "round": 2, "done": 5, "total": 11, "loss": None, "time": time.time()}
    (path / "sites/work.json").write_text(json.dumps({"G": work}))
    with at_work(path):
        assert [bar.label for bar in watched(path).look().bars] == ["rounds", "G, scoring"]
    view = watched(path).look()
    assert view.state.startswith("stopped")
    assert [bar.label for bar in view.bars] == ["rounds"]


def site(tmp_path: Path) -> SiteSettings:
    tmp_path.joinpath("state").mkdir()
    return SiteSettings(site="north", cohort=tmp_path / "c.csv", store=tmp_path / "store", state=tmp_path / "state")


def test_a_hospital_sees_its_own_part(tmp_path: Path) -> None:
    settings = site(tmp_path)
    watching = WatchedSite(settings)
    assert watching.look().state == "takes part; nothing was asked of it yet"
    when, lines = datetime(2026, 3, 1, 9, tzinfo=UTC), list[str]()
    for number in (1, 2):
        asked = {"run": 42, "asked": "train", "round": number, "steps": 50, "answer": "sent", "bytes": 1_500_000}
        lines.append(audit_line(when + timedelta(hours=number), {**asked, "seconds": f"{10 * number}.00"}))
    refused = {
        "run": 42,
        "name": "ct",
        "asked": "evaluate",
        "split": "test",
        "answer": "refused",
        "why": 'it is "paused"',
    }
    lines.append(audit_line(when + timedelta(hours=3), {**refused, "seconds": "0.01"}))
    (settings.state / "audit.log").write_text("\n".join(lines) + "\n")
    (settings.state / "progress.json").write_text(
        json.dumps({"site": "north", "activity": "train", "round": 3, "done": 4, "total": 50, "loss": 0.25})
    )
    pause(settings.state)
    view = watching.look()
    assert view.state == "PAUSED; last asked 2026-03-01T12:00:00Z for evaluate"
    assert cells(view) == {"ct (42)": ("2", "2", "0", "1", "3.0", "2026-03-01T12:00:00Z")}
    assert view.alarms == ('2026-03-01T12:00:00Z: evaluate was refused: it is "paused"',)
    assert view.charts[0].lines == {"training": [(1.0, 10.0), (2.0, 20.0)]}
    assert [(bar.label, bar.done, bar.total, bar.text) for bar in view.bars] == [
        ("round 3, train", 4, 50, "loss 0.250")
    ]
    assert watching.look() == view  # nothing is counted twice


@contextmanager
def served(path: Path) -> Iterator[str]:
    with served_view(watched(path).look) as place:
        yield place


@contextmanager
def served_view(look: Callable[[], View]) -> Iterator[str]:
    with page_server(look, every_s=0.2) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def asked(place: str, path: str, host: str | None = None) -> tuple[int, str, dict[str, str]]:
    """The status, the text and the headers of an answer."""
    connection = http.client.HTTPConnection(place.removeprefix("http://"))
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    found = answer.status, answer.read().decode(), dict(answer.getheaders())
    connection.close()
    return found


def test_the_page_answers_this_machine_alone(finished_run: Path) -> None:
    with served(finished_run) as place:
        status, text, headers = asked(place, "/view.json")
        assert (status, json.loads(text)["state"]) == (200, "finished")
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert asked(place, "/view.json", "evil.example:80")[0] == 403
        assert asked(place, "/../config.yaml")[0] == 404
        assert asked(place, "/", "localhost")[1].startswith("<!doctype html>")


def test_a_wide_table_on_a_phone_says_that_it_scrolls_and_stays_where_it_was_scrolled_to(
    browser: Browser, tmp_path: Path, finished_run: Path
) -> None:
    path = tmp_path / "run"
    shutil.copytree(finished_run, path, ignore=shutil.ignore_patterns("summary.md"))  # it may go on, so the page asks
    with served(path) as place:
        page = browser.new_context(viewport={"width": 390, "height": 800}).new_page()
        page.goto(place)
        wide = page.get_by_role("region", name="Sites, as of their last round")
        wide.wait_for()
        page.wait_for_function(f"() => ({WITHOUT_CUE})().length === 0")
        assert page.locator(".cue").is_visible()
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        wide.evaluate("e => e.scrollLeft = 1000")
        scrolled = wide.evaluate("e => e.scrollLeft")
        assert scrolled > 0
        name = wide.locator("tbody td").first.bounding_box()
        assert name is not None
        assert 0 <= name["x"] < 60
        with (path / "ledger.jsonl").open("a") as ledger:  # a round more
            last = json.loads((path / "ledger.jsonl").read_text().splitlines()[-1])
            ledger.write(json.dumps({**last, "round": 3}) + "\n")
        page.locator("tbody tr", has_text="A").locator("td", has_text="3").first.wait_for()
        assert wide.evaluate("e => e.scrollLeft") == scrolled
        page.set_viewport_size({"width": 1400, "height": 900})
        page.locator(".cue").wait_for(state="hidden")
        page.context.close()


def test_one_scored_round_stands_on_an_axis_from_the_beginning_of_the_run(browser: Browser) -> None:
    view = View("run one", "running", charts=(Chart("DSC by site", {"A": [(20.0, 0.5)]}),))
    with served_view(lambda: view) as place:
        page = browser.new_context().new_page()
        page.goto(place)
        page.locator("figure svg[role=img]").wait_for()
        said = page.locator("figure text[text-anchor=middle]").all_text_contents()
        page.context.close()
    assert said == ["0", "10", "20"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1400])
def test_the_letters_of_a_single_chart_are_neither_tiny_nor_larger_than_the_text(browser: Browser, width: int) -> None:
    view = View("run one", "running", charts=(Chart("Training loss by site", {"A": [(1.0, 1.25), (2.0, 0.5)]}),))
    with served_view(lambda: view) as place:
        page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
        page.goto(place)
        drawn = page.locator("figure > svg")
        drawn.wait_for()
        box = drawn.bounding_box()
        assert box is not None
        assert box["width"] <= 640
        letters = float(drawn.locator("text").first.evaluate("e => parseFloat(getComputedStyle(e).fontSize)"))
        assert 11 <= letters * box["width"] / 480 <= 16
        outside = "e => [...e.querySelectorAll('text')].filter(t => t.getBBox().x < 0).map(t => t.textContent)"
        assert drawn.evaluate(outside) == []
        page.context.close()


def test_the_page_follows_a_run_in_a_browser_and_loads_nothing_from_elsewhere(
    browser: Browser, tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    path = tmp_path / "run"
    cohort = tiny_cohort.only(("A", "D", "G"))
    killed_after(path, 1, cohort, store, rounds=2, evaluation={"every": 1}, sites=("A", "D", "G"))
    with served(path) as place:
        said, asked = list[str](), set[str]()
        pages = []
        for width in (1400, 390):
            page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", lambda request: asked.add(request.url))
            page.goto(place)
            page.get_by_text("stopped, 1 of 2 rounds done").wait_for()
            pages.append(page)
        resume(path, store)
        for page in pages:
            page.locator("#state", has_text="finished").wait_for()
            assert page.locator("tbody tr", has_text="A").locator("td").nth(1).inner_text() == "2"
            assert page.locator("figure polyline").count() >= 4
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert page.locator("#alarms p").count() == 0
            page.context.close()
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} == {f"{place}/", f"{place}/view.json"}
