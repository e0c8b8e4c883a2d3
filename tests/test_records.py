"""Weights in Flower's records: packed and unpacked they are the same, and what is no weights is refused."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hostile_replies import of_bytes
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from amos_fl_clients.federation.records import (
    LAYOUT,
    VALUES,
    BadUpdate,
    is_packed,
    layout_bytes,
    packed,
    record_of,
    view_of,
    views_of,
)

DTYPES = st.sampled_from(["float32", "float16", "float64", "int64", "uint8", "bool"])
ARRAYS = st.dictionaries(
    st.text(min_size=1, max_size=8),
    DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))),
    max_size=6,
)


@given(ARRAYS)
def test_packed_weights_are_the_ones_that_were_packed(arrays: dict[str, np.ndarray]) -> None:
    record = packed(arrays.items())
    assert is_packed(record)
    assert not is_packed(record_of(arrays.items()))
    for found in (views_of(record), views_of(record_of(arrays.items()))):
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            assert found[name].tobytes() == array.tobytes()
            assert found[name].flags.aligned


def test_what_flower_reads_of_a_packed_record_is_what_was_written() -> None:
    record = packed([("a", np.arange(3, dtype=np.float32)), ("b", np.ones((2, 2), np.float32))])
    assert record[VALUES].numpy().view(np.float32).tolist() == [0, 1, 2, 1, 1, 1, 1]
    assert bytes(record[LAYOUT].numpy()) == b'[["a","float32",[3]],["b","float32",[2,2]]]'
    again = ArrayRecord.inflate(record.deflate(), children=record.children)
    assert {name: array.data for name, array in again.items()} == {name: array.data for name, array in record.items()}


VALUES_OF_3 = np.arange(3, dtype=np.float32).tobytes()
GOOD = layout_bytes([("a", "float32", (3,))])


@pytest.mark.parametrize(
    ("layout", "values", "why"),
    [
        (layout_bytes([("a", "float32", (4,))]), of_bytes(VALUES_OF_3), "shorter than their layout"),
        (layout_bytes([("a", "float32", (2,))]), of_bytes(VALUES_OF_3), "longer than their layout"),
        (layout_bytes([("a", "float32", (1,)), ("a", "float32", (2,))]), of_bytes(VALUES_OF_3), "layout is invalid"),
        *(
            (b'[["a",%b,[3]]]' % kind, of_bytes(VALUES_OF_3), "dtype is not one of plain numbers")
            for kind in (
                b'"object"',
                b'"float99"',
                b'","',
                b'"<f4,("',
                b"null",
                b"7",
                b'[["a","f4"]]',
                b'{"names":["a"]}',
            )
        ),
        *(
            (b'[["a","float32",%b]]' % sides, of_bytes(VALUES_OF_3), "shape is invalid")
            for sides in (b"[-3]", b"[3.0]", b"[true]", b'""', b"3", b"null", b"[%b]" % b",".join([b"1"] * 33))
        ),
        (b'[["a","float32"]]', of_bytes(VALUES_OF_3), "cannot be read"),
        (b"[" * 100_000, of_bytes(VALUES_OF_3), "cannot be read"),
        (b"\xff", of_bytes(VALUES_OF_3), "cannot be read"),
        (b"7", of_bytes(VALUES_OF_3), "cannot be read"),
        (GOOD, Array(np.arange(3, dtype=np.float32)), "they are not bytes"),
    ],
)
def test_packed_weights_that_are_none_are_refused(layout: bytes, values: Array, why: str) -> None:
    assert views_of(ArrayRecord({LAYOUT: of_bytes(GOOD), VALUES: of_bytes(VALUES_OF_3)}))["a"].tolist() == [0, 1, 2]
    with pytest.raises(BadUpdate, match=why):
        views_of(ArrayRecord({LAYOUT: of_bytes(layout), VALUES: values}))


def with_header(header: bytes) -> Array:
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + VALUES_OF_3
    return Array(dtype="float32", shape=(3,), stype="numpy.ndarray", data=data)


def test_of_a_header_nothing_is_interpreted() -> None:
    """NumPy's own reading of headers raises whatever Python's parser does, and passes comments over."""
    good = record_of([("a", np.arange(3, dtype=np.float32))])["a"]
    assert view_of(good).tolist() == [0, 1, 2]
    header = good.data[10:-12]
    assert view_of(with_header(header)).tolist() == [0, 1, 2]
    for other in (
        header.replace(b"<f4", b","),
        b"(((",
        b"-" * 9000 + b"1",
        b"{1:2,'a':3}",
        header.rstrip() + b"# Jane Doe, born 1960" + b" " * 30 + b"\n",
        header.replace(b"<f4", b">f4"),
        header.replace(b"(3,)", b"(2,)"),
    ):
        with pytest.raises(BadUpdate, match="its header and its description differ"):
            view_of(with_header(other))
    for told in (good.data + b"a voxel", good.data[:-1]):
        with pytest.raises(BadUpdate, match="size differs from its header"):
            view_of(Array(dtype="float32", shape=(3,), stype="numpy.ndarray", data=told))


def test_an_array_that_flower_itself_has_serialised_is_read_in_either_order() -> None:
    for values in (np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array(2.5)):
        assert np.array_equal(view_of(Array(values)), values)
