"""A round's bookkeeping costs the same however many went before it, and a kill anywhere in it loses nothing."""

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from federations import hashes

import amos_fl.files
import amos_fl.runs.ledger_file
from amos_fl.errors import AmosError
from amos_fl.runs.events import Event, RoundScored, silent
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.ledger_file import LedgerFile

_seen: dict[str, int] | None = None


def _note(event: str, _: Any) -> None:
    if _seen is not None and event in ("open", "os.listdir", "os.scandir"):
        _seen["files"] += 1


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sites that answer at once, as in the benchmark of many rounds."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return import_module("many_rounds")


@pytest.fixture
def counted() -> Iterator[dict[str, int]]:
    """The files opened and folders listed by this process, from here on."""
    global _seen
    if not getattr(sys, "_amos_fl_counts", False):  # a hook stays as long as the process
        sys.addaudithook(_note)
        sys._amos_fl_counts = True  # pyright: ignore[reportAttributeAccessIssue]
    _seen = {"files": 0}
    yield _seen
    _seen = None


@pytest.mark.skipif(sys.platform != "linux", reason="bytes are counted in Linux's /proc")
@pytest.mark.parametrize("keep", ["needed", "all"])
def test_round_300_writes_and_reads_as_much_as_round_3(
    tmp_path: Path, light: Any, counted: dict[str, int], keep: str
) -> None:
    folder = light.light_run(tmp_path / "run", 2, 300, keep_checkpoints=keep)
    totals: list[tuple[int, int, int]] = [(0, 0, 0)]

    def on_event(event: Event) -> None:
        if isinstance(event, RoundScored):
            written, read = (light.of_this_process("io", name) for name in ("wchar", "rchar"))
            totals.append((counted["files"], written, read))

    light.carry_out(folder, on_event)
    rounds = [[after - before for before, after in zip(*pair, strict=True)] for pair in pairwise(totals)]
    # How much a round removes differs with its scores, so the most of ten rounds is compared.
    early, late = ([max(column) for column in zip(*rounds[at : at + 10], strict=True)] for at in (2, 290))
    assert late[0] <= early[0] + 8  # four more checkpoints that are removed
    assert late[1] < early[1] + 500, "bytes written"  # numbers of more digits, many times
    assert late[2] < early[2] + 500, "bytes read"
    assert len(folder.ledger()) == 300


def test_the_checkpoints_that_stay_are_those_that_the_evaluations_name(tmp_path: Path, light: Any) -> None:
    folder = light.light_run(tmp_path / "run", 3, 40)
    light.carry_out(folder, silent)
    means: dict[str, dict[int, float]] = {"all": {}}
    for number in range(1, 40):
        sites = json.loads(folder.evaluation_file(number, "val").read_text())["sites"]
        dsc = {site: found["scores"]["organs"]["1"]["dsc_sum"] for site, found in sites.items()}
        for site, score in {**dsc, "all": sum(dsc.values())}.items():
            means.setdefault(site, {})[number] = score
    best = {max(scores, key=lambda number: (scores[number], -number)) for scores in means.values()}
    assert folder.rounds_with_checkpoints() == sorted({39, 40, *best})


# --- kills ----------------------------------------------------------------------------------------


