"""What a site remembers between rounds: the optimizer's momentum, never sent anywhere."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from amos_fl.files import whole_file

RUNS_KEPT = 4
"""Runs whose momentum a site keeps, the present one among them; of others the one that was used last stays longest."""


def _folder(state: Path, run_id: str) -> Path:
    # A folder of its own, because a site's state folder holds other things, and perhaps the store of prepared cases.
    return state / "momentum" / run_id


def _rounds(folder: Path) -> dict[int, Path]:
    return {int(file.stem.removeprefix("round_")): file for file in folder.glob("round_*.safetensors")}


def load_momentum(state: Path, run_id: str, round_number: int) -> dict[str, torch.Tensor] | None:
    """The momentum after the last round before `round_number` in which the site took part, or None."""
    earlier = {number: file for number, file in _rounds(_folder(state, run_id)).items() if number < round_number}
    return load_file(earlier[max(earlier)]) if earlier else None


def save_momentum(state: Path, run_id: str, round_number: int, buffers: dict[str, torch.Tensor]) -> None:
    """Keep the momentum after this round, beside that of the round before.

    Two rounds are kept because the server may ask for the last one again after it was interrupted.
    """
    folder = _folder(state, run_id)
    with whole_file(folder / f"round_{round_number:04d}.safetensors") as beside:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in buffers.items()}, beside)
    kept = sorted(number for number in _rounds(folder) if number <= round_number)[-2:]
    for number, file in _rounds(folder).items():
        if number not in kept:
            file.unlink(missing_ok=True)
    others = [other for other in folder.parent.iterdir() if other.is_dir() and other.name != run_id]
    for other in sorted(others, key=lambda folder: folder.stat().st_mtime, reverse=True)[RUNS_KEPT - 1 :]:
        shutil.rmtree(other, ignore_errors=True)
