"""Tiny federations for tests: one function that runs or continues one, and how to read its weights."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from amos_fl.cohort.table import Cohort
from amos_fl.runs.config import RunConfig, resolve
from amos_fl.runs.create import create_run
from amos_fl.runs.events import Event, Listener, RoundFinished, silent
from amos_fl.runs.folder import RunFolder, open_run
from amos_fl.runs.layers import Layer, merge
from amos_fl.weights import read_arrays
from amos_fl_server.federation.simulate import simulate

TINY_PLAN = {
    "name": "tiny",
    "spacing_mm": (8, 8, 8),
    "patch": (16, 16, 16),
    "strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    "kernels": ((3, 3, 3),) * 3,
}
TINY: dict[str, Any] = {
    "plan": TINY_PLAN,
    "rounds": 3,
    "local_steps": 2,
    "device": "cpu",
    "evaluation": {"every": 3},
    "training": {"threads": 1, "learning_rate": 0.02, "momentum": 0.9},
}


def tiny_config(**settings: Any) -> RunConfig:
    return resolve([Layer("test", merge(TINY, settings))])


def federate(out: Path, cohort: Cohort, store: Path, listener: Listener = silent, **settings: Any) -> RunFolder:
    """A new run in `out`, to its end."""
    config = tiny_config(cohort=str(cohort.cases[0].image.parents[1]), **settings)
    folder = create_run(out, config, cohort)
    simulate(folder, config, folder.cohort(), store, listener)
    return folder


def killed_after(out: Path, number: int, cohort: Cohort, store: Path, **settings: Any) -> RunFolder:
    """A run that came to its end after so many rounds, as if it had been killed there."""

    def gone(event: Event) -> None:
        if isinstance(event, RoundFinished) and event.round == number:
            raise ConnectionError

    config = tiny_config(cohort=str(cohort.cases[0].image.parents[1]), **settings)
    folder = create_run(out, config, cohort)
    with suppress(ConnectionError):
        simulate(folder, config, folder.cohort(), store, gone)
    assert len(hashes(folder)) == number
    return folder


def resume(out: Path, store: Path, listener: Listener = silent) -> RunFolder:
    """Continue the run in `out`."""
    folder = open_run(out)
    simulate(folder, folder.config(), folder.cohort(), store, listener)
    return folder


def final_weights(folder: RunFolder) -> dict[str, np.ndarray]:
    """The weights after the last round (not the chosen ones)."""
    return read_arrays(folder.checkpoint_folder(folder.rounds_with_checkpoints()[-1]) / "weights.safetensors")


def hashes(folder: RunFolder) -> list[str]:
    """The hash of the weights after every round."""
    return [entry["weights_sha256"] for entry in folder.ledger()]


def distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(a[name] - b[name]).sum() for name in a)))
