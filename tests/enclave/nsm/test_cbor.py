"""The walk before cbor2: what is refused, where, and that cbor2 agrees with what is let through."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enclave import cbor
from enclave.errors import DecodingError

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("wire", "value"),
    [
        ("00", 0),
        ("1bffffffffffffffff", 2**64 - 1),
        ("3822", -35),
        ("40", b""),
        ("6161", "a"),
        ("f6", None),
        ("83f4f501", [False, True, 1]),
        ("9f01ff", [1]),
        ("a201020304", {1: 2, 3: 4}),
        ("bf616101ff", {"a": 1}),
        ("818181818101"[2:], [[[[1]]]]),
    ],
)
def test_the_subset(wire: str, value: object) -> None:
    assert cbor.decode(bytes.fromhex(wire), format="x") == value


@pytest.mark.parametrize(
    ("wire", "reason", "at"),
    [
        ("", "cut short", 0),
        ("0000", "bytes follow", 1),
        ("19ff", "cut short", 1),
        ("43616263"[:-2], "within a string", 0),
        ("5bffffffffffffffff", "within a string", 0),
        ("8201", "cut short", 2),
        ("9bffffffffffffffff", "cut short", 9),
        ("9f01", "cut short", 2),
        ("5f4161ff", "indefinite", 0),
        ("7f6161ff", "a string of indefinite length", 0),
        ("a1818181818101", "neither a number nor text", 1),
        ("c11a5f5e1000", "a tag", 0),
        ("81d81c80", "a tag", 1),
        ("f93c00", "a float", 0),
        ("f7", "unknown simple", 0),
        ("f814", "unknown simple", 0),
        ("ff", "a break", 0),
        ("82ff00", "a break", 1),
        ("bf01ff", "a break", 2),
        ("1c", "reserved", 0),
        ("a2616101616102", "twice", 4),
        ("a20501180502", "twice", 3),
        ("a18001", "neither a number nor text", 1),
        ("a14001", "neither a number nor text", 1),
        ("818181818101", "containers deep", 4),
    ],
)
def test_refused_with_the_offset(wire: str, reason: str, at: int) -> None:
    with pytest.raises(DecodingError, match=reason) as caught:
        cbor.decode(bytes.fromhex(wire), format="x", offset=100)
    assert caught.value.format == "x"
    assert caught.value.offset == 100 + at


def test_offsets_count_from_the_start_if_nothing_is_said() -> None:
    with pytest.raises(DecodingError) as caught:
        cbor.decode(b"", format="x")
    assert caught.value.offset == 0


def test_text_must_be_utf8() -> None:
    with pytest.raises(DecodingError, match="UTF-8"):
        cbor.decode(b"\x62\xc3\x28", format="x")


@given(st.binary(max_size=300))
@example(b"\xd8\x23\x61(")  # a regular expression, through a tag
@example(b"\x9f" * 300)
def test_whatever_the_bytes_only_decoding_errors_leave(data: bytes) -> None:
    try:
        value = cbor.decode(data, format="x")
    except DecodingError:
        return
    # Encoding is canonical where the input need not be: compare what it means.
    assert cbor2.loads(cbor2.dumps(value)) == value


@pytest.mark.parametrize("rest", [b"", b"\x00", b"\xff" * 40])
@pytest.mark.parametrize(
    "item", [0, 1000, b"bytes", "text", [1, [2, [3]]], {"a": b"", "b": [None, True]}]
)
def test_the_first_item_is_told_from_what_follows(item: object, rest: bytes) -> None:
    wire = cbor2.dumps(item)
    assert cbor.first_item(wire + rest, format="x") == wire


@pytest.mark.parametrize(
    ("wire", "reason", "at"),
    [
        ("", "cut short", 0),
        ("8201", "cut short", 2),
        ("818181818101", "containers deep", 4),
        ("c100", "a tag", 0),
    ],
)
def test_no_first_item(wire: str, reason: str, at: int) -> None:
    with pytest.raises(DecodingError, match=reason) as caught:
        cbor.first_item(bytes.fromhex(wire), format="x")
    assert (caught.value.format, caught.value.offset) == ("x", at)


# Made in the test, not here: `make mutants` changes what is called while a test runs.
SHAPES: list[tuple[Callable[[], cbor.Shape], list[object], list[object], str]] = [
    (
        lambda: cbor.number(7),
        [0, 1, 6, 7],
        [-1, 8, True, False, 1.0, "1", None],
        "a number in 0..7",
    ),
    (
        lambda: cbor.data(2, 4),
        [b"12", b"123", b"1234"],
        [b"", b"1", b"12345", "12", bytearray(b"12"), None, 3],
        "2..4 bytes",
    ),
    (lambda: cbor.flag, [True, False], [0, 1, None, "true"], "true or false"),
    (
        lambda: cbor.text,
        ["x", "é", "x" * 256],
        ["", "x" * 257, "a\nb", "\x1b", b"x", None],
        "1..256 printable characters",
    ),
]


@pytest.mark.parametrize(("make", "fitting", "others", "message"), SHAPES)
def test_a_shape_takes_its_limits_and_nothing_beyond(
    make: Callable[[], cbor.Shape], fitting: list[object], others: list[object], message: str
) -> None:
    shape = make()
    for value in fitting:
        assert shape(value) is value
    for value in others:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            shape(value)


def test_fields_are_taken_by_their_shapes() -> None:
    shapes = {"a": cbor.number(1), "b": cbor.flag}
    assert cbor.take({"a": 1, "b": True, "c": "left alone"}, shapes) == {"a": 1, "b": True}
    with pytest.raises(ValueError, match=r"^b is not true or false$"):
        cbor.take({"a": 1}, shapes)
    with pytest.raises(ValueError, match=r"^a is not a number in 0\.\.1$"):
        cbor.take({"a": 2, "b": True}, shapes)
