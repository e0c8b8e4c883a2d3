"""A checkpoint: a folder with the weights after a round, the strategy's state, and how far the ledger had come."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from amos_fl.errors import AmosError
from amos_fl.files import whole_folder, write_text
from amos_fl.runs.ledger import ENTRIES, LedgerEntry, in_sequence
from amos_fl.runs.ledger_file import Extent
from amos_fl.runs.stored import Stored, fitting, json_line, read_stored
from amos_fl.weights import Arrays, hash_of, read_arrays, save_arrays

WEIGHTS, STRATEGY, STATE = "weights.safetensors", "strategy.safetensors", "state.json"


class _CheckpointState(Stored):
    """`order` is that of the weights, which safetensors does not keep; None in checkpoints of older versions.

    In those `ledger` is all that was in it, the hash of the weights, too, which later ones hold themselves.
    """

    strategy: dict[str, Any]
    ledger: Extent | list[Any]
    weights_sha256: str = ""
    order: list[str] | None = None
    strategy_arrays: Annotated[int, Field(ge=0)] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A run after a round: weights, the strategy's state, and how far the ledger had come; in older ones all of it."""

    round: int
    weights: Arrays
    strategy_arrays: Arrays
    strategy_values: dict[str, Any]
    ledger: Extent | list[LedgerEntry]


def save_checkpoint(
    folder: Path,
    weights: Mapping[str, np.ndarray],
    strategy_arrays: Mapping[str, np.ndarray],
    strategy_values: Mapping[str, Any],
    ledger: Extent,
    weights_sha256: str,
) -> None:
    """Write a checkpoint, which appears complete by a single rename; so far the ledger must be on disk."""
    with whole_folder(folder) as beside:
        save_arrays(weights, beside / WEIGHTS)
        if strategy_arrays:
            save_arrays(strategy_arrays, beside / STRATEGY)
        state = {
            "strategy": dict(strategy_values),
            "ledger": ledger.model_dump(),
            "weights_sha256": weights_sha256,
            "order": list(weights),
            "strategy_arrays": len(strategy_arrays),
        }
        write_text(beside / STATE, json_line(state) + "\n")


def read_checkpoint(folder: Path, round_number: int) -> Checkpoint:
    """Read the checkpoint of a round, checking that its weights are those named beside them.

    Raises:
        AmosError: a file of it is missing or damaged.
    """
    remedy, source = remedy_for(folder), str(folder / STATE)
    state: _CheckpointState = read_stored(folder / STATE, _CheckpointState, remedy)
    ledger, weights_sha256 = state.ledger, state.weights_sha256
    if isinstance(ledger, list):
        ledger = in_sequence(fitting(ledger, ENTRIES, source, remedy), source, remedy)
        if len(ledger) != round_number:
            raise AmosError(f"{source}: cannot be read (it holds {len(ledger)} rounds, not {round_number}); {remedy}")
        weights_sha256 = ledger[-1]["weights_sha256"]
    weights = read_arrays(folder / WEIGHTS, remedy)
    if hash_of(weights) != weights_sha256:
        raise AmosError(f"{folder / WEIGHTS}: holds other weights than those of round {round_number}; {remedy}")
    if state.order is not None:
        if sorted(state.order) != sorted(weights):
            raise AmosError(f"{source}: names other arrays than {WEIGHTS} beside it holds; {remedy}")
        weights = {name: weights[name] for name in state.order}
    strategy = folder / STRATEGY
    # An older checkpoint does not record how many there were.
    wanted = strategy.exists() if state.strategy_arrays is None else state.strategy_arrays > 0
    return Checkpoint(round_number, weights, read_arrays(strategy, remedy) if wanted else {}, state.strategy, ledger)


def remedy_for(folder: Path) -> str:
    """What to do about a damaged checkpoint."""
    others = [other for other in folder.parent.glob("round_*") if other != folder]
    then = "resume, which goes on from the round before" if others else "resume, which starts again"
    return f"remove the folder {folder} and {then}"
