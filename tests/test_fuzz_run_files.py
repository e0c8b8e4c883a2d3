"""Every file of a run, damaged in every way that comes to mind: each command says one sentence, and none takes long."""

import json
import random
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from federations import federate, tiny_config

from amos_fl.cli.main import run as command
from amos_fl.cohort.table import read_cohort
from amos_fl.errors import Interrupted
from amos_fl.runs.events import Event, RoundFinished
from amos_fl.runs.folder import create_run
from amos_fl_server.simulate import simulate

SEED = 7
MOST_S = 5.0
BUDGET_S = 10.0
"""Processor time of each of the two harnesses; a slower machine tries fewer damages."""
PARSED = {".json", ".jsonl", ".yaml", ".csv"}
FINISHED = [
    ("config.yaml", ["report", "compare", "runs", "diff", "evaluate"]),
    ("versions.json", ["report", "compare", "runs", "diff"]),
    ("ledger.jsonl", ["report", "compare", "runs", "diff"]),
    ("cohort.csv", ["report", "compare", "diff", "evaluate"]),
    ("organs.csv", ["report", "compare"]),
    ("evaluations/*_test.json", ["report", "compare", "diff"]),
    ("evaluations/*_val.json", ["report", "compare", "diff"]),
    ("model/network.json", ["predict", "evaluate", "init"]),
    ("model/weights.safetensors", ["predict", "evaluate", "init"]),
    ("scores_by_site.csv", ["runs"]),
    ("fingerprint.json", ["report"]),
    ("start.json", ["report"]),
]
INTERRUPTED = [
    "config.yaml",
    "versions.json",
    "cohort.csv",
    "organs.csv",
    "scans.json",
    "ledger.jsonl",
    "checkpoints/round_0001/state.json",
    "checkpoints/round_0001/weights.safetensors",
    "checkpoints/round_0001/strategy.safetensors",
]


def strange(random_: random.Random) -> object:
    deep: object = 1
    for _ in range(500):
        deep = [deep]
    return random_.choice(
        [None, True, -1, 0, 10**400, 1e308, float("nan"), float("inf"), "", "x" * 5000, "\x00", [], {}, [{}], deep]
    )


def changed(value: object, random_: random.Random) -> object:
    """A JSON value with one part of it, at any depth, replaced by another, left out, or there twice."""
    if isinstance(value, dict) and value and random_.random() < 0.9:
        key = random_.choice(sorted(value))
        if random_.random() < 0.2:
            return {name: part for name, part in value.items() if name != key}
        return {**value, key: changed(value[key], random_)}
    if isinstance(value, list) and value and random_.random() < 0.9:
        at = random_.randrange(len(value))
        if random_.random() < 0.2:
            return random_.choice([value[:at] + value[at + 1 :], [*value, value[at]]])
        return [*value[:at], changed(value[at], random_), *value[at + 1 :]]
    return strange(random_)


def restructured(file: Path, random_: random.Random) -> bytes:
    text = file.read_text()
    if file.suffix == ".csv":
        lines = [line.split(",") for line in text.splitlines()]
        row = random_.choice(lines)
        row[random_.randrange(len(row))] = str(strange(random_))[:6000]
        return "\n".join(",".join(line) for line in lines).encode(errors="replace")
    if file.suffix == ".yaml":
        import yaml

        return yaml.safe_dump(changed(yaml.safe_load(text), random_), default_flow_style=True).encode()
    if file.suffix == ".jsonl":
        lines = text.splitlines()
        at = random_.randrange(len(lines))
        lines[at] = json.dumps(changed(json.loads(lines[at]), random_))
        return "\n".join(lines).encode()
    return json.dumps(changed(json.loads(text), random_)).encode()


def damages(file: Path, random_: random.Random) -> Iterator[bytes | None]:
    """The content of a file, damaged; None: it is gone."""
    content = file.read_bytes()
    yield None
    yield b""
    yield content[: len(content) // 2]
    yield b"\xff" * 8 + content[8:]  # of safetensors: a header longer than the world
    yield b"[" * 100_000
    yield (b"a: &a [x,x]\n" + b"".join(b"%c: &%c [*%c,*%c,*%c]\n" % (c, c, *[c - 1] * 3) for c in range(98, 122)))
    yield b'{"a": 1, "a": NaN}'
    yield random_.randbytes(500)
    while True:
        if file.suffix in PARSED and random_.random() < 0.7:
            yield restructured(file, random_)
        else:
            flipped = bytearray(content)
            for _ in range(random_.choice([1, 1, 5])):
                flipped[random_.randrange(len(flipped))] = random_.randrange(256)
            yield bytes(flipped)


def refused_or_done(
    arguments: list[str], file: Path, capsys: pytest.CaptureFixture[str], whole: bytes | None
) -> tuple[int, str]:
    """Run a command on a damaged file: no traceback, one sentence that names the file, and not for long."""
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = command(arguments)  # anything but an error of ours is raised here, and fails the test
    took = time.process_time() - started
    said = capsys.readouterr()
    assert took < MOST_S, f"{arguments[0]} took {took:.1f} s"
    assert code in (0, 1, 2, 3)
    assert "Traceback" not in said.err + said.out
    if code in (2, 3):
        lines = [line for line in said.err.splitlines() if not line.startswith("amos-fl: warning")]
        assert len(lines) == 1, said.err
        assert len(lines[0]) < 3000, lines[0][:3000]
    return code, said.err


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path, store: Path) -> Path:
    """A run with every file that a run can have, and a second one to hold it against."""
    folder = tmp_path_factory.mktemp("fuzzed")
    cohort = read_cohort(tiny_root)
    settings = {"rounds": 2, "local_steps": 1, "evaluation": {"every": 1}}
    other = federate(folder / "other", cohort, store, **settings)
    start = str(other.path / "model/weights.safetensors")
    federate(folder / "run", cohort, store, start_from=start, **settings)
    (folder / "run/fingerprint.json").write_text(json.dumps({"sites": ["A"], "left_out": {"B": "it is paused"}}))
    return folder


