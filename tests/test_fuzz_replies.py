"""Replies of one site damaged in any place, through the server's own loop: the run ends as without it, or with it."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, Message
from fuzzing import SEED, Budget, bounded, changed, flipped, strange
from hostile_replies import first, put, weights
from test_hostile_replies import HOSTILE_SITE, OneHostile, carried_out, hospitals, reasons

from amos_fl.runs.evaluation import Evaluation
from amos_fl.runs.folder import open_run
from amos_fl.runs.record import read_run
from amos_fl_clients.federation.messages import ARRAYS, DESCRIBE, FINGERPRINT, METRICS, SITE

__all__ = ["hospitals"]  # a fixture
KINDS = (DESCRIBE, FINGERPRINT, "train", "evaluate")
NUMBERS = (0, -1, 1, 2**63 - 1, 1e308, -1e308, float("nan"), float("inf"), 0.5, 10**9)


def tampered(reply: Message, random_: random.Random) -> None:
    """One damage in one of the reply's records: of a number, of a text's JSON or its bytes, of the weights."""
    records = [name for name in (METRICS, SITE, ARRAYS) if name in reply.content]
    match random_.choice(records):
        case "arrays":
            _damaged_weights(reply, random_)
        case name:
            record: Any = reply.content[name]
            key = random_.choice(sorted(record))
            if name == METRICS:
                value = random_.choice(NUMBERS)
                put(name, key, value if random_.random() < 0.7 else strange(random_))(reply)
                return
            text = str(record[key])
            if key == "site" or random_.random() < 0.3:
                put(name, key, flipped(text.encode(), random_).decode(errors="replace"))(reply)
            else:
                put(name, key, json.dumps(changed(json.loads(text), random_)))(reply)


def _damaged_weights(reply: Message, random_: random.Random) -> None:
    if random_.random() < 0.5:
        arrays: Any = reply.content[ARRAYS]
        name = random_.choice(sorted(arrays))
        data = arrays[name].numpy().tobytes() if random_.random() < 0.5 else arrays[name].data
        damaged = flipped(data, random_, 200)
        arrays[name] = Array(arrays[name].dtype, arrays[name].shape, arrays[name].stype, damaged)
        return

    def change(arrays: dict[str, np.ndarray]) -> None:
        array = arrays[first(arrays)]
        random_.choice([_fill, _reshape])(arrays, first(arrays), array, random_)

    weights(change)(reply)


def _fill(arrays: dict[str, np.ndarray], name: str, array: np.ndarray, random_: random.Random) -> None:
    array.flat[random_.randrange(array.size)] = random_.choice([np.nan, np.inf, 1e30, -1e38, 0.0])


def _reshape(arrays: dict[str, np.ndarray], name: str, array: np.ndarray, random_: random.Random) -> None:
    arrays[name] = random_.choice([array[:0], array.ravel(), array.astype(np.float64), array[None], array.T])


def test_a_damaged_reply_ends_no_run_and_what_is_kept_can_be_read(tmp_path: Path, hospitals: OneHostile) -> None:
    random_ = random.Random(SEED)
    for kind in KINDS:  # what an honest site answers is worked out once
        carried_out(tmp_path / f"honest-{kind}", hospitals, kind, lambda reply: None)
    budget = Budget(40)
    while budget.left:
        kind = random_.choice(KINDS)
        path = tmp_path / f"run-{budget.tried}"
        seed = random_.randrange(10**9)
        with bounded(f"{kind} {seed}"):
            folder = carried_out(path, hospitals, kind, lambda reply, seed=seed: tampered(reply, random.Random(seed)))
        assert folder.finished
        why = [reason for reason in reasons(folder, kind) if reason]
        assert all(len(reason) < 500 and reason.isprintable() for reason in why)
        for file in (folder.path / "evaluations").glob("*.json"):
            Evaluation.model_validate(json.loads(file.read_text()))
        assert not why or HOSTILE_SITE in (folder.path / "summary.md").read_text()
        read_run(open_run(folder.path).path)
        budget.count(2 if why else 0)
    assert budget.refused > budget.tried / 4
