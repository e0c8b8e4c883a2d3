"""A network's weights as named NumPy arrays: save, hash and load them."""

import ctypes
import hashlib
import json
import math
import mmap
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from amos_fl.errors import AmosError
from amos_fl.files import whole_file

if TYPE_CHECKING:  # torch takes seconds to import, and reading a run folder does not need it
    from torch import nn

Arrays = dict[str, np.ndarray]
MEAN, VARIANCE, COUNT = "running_mean", "running_var", "num_batches_tracked"


def arrays_of(network: "nn.Module") -> Arrays:
    """The network's state as arrays that share its memory (on a CPU)."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()}


def given_up_by(network: "nn.Module") -> Iterator[tuple[str, np.ndarray]]:
    """Yield the network's arrays one at a time, releasing the memory of each when the next is requested.

    Use when copying a network that is no longer needed: network and copy never both exist in full. The network's values
    are lost (on Linux its larger arrays read as zeros) until others are loaded into it.
    """
    alone = _with_memory_of_their_own(network)
    for name, array in arrays_of(network).items():
        yield name, array
        if name in alone:  # memory that two names share is read a second time
            _give_pages_back(array)


def _with_memory_of_their_own(network: "nn.Module") -> set[str]:
    """The names of the arrays whose memory no other name shares."""
    storages = {name: tensor.untyped_storage().data_ptr() for name, tensor in network.state_dict().items()}
    owners = Counter(storages.values())
    return {name for name, storage in storages.items() if owners[storage] == 1}


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


def handed_over(network: "nn.Module") -> Iterator[tuple[str, np.ndarray]]:
    """Yield the network's arrays with the memory that they are in (on a CPU), so that nothing is copied.

    The network must not be used until others are loaded into it: `load_arrays` takes the memory of an array back if
    nobody holds the array any more, and gives the network other memory in its place if somebody does.
    """
    alone, lent = _with_memory_of_their_own(network), _LENT.setdefault(network, {})
    for name, tensor in network.state_dict().items():
        array = tensor.detach().cpu().numpy()
        if tensor.device.type == "cpu":
            if name in alone:
                lent[name] = ref(array)
            else:
                array = array.copy()
        yield name, array


def _take_back(network: "nn.Module") -> None:
    """Let the network own all of its memory again, without a change to arrays that were handed over and still exist."""
    import torch

    lent = _LENT.pop(network, {})
    if kept := [name for name, array in lent.items() if array() is not None]:
        state = network.state_dict(keep_vars=True)
        for name in kept:
            state[name].data = torch.empty_like(state[name].data)


_LENT: "WeakKeyDictionary[nn.Module, dict[str, ref[np.ndarray]]]" = WeakKeyDictionary()
"""By network the arrays that were handed over; a view of one keeps it alive."""


LEAST_GIVEN_BACK = 8 << 20
"""Smaller arrays keep their memory: filling it again, page by page, takes longer than copying into it."""


BLOCK = 1 << 18
"""Numbers in a block: a megabyte in single precision."""


def blocks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield views of equally sized arrays block by block, so that computing with them needs little memory."""
    flat = [array.reshape(-1) for array in arrays]
    return (tuple(array[start : start + BLOCK] for array in flat) for start in range(0, flat[0].size, BLOCK))


def is_statistic(name: str) -> bool:
    """Whether an array is a running statistic of a normalisation layer, not a trained weight."""
    return name.rpartition(".")[2] in (MEAN, VARIANCE, COUNT)


def is_trained(name: str, array: np.ndarray) -> bool:
    """Whether an array is a trained weight, not a statistic or a table of integers."""
    return array.dtype.kind == "f" and not is_statistic(name)


def trained_norm(arrays: Mapping[str, np.ndarray]) -> float:
    """The Euclidean norm of the trained weights, summed in double precision and piece by piece."""
    squares = 0.0
    for name, array in arrays.items():
        if not is_statistic(name):
            for (block,) in blocks(array):
                block = block.astype(np.float64)
                squares += float(np.dot(block, block))
    return math.sqrt(squares)