def killed(light: Any, folder: RunFolder, at: int) -> bool:
    """Whether a run, carried out in a forked process, is killed at this moment of those before and within its writes.

    Before a file gets its name or a line is appended, and when half of a line is there.
    """
    pid = os.fork()
    if pid:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, -signal.SIGKILL)
        return code != 0
    left = at

    def moment() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any) -> Any:
            if moment():
                die()
            return function(*arguments)

        return write

    def append(file: Path, line: str) -> None:
        if moment():
            die()
        if moment():
            with file.open("a") as opened:
                opened.write(line[: len(line) // 2])
            die()
        append_line(file, line)

    append_line = amos_fl.runs.ledger_file.append_line
    try:
        amos_fl.runs.ledger_file.append_line = append
        amos_fl.files.os.replace = dying(os.replace)
        amos_fl.files.os.rename = dying(os.rename)
        light.carry_out(folder, silent)
    except BaseException:
        os._exit(1)
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork of this process")
def test_a_run_killed_between_any_two_writes_or_within_a_line_goes_on_to_the_same_bits(
    tmp_path: Path, light: Any, stopped: RunFolder
) -> None:
    whole = light.light_run(tmp_path / "whole", 2, 3)
    light.carry_out(whole, silent)
    expected = [{**entry, "seconds": 0} for entry in whole.ledger()]
    assert len(set(hashes(whole))) == 3
    moments = 0
    while True:
        folder = RunFolder(tmp_path / "run")
        shutil.copytree(stopped.path, folder.path)
        if not killed(light, folder, moments + 1):
            break
        moments += 1
        assert len(folder.ledger()) in (2, 3)  # it can be read as it is
        folder.remove_unfinished()
        light.carry_out(folder, silent)
        assert [{**entry, "seconds": 0} for entry in folder.ledger()] == expected
        assert folder.rounds_with_checkpoints() == whole.rounds_with_checkpoints()
        for name in ("checkpoints/round_0003/weights.safetensors", "scores_by_site.csv"):
            assert (folder.path / name).read_bytes() == (whole.path / name).read_bytes()
        copy = folder.path / "checkpoints" / "ledger.jsonl"
        assert copy.read_bytes() == (folder.path / "ledger.jsonl").read_bytes()
        shutil.rmtree(folder.path)
    assert moments > 8  # two for each line, two files of a checkpoint and its folder, an evaluation, and the results


# --- damage ---------------------------------------------------------------------------------------


def cuts(content: bytes) -> dict[str, bytes | None]:
    """A ledger of two rounds or more, cut at every kind of place."""
    first, last = content.index(b"\n") + 1, content[:-1].rindex(b"\n") + 1
    return {
        "gone": None,
        "empty": b"",
        "one byte": content[:1],
        "within the first line": content[: first // 2],
        "the end of the first line gone": content[: first - 1],
        "one line": content[:first],
        "the last line gone": content[:last],
        "one byte of the last line": content[: last + 1],
        "within the last line": content[: (last + len(content)) // 2],
        "within a number": content[: content.rindex(b"0")],
        "the last byte but one gone": content[:-2],
        "the last end gone": content[:-1],
    }


def changes(content: bytes) -> dict[str, bytes]:
    """The ledger with something in it or after it that was not written."""
    return {
        "a line too many": content + content[: content.index(b"\n") + 1],
        "a part of a line too many": content + content[:30],
        "a flipped bit": content[:20] + bytes([content[20] ^ 1]) + content[21:],
        "lines in another order": b"".join(reversed(content.splitlines(keepends=True))),
    }


def put(file: Path, content: bytes | None) -> None:
    file.unlink(missing_ok=True)
    if content is not None:
        file.write_bytes(content)


@pytest.fixture
def stopped(tmp_path: Path, light: Any) -> RunFolder:
    """A run of three rounds that was killed after its second."""

    def gone(event: Event) -> None:
        if isinstance(event, RoundScored) and event.round == 2:
            raise ConnectionError

    folder = light.light_run(tmp_path / "stopped", 2, 3)
    with pytest.raises(ConnectionError):
        light.carry_out(folder, gone)
    return folder


def test_a_resume_mends_a_ledger_that_is_cut_or_changed_from_its_copy_and_the_copy_from_it(
    tmp_path: Path, light: Any, stopped: RunFolder
) -> None:
    content = (stopped.path / "ledger.jsonl").read_bytes()
    for damaged in ("ledger.jsonl", "checkpoints/ledger.jsonl"):
        for what, now in {**cuts(content), **changes(content)}.items():
            folder = RunFolder(tmp_path / "run")
            shutil.copytree(stopped.path, folder.path)
            put(folder.path / damaged, now)
            light.carry_out(folder, silent)
            for file in ("ledger.jsonl", "checkpoints/ledger.jsonl"):
                assert (folder.path / file).read_bytes().startswith(content), (damaged, what)
            assert [entry["round"] for entry in folder.ledger()] == [1, 2, 3], (damaged, what)
            shutil.rmtree(folder.path)


def test_where_both_are_damaged_a_resume_says_so_in_a_sentence_and_its_remedy_works(
    light: Any, stopped: RunFolder
) -> None:
    files = [stopped.path / "ledger.jsonl", stopped.path / "checkpoints" / "ledger.jsonl"]
    content = files[0].read_bytes()
    for now in cuts(content).values():
        for file in files:
            put(file, now)
        with pytest.raises(
            AmosError, match=r"ledger\.jsonl: does not hold the 2 rounds .* put one of them back"
        ) as found:
            light.carry_out(stopped, silent)
        assert "\n" not in str(found.value)
    shutil.rmtree(stopped.path / "checkpoints")
    light.carry_out(stopped, silent)
    assert [entry["round"] for entry in stopped.ledger()] == [1, 2, 3]


def test_whoever_reads_a_ledger_that_is_cut_is_told(light: Any, stopped: RunFolder) -> None:
    file = stopped.path / "ledger.jsonl"
    content = file.read_bytes()
    for what, now in cuts(content).items():
        put(file, now)
        with pytest.raises(AmosError, match=r"ledger\.jsonl.*; resume the run, which writes it again") as found:
            stopped.ledger()
        assert "\n" not in str(found.value), what
    # A line that is being written now.
    file.write_bytes(content + content[:30])
    assert len(stopped.ledger()) == 2
    light.carry_out(stopped, silent)
    content = file.read_bytes()
    for now in [*cuts(content).values(), content + content[:30]]:
        if now != content[:-1]:  # all rounds are there, to the last bracket
            put(file, now)
            with pytest.raises(AmosError, match=r"ledger\.jsonl.*; copy it from another copy of the run"):
                stopped.ledger()


def test_a_run_of_an_older_version_whose_checkpoints_hold_the_ledger_goes_on(
    tmp_path: Path, light: Any, stopped: RunFolder
) -> None:
    newer = RunFolder(tmp_path / "newer")
    shutil.copytree(stopped.path, newer.path)
    light.carry_out(newer, silent)
    for number in stopped.rounds_with_checkpoints():
        file = stopped.checkpoint_folder(number) / "state.json"
        state = {**json.loads(file.read_text()), "ledger": stopped.ledger()[:number]}
        del state["weights_sha256"]
        file.write_text(json.dumps(state))
    put(stopped.path / "checkpoints" / "ledger.jsonl", None)
    put(stopped.path / "ledger.jsonl", None)
    light.carry_out(stopped, silent)
    assert hashes(stopped) == hashes(newer)
    assert (stopped.path / "checkpoints/ledger.jsonl").read_bytes() == (stopped.path / "ledger.jsonl").read_bytes()


def test_the_last_round_of_a_site_is_known_for_every_round_of_the_past(tmp_path: Path) -> None:
    random_ = random.Random(0)
    ledger = LedgerFile(tmp_path / "ledger.jsonl", tmp_path / "copy.jsonl")
    nothing: Any = {"missing": {}, "loss": 1.0, "seconds": 0.0, "bytes_down": 0, "bytes_up": 0, "weights_sha256": ""}
    took_part: dict[str, list[int]] = {"A": [], "B": [], "never": []}
    for number in range(1, 60):
        sites = [site for site, share in (("A", 0.5), ("B", 0.9)) if random_.random() < share]
        for site in sites:
            took_part[site].append(number)
        ledger.append({"round": number, "sites": {site: {} for site in sites}, **nothing})
        for site, rounds in took_part.items():
            for up_to in range(number + 1):
                expected = max((earlier for earlier in rounds if earlier <= up_to), default=0)
                assert ledger.last_round_with(site, up_to) == expected
