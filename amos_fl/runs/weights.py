"""A network's weights as named NumPy arrays: saved, hashed and put back into the network."""

import ctypes
import hashlib
import mmap
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
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
MEAN, VARIANCE, COUNT = "running_mean", "running_var", "num_batches_tracked"


def arrays_of(network: "nn.Module") -> Arrays:
    """The network's state as arrays that share its memory (on a CPU)."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()}


def given_up_by(network: "nn.Module") -> Iterator[tuple[str, np.ndarray]]:
    """The network's arrays one at a time, the memory of each given back to the system when the next is asked for.

    Use when copying a network that is no longer needed: at no time do network and copy both exist in full. The
    network's values are lost (on Linux its larger arrays read as zeros) until others are loaded into it.
    """
    arrays = arrays_of(network)
    owners = Counter(array.ctypes.data for array in arrays.values())
    for name, array in arrays.items():
        yield name, array
        if owners[array.ctypes.data] == 1:  # memory that two names share is read a second time
            _give_pages_back(array)


def _give_pages_back(array: np.ndarray) -> None:
    """Tell the kernel that the whole pages within an array's memory are not needed; the addresses stay valid."""
    if sys.platform != "linux" or not array.flags.c_contiguous:
        return
    page = mmap.PAGESIZE
    start = -(-array.ctypes.data // page) * page
    length = (array.ctypes.data + array.nbytes) // page * page - start
    if length >= LEAST_GIVEN_BACK:
        for advice in (mmap.MADV_DONTNEED, mmap.MADV_HUGEPAGE):  # huge pages: fewer faults when it is filled again
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), advice)


LEAST_GIVEN_BACK = 1 << 20
"""Smaller arrays keep their memory: together they are little, and each would cost a call."""


def is_statistic(name: str) -> bool:
    """Whether an array is a running statistic of a normalisation layer and not a trained weight."""
    return name.rpartition(".")[2] in (MEAN, VARIANCE, COUNT)


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
