"""Ways to damage what is read, from a fixed seed, and how a command's answer to it is judged.

About a minute of processor time is shared by the tests in `test_fuzz_*.py`: each of them tries a fixed number of
damages, the same on every machine.
"""

import json
import random
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from amos_fl.cli.main import run as command

SEED = 7
MOST_S = 60.0
MOST_BYTES = 512 * 1024**2
"""What a command may take in memory beyond what the process had before it; the inputs are of some kilobytes."""
PARSED = {".json", ".jsonl", ".yaml", ".csv"}
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

# --- damages --------------------------------------------------------------------------------------


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


def restructured(content: bytes, kind: str, random_: random.Random) -> bytes:
    """The whole content of a file of this ending, with one value in it changed."""
    text = content.decode()
    if kind == ".csv":
        lines = [line.split(",") for line in text.splitlines()]
        row = random_.choice(lines)
        row[random_.randrange(len(row))] = str(strange(random_))[:6000]
        return "\n".join(",".join(line) for line in lines).encode(errors="replace")
    if kind == ".yaml":
        # JSON is YAML too, and no nesting is too deep for it.
        return json.dumps(changed(yaml.safe_load(text), random_), default=str).encode()
    if kind == ".jsonl":
        lines = text.splitlines()
        at = random_.randrange(len(lines))
        lines[at] = json.dumps(changed(json.loads(lines[at]), random_))
        return "\n".join(lines).encode()
    return json.dumps(changed(json.loads(text), random_)).encode()


def flipped(content: bytes, random_: random.Random, most: int | None = None) -> bytes:
    """One to five bytes (of the first `most`) replaced, often by those that numbers overflow at."""
    damaged = bytearray(content)
    for _ in range(random_.choice([1, 1, 5])):
        damaged[random_.randrange(min(len(damaged), most or len(damaged)))] = random_.choice(
            [0, 1, 127, 128, 255, random_.randrange(256)]
        )
    return bytes(damaged)


def damages(content: bytes, kind: str, random_: random.Random) -> Iterator[bytes | None]:
    """The content of a file of this ending, damaged in one way after another without end; None: it is gone."""
    yield None
    yield b""
    yield content[: len(content) // 2]
    yield b"\xff" * 8 + content[8:]  # of safetensors: a header longer than the world
    yield b"[" * 100_000
    yield (b"a: &a [x,x]\n" + b"".join(b"%c: &%c [*%c,*%c,*%c]\n" % (c, c, *[c - 1] * 3) for c in range(98, 122)))
    yield b'{"a": 1, "a": NaN}'
    yield random_.randbytes(500)
    yield b"\xef\xbb\xbf" + content
    yield b"\xff\xfe" + content[:2000].decode("latin-1").encode("utf-16-le")
    while True:
        if kind in PARSED and random_.random() < 0.7:
            yield restructured(content, kind, random_)
        else:
            yield flipped(content, random_)


def put(file: Path, damaged: bytes | None) -> None:
    """Have a file hold this; None: it is gone."""
    if damaged is None:
        file.unlink(missing_ok=True)
    else:
        file.write_bytes(damaged)


# --- judgement ------------------------------------------------------------------------------------


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


@contextmanager
def bounded(what: str) -> Iterator[None]:
    """Nothing in here may take long, nor much memory: it can get no more than four times what it may take."""
    if not _STATUS.is_file():  # not Linux: only the time is judged
        started = time.process_time()
        yield
        assert time.process_time() - started < MOST_S, f"{what} took long"
        return
    import resource

    _CLEAR.write_text("5")  # the largest size so far is forgotten
    before, limits = _status("VmRSS"), resource.getrlimit(resource.RLIMIT_AS)
    started = time.process_time()
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + 4 * MOST_BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    took, grown = time.process_time() - started, _status("VmHWM") - before
    assert took < MOST_S, f"{what} took {took:.1f} s"
    assert grown < MOST_BYTES, f"{what} took {grown / 1024**2:.0f} MiB"


def judged(arguments: list[str], capsys: pytest.CaptureFixture[str], run: Any = command) -> tuple[int, str]:
    """The exit code and the words of a command on damaged input: no traceback, one sentence, little time and memory."""
    with warnings.catch_warnings(), bounded(" ".join(arguments[:2])):
        warnings.simplefilter("ignore")
        code = run(arguments)  # anything but an error of ours is raised here, and fails the test
    said = capsys.readouterr()
    assert code in (0, 1, 2, 3, 130)
    assert "Traceback" not in said.err + said.out
    if code in (2, 3):
        lines = [line for line in said.err.splitlines() if not line.startswith("amos-fl: warning")]
        assert len(lines) <= 1, said.err
        assert all(line.startswith(("amos-fl: ", "amos-fl-site: ")) for line in lines), said.err[:3000]
        assert all(len(line) < 3000 for line in lines), said.err[:3000]
        assert lines or "error" in said.out, said.out
    return code, said.out + said.err


class Budget:
    """Counts what was tried, up to `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.tried = self.refused = 0

    @property
    def left(self) -> bool:
        return self.tried < self._most

    def count(self, code: int) -> None:
        self.tried += 1
        self.refused += code in (2, 3)