def relative_distance(
    arrays: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray], norm: float | None = None
) -> float:
    """The Euclidean norm of what changed in the trained weights, relative to their norm before (1 at least).

    It is summed in double precision and piece by piece; `norm` is that of the weights before, if it is known.
    """
    moved = 0.0
    for name, old in before.items():
        if is_statistic(name):
            continue
        for new_block, old_block in blocks(arrays[name], old):
            change = np.subtract(new_block, old_block, dtype=np.float64)
            moved += float(np.dot(change, change))
    return math.sqrt(moved) / max(trained_norm(before) if norm is None else norm, 1.0)


def load_arrays(network: "nn.Module", arrays: Mapping[str, np.ndarray]) -> None:
    """Copy `arrays` into the network.

    Raises:
        AmosError: an array is missing, unknown, or has another shape.
    """
    import torch

    _take_back(network)
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


def fingerprint_of(arrays: Mapping[str, np.ndarray]) -> str:
    """A checksum of weights that differs when their bits do, in a tenth of the time of a full hash.

    Every 32 kB are summed as 64-bit integers, and the sums are hashed with the arrays' names, dtypes and shapes. It
    finds accidental differences, but does not resist deliberate ones.

    >>> ones, more = {"a": np.ones(3, np.float32)}, {"a": np.array([1, 1, 1.0000001], np.float32)}
    >>> fingerprint_of(ones) == fingerprint_of(dict(ones)), fingerprint_of(ones) == fingerprint_of(more)
    (True, False)
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        data = np.asarray(array, order="C").reshape(-1).view(np.uint8)
        whole = data.size // (8 * _WORDS) * (8 * _WORDS)
        digest.update(data[:whole].view(np.uint64).reshape(-1, _WORDS).sum(axis=1, dtype=np.uint64).tobytes())
        digest.update(data[whole:].tobytes())
    return digest.hexdigest()[:16]


_WORDS = 4096
ABOUT = "amos-fl"
"""The single key of a file's metadata, holding JSON: safetensors would write several keys in random order."""


def save_arrays(arrays: Mapping[str, np.ndarray], path: Path, about: Mapping[str, str | int] | None = None) -> None:
    """Write a safetensors file, whole or not at all, with a checksum of its content.

    Raises:
        OSError: the disk is full, or not writable.
    """
    said = json.dumps({**(about or {}), "fingerprint": fingerprint_of(arrays)}, sort_keys=True)
    with whole_file(path) as beside:
        try:
            save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, beside, {ABOUT: said})
        except SafetensorError as error:
            if found := re.search(r"\(os error (\d+)\)", str(error)):  # as Rust writes the system's errors
                number = int(found[1])
                raise OSError(number, os.strerror(number), str(path)) from None
            raise


def read_arrays(path: Path, remedy: str = "copy it again from where it came from") -> Arrays:
    """Read a safetensors file. `remedy` says what to do about a damaged one.

    Raises:
        AmosError: no such file, or it is damaged.
    """
    try:
        with safe_open(path, "np") as file:
            arrays = file.get_tensors()
            about = file.metadata() or {}
        expected = json.loads(about[ABOUT])["fingerprint"] if ABOUT in about else None
    except FileNotFoundError:
        raise AmosError(f"{path}: no such weights; {remedy}") from None
    except IsADirectoryError:
        raise AmosError(f"{path}: is a folder, where a file of weights was expected; {remedy}") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError) as error:
        why = " ".join(str(error).split())[:200]
        raise AmosError(f"{path}: is not a complete safetensors file ({why}); {remedy}") from None
    if expected is not None and expected != fingerprint_of(arrays):
        raise AmosError(f"{path}: its weights are not those that were written (a check value differs); {remedy}")
    return arrays
