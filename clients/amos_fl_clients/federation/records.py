"""Convert weights to Flower's records, with one Flower array for each, or all packed into one.

On one machine an array travels as it is, and is serialised for nobody but Flower's own code that asks for its bytes.
Flower sends every array as separate objects, each with requests and transactions at the SuperLink. A network has a
hundred arrays, most of them small, so between machines they travel packed: the values one after another, and a layout
that describes them. Packed or not, `views_of` reads them without a copy.
"""

import io
import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord

LAYOUT, VALUES = "layout", "values"
"""The two arrays of bytes in a packed record."""
DTYPES = (
    "bool",
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
)
MOST_AXES = 32
MOST_ON_A_SIDE = 1 << 40
MOST_LAYOUT_BYTES = 4 << 20
"""The longest layout of a packed record: fifty times what the network with the most arrays needs."""
Layout = Iterable[tuple[str, str, tuple[int, ...]]]
"""Name, dtype and shape of each array, in their order."""


class BadUpdate(Exception):  # noqa: N818 - said of a site's reply, and caught there
    """An update must not be aggregated, and why."""


class HeldArray(Array):
    """An array as Flower knows it, whose bytes are made only for those who ask for them.

    Within a process, and from one to the next on the same machine, nobody does.
    """

    def __init__(self, values: np.ndarray) -> None:
        """Hold `values`, in C order, which nothing else may change from now on."""
        self.dtype, self.shape, self.stype = str(values.dtype), values.shape, "numpy.ndarray"
        self.__dict__["values"] = values

    @property
    def values(self) -> np.ndarray:
        """The values, read-only and without a copy."""
        view = self.__dict__["values"].view()
        view.flags.writeable = False
        return view

    @property
    def data(self) -> bytes:  # pyright: ignore[reportIncompatibleVariableOverride] - Flower's is set once and kept
        """The serialised array, as `Array(values)` would hold it; made once, so that all who asked share it."""
        if "bytes" not in self.__dict__:
            self.__dict__["bytes"] = _bytes_of(self.__dict__["values"])
        return self.__dict__["bytes"]

    def numpy(self) -> np.ndarray:
        """A copy of the values."""
        return self.__dict__["values"].copy()


def record_of(arrays: Iterable[tuple[str, np.ndarray]]) -> ArrayRecord:
    """Weights as Flower's arrays (copied), one at a time."""
    return record_holding((name, np.array(array, order="C")) for name, array in arrays)


def record_holding(arrays: Iterable[tuple[str, np.ndarray]]) -> ArrayRecord:
    """Weights as Flower's arrays, without a copy where they are in C order: nothing may change them from now on."""
    record = ArrayRecord()
    for name, array in arrays:  # given them at once, it would make others, of their bytes
        record[name] = HeldArray(np.asarray(array, order="C"))
    return record


def size_of(array: Array) -> int:
    """The size of a serialised array in bytes."""
    if isinstance(array, HeldArray):
        return len(_header(array.values.dtype, array.values.shape)) + array.values.nbytes
    return len(array.data)


def identity_of(array: Array) -> int:
    """A number that two arrays share, while both exist, if they are the same bytes in memory."""
    return id(array.__dict__["values"] if isinstance(array, HeldArray) else array.data)


def _serialised(array: np.ndarray) -> Array:
    """The result of `Array(array)`, without its second copy of the values."""
    return Array(dtype=str(array.dtype), shape=array.shape, stype="numpy.ndarray", data=_bytes_of(array))


def _bytes_of(array: np.ndarray) -> bytes:
    return b"".join([_header(array.dtype, array.shape), array.reshape(-1).view(np.uint8).data])


@lru_cache(maxsize=4096)  # of the few hundred arrays of a network, at every site and in every round
def _header(dtype: np.dtype, shape: tuple[int, ...], *, fortran_order: bool = False) -> bytes:
    """The head of a .npy file."""
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": fortran_order, "shape": shape}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue()


def layout_bytes(layout: Layout) -> bytes:
    """A layout in its only serialised form, so that it cannot carry anything else."""
    return json.dumps([[name, dtype, list(shape)] for name, dtype, shape in layout], separators=(",", ":")).encode()


