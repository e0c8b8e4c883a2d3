"""A network's weights as named NumPy arrays: saved, hashed and put back into the network."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from amos_fl.errors import AmosError
from amos_fl.files import whole_file

if TYPE_CHECKING:  # torch takes seconds to import, and who reads a run folder does not need it
    from torch import nn

Arrays = dict[str, np.ndarray]


def arrays_of(network: "nn.Module") -> Arrays:
    """The network's state as arrays that share its memory (on a CPU)."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()}


def load_arrays(network: "nn.Module", arrays: Mapping[str, np.ndarray]) -> None:
    """Copy `arrays` into the network.

    Raises:
        AmosError: an array is missing, unknown, or has another shape.
    """
    import torch

    state = network.state_dict()
    if set(state) != set(arrays):
        odd = sorted(set(state) ^ set(arrays))
        raise AmosError(f"these weights are of another network: {len(odd)} arrays differ, the first is {odd[0]}")
    with torch.no_grad():
        for name, tensor in state.items():
            array = arrays[name]
            if tuple(tensor.shape) != array.shape:
                raise AmosError(
                    f"these weights are of another network: {name} is {array.shape}, not {tuple(tensor.shape)}"
                )
            if tensor.device.type == "cpu":
                np.copyto(tensor.numpy(), array, casting="same_kind")
            else:
                tensor.copy_(torch.from_numpy(np.array(array)))


def hash_of(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, dtypes, shapes and values: equal exactly when the weights are."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(np.asarray(array, order="C").reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def save_arrays(arrays: Mapping[str, np.ndarray], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all."""
    with whole_file(path) as beside:
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, beside, metadata)


def read_arrays(path: Path) -> Arrays:
    """Read a safetensors file.

    Raises:
        AmosError: no such file, or it is damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise AmosError(f"{path}: no such weights") from None
    except (SafetensorError, OSError) as error:
        raise AmosError(f"{path}: is not a complete safetensors file ({error})") from None
