"""What a site remembers between rounds: the optimizer's momentum, which is never sent anywhere, and its own statistics
of batch normalisation.
"""

import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from amos_fl.files import whole_file
from amos_fl.runs.weights import Arrays, read_arrays, save_arrays

MOMENTUM, STATISTICS = "momentum", "statistics"
RUNS_KEPT = 4
"""Runs of which a site keeps its state at least, the present one among them; the last used stays longest."""
UNUSED_S = 86400.0
"""State that was used more recently stays, too: its run may go on beside the present one, however many there are."""


def _folder(state: Path, run_id: str, kind: str) -> Path:
    # A folder of its own, because a site's state folder holds other things, and perhaps the store of prepared cases.
    return state / kind / run_id


def _rounds(folder: Path) -> dict[int, Path]:
    return {int(file.stem.removeprefix("round_")): file for file in folder.glob("round_*.safetensors")}


def load_momentum(state: Path, run_id: str, round_number: int) -> dict[str, torch.Tensor] | None:
    """The momentum after the last round before `round_number` in which the site took part, or None."""
    earlier = {
        number: file for number, file in _rounds(_folder(state, run_id, MOMENTUM)).items() if number < round_number
    }
    return load_file(earlier[max(earlier)]) if earlier else None


def save_momentum(state: Path, run_id: str, round_number: int, buffers: dict[str, torch.Tensor]) -> None:
    """Keep the momentum after this round, beside that of the round before.

    Two rounds are kept because the server may ask for the last one again after it was interrupted.
    """
    folder = _folder(state, run_id, MOMENTUM)
    with whole_file(folder / f"round_{round_number:04d}.safetensors") as beside:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in buffers.items()}, beside)
    kept = sorted(number for number in _rounds(folder) if number <= round_number)[-2:]
    for number, file in _rounds(folder).items():
        if number not in kept:
            file.unlink(missing_ok=True)
    _forget_old_runs(folder)


def load_statistics(state: Path, run_id: str, up_to: int) -> Arrays:
    """The site's own normalisation statistics after the last round up to `up_to` that it trained in, or none."""
    earlier = {n: file for n, file in _rounds(_folder(state, run_id, STATISTICS)).items() if n <= up_to}
    return read_arrays(earlier[max(earlier)]) if earlier else {}


def save_statistics(state: Path, run_id: str, round_number: int, statistics: Arrays) -> None:
    """Keep the site's own statistics after this round.

    All rounds are kept, some kilobytes each: any of them may be the one whose weights are chosen and scored.
    """
    folder = _folder(state, run_id, STATISTICS)
    save_arrays(statistics, folder / f"round_{round_number:04d}.safetensors")
    _forget_old_runs(folder)


def _forget_old_runs(folder: Path) -> None:
    """Remove what is kept of other runs than that of `folder`, but for the last used."""
    others = [other for other in folder.parent.iterdir() if other.is_dir() and other != folder]
    for other in sorted(others, key=_last_used, reverse=True)[RUNS_KEPT - 1 :]:
        if time.time() - _last_used(other) > UNUSED_S:
            shutil.rmtree(other, ignore_errors=True)


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # another run's process has removed it
        return 0.0