def test_commands_that_read_a_finished_run_say_what_is_damaged(
    tmp_path: Path, finished: Path, tiny_root: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random_ = random.Random(SEED)
    folder = tmp_path / "run"
    shutil.copytree(finished / "run", folder)
    scan = next((tiny_root / "images").glob("d_*"))
    numbers = iter(range(10**6))

    def line(name: str) -> list[str]:
        out = str(tmp_path / f"out-{next(numbers)}")
        return {
            "report": ["report", str(folder)],
            "compare": ["compare", str(folder), str(finished / "other"), "--out", out, "--resamples", "100"],
            "runs": ["runs", str(tmp_path)],
            "diff": ["diff", str(folder), str(finished / "other")],
            "evaluate": ["evaluate", str(folder), "--sites", "D", "--store", str(store), "--out", out],
            "predict": ["predict", str(folder), str(scan), "--modality", "CT", "--out", out],
            "init": ["simulate", "--init", str(folder), "--cohort", str(tiny_root), "--set", "rounds=0"],
        }[name]

    files = [(next(iter(sorted(folder.glob(pattern)))), commands) for pattern, commands in FINISHED]
    ways = {file: (file.read_bytes(), damages(file, random_)) for file, _ in files}
    tried, refused, ends = 0, 0, time.process_time() + BUDGET_S
    while time.process_time() < ends or tried < 8 * len(files):
        for file, commands in files:
            content, damaged = ways[file]
            broken = next_damage(file, content, damaged)
            name = random_.choice(commands)
            code, said = refused_or_done(line(name), file, capsys, broken)
            if code in (2, 3) and name != "init":
                assert file.name in said or "model" in said or "organ" in said, (name, said)
                refused += 1
            tried += 1
            file.write_bytes(content)
    assert refused > tried / 4


def next_damage(file: Path, content: bytes, damaged: Iterator[bytes | None]) -> bytes | None:
    """Damage a file in the next way; the restructuring reads it, so it is whole before."""
    file.write_bytes(content)
    broken = next(damaged)
    if broken is None:
        file.unlink()
    else:
        file.write_bytes(broken)
    return broken


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path, store: Path) -> Path:
    """A run with a strategy that remembers, stopped after its first round."""
    cohort = read_cohort(tiny_root)
    strategy = {"strategy": "flwr.serverapp.strategy:FedAvgM", "strategy_options": {"server_momentum": 0.9}}
    config = tiny_config(cohort=str(tiny_root), rounds=2, local_steps=1, **strategy)
    folder = create_run(tmp_path_factory.mktemp("interrupted") / "run", config, cohort)

    def stop(event: Event) -> None:
        if isinstance(event, RoundFinished):
            folder.stop_file.request()

    with pytest.raises(Interrupted):
        simulate(folder, config, folder.cohort(), store, stop)
    return folder.path


def test_a_resume_of_a_damaged_run_says_what_is_damaged_or_goes_on_as_it_would_have(
    tmp_path: Path, interrupted: Path, store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_training(*_: object, **__: object) -> None:
        raise Interrupted("the run would go on")

    # What follows is the round itself, which other tests are about.
    monkeypatch.setattr("amos_fl_server.rounds.Federation._round", no_training)
    random_ = random.Random(SEED)
    folder = tmp_path / "run"
    shutil.copytree(interrupted, folder)
    files = [folder / name for name in INTERRUPTED]
    ways: dict[Path, tuple[bytes, Iterator[bytes | None]]] = {
        file: (file.read_bytes(), damages(file, random_)) for file in files
    }
    resume: Callable[[], list[str]] = lambda: ["simulate", "--resume", str(folder), "--store", str(store)]  # noqa: E731
    tried, refused, ends = 0, 0, time.process_time() + BUDGET_S
    while time.process_time() < ends or tried < 8 * len(files):
        for file in files:
            content, damaged = ways[file]
            next_damage(file, content, damaged)
            started = time.process_time()
            code = command(resume())
            assert time.process_time() - started < MOST_S
            said = capsys.readouterr().err
            assert code in (2, 130), said
            assert "Traceback" not in said
            if code == 2:
                refused += 1
                noted = file.name == "versions.json" and "is not what the run was begun with" in said
                assert noted or file.name in said or "checkpoints" in said or "cohort" in said, said
            tried += 1
            for whole, (before, _) in ways.items():
                whole.write_bytes(before)
    assert refused > tried / 2