def packed(arrays: Iterable[tuple[str, np.ndarray]]) -> ArrayRecord:
    """Pack weights into one array of bytes (copied, one at a time), with their layout in another."""
    blank = _header(np.dtype(np.uint8), (0,))
    values, layout = io.BytesIO(), []
    values.write(blank)
    for name, array in arrays:
        array = np.asarray(array, order="C")
        layout.append((name, str(array.dtype), array.shape))
        values.write(array.reshape(-1).view(np.uint8).data)
    size = values.tell() - len(blank)
    header = _header(np.dtype(np.uint8), (size,))
    if len(header) != len(blank):
        raise OverflowError("these weights are too many to be packed")
    values.seek(0)
    values.write(header)
    data = Array(dtype="uint8", shape=(size,), stype="numpy.ndarray", data=values.getvalue())
    return ArrayRecord({LAYOUT: _serialised(np.frombuffer(layout_bytes(layout), np.uint8)), VALUES: data})


def is_packed(record: ArrayRecord) -> bool:
    """Whether a record holds packed weights."""
    return set(record) == {LAYOUT, VALUES}


def view_of(array: Array) -> np.ndarray:
    """The values of a serialised array, read-only and without a copy (`Array.numpy` makes one).

    Its bytes must be exactly the serialisation of an array of the stated dtype and shape, so that nothing from another
    machine is interpreted, and it holds nothing but the values.

    Raises:
        BadUpdate: they are not.
    """
    if isinstance(array, HeldArray):  # which no message from another machine becomes
        return array.values
    try:
        if type(array.data) is not bytes or type(array.shape) not in (tuple, list):
            raise ValueError("it is not an array")
        dtype, shape = _dtype_named(array.dtype), _shape(list(array.shape))
        if array.stype != "numpy.ndarray":
            raise ValueError("it is serialised in another way")
        for order in ("C", "F"):
            header = _header(dtype, shape, fortran_order=order == "F")
            if array.data.startswith(header):
                if len(array.data) != len(header) + prod(shape) * dtype.itemsize:
                    raise ValueError("its size differs from its header")
                return np.frombuffer(array.data, dtype, offset=len(header)).reshape(shape, order=order)
        raise ValueError("its header and its description differ")
    except (ValueError, OverflowError) as error:
        raise BadUpdate(f"an array cannot be read: {error}") from None


def _dtype_named(name: object) -> np.dtype:
    if type(name) is not str or name not in DTYPES:
        raise ValueError("its dtype is not one of plain numbers")
    return np.dtype(name)


def _shape(sides: object) -> tuple[int, ...]:
    if (
        type(sides) is not list
        or len(sides) > MOST_AXES
        or not all(type(s) is int and 0 <= s <= MOST_ON_A_SIDE for s in sides)
    ):
        raise ValueError("its shape is invalid")
    return tuple(sides)


def views_of(record: ArrayRecord) -> dict[str, np.ndarray]:
    """The arrays of a record, read-only and without a copy.

    Raises:
        BadUpdate: they cannot be read.
    """
    if not is_packed(record):
        return {name: view_of(array) for name, array in record.items()}
    layout, values = view_of(record[LAYOUT]), view_of(record[VALUES])
    try:
        if values.dtype != np.uint8 or values.ndim != 1:
            raise ValueError("they are not bytes")
        if layout.nbytes > MOST_LAYOUT_BYTES:
            raise ValueError("their layout is too long")
        return dict(_parts(values, json.loads(layout.tobytes())))
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise BadUpdate(f"its packed weights cannot be read: {error}") from None


def _parts(values: np.ndarray, layout: Any) -> Iterator[tuple[str, np.ndarray]]:
    at, seen = 0, set()
    for name, kind, sides in layout:
        dtype, shape = _dtype_named(kind), _shape(sides)
        if type(name) is not str or name in seen:
            raise ValueError("their layout is invalid")
        seen.add(name)
        size = prod(shape) * dtype.itemsize
        if at + size > values.size:
            raise ValueError("they are shorter than their layout says")
        part = values[at : at + size].view(dtype).reshape(shape)
        yield name, part if part.flags.aligned else part.copy()  # PyTorch accepts only aligned ones
        at += size
    if at != values.size:
        raise ValueError("they are longer than their layout says")
