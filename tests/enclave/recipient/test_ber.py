"""The cursor over BER, header by header: what it takes, and where it stops."""

from __future__ import annotations

import pytest

from enclave.errors import DecodingError
from enclave.recipient.ber import BerReader

OCTETS, SEQUENCE, INTEGER = 0x04, 0x30, 0x02


def reader(data: bytes) -> BerReader:
    return BerReader(data, "BER")


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"\x04\x01x", slice(2, 3)),
        (b"\x04\x00", slice(2, 2)),
        (b"\x04\x81\x00", slice(3, 3)),
        (b"\x04\x81\x01x", slice(3, 4)),
        (b"\x04\x84\x00\x00\x00\x01x", slice(6, 7)),
        (b"\x04\x82\x01\x02" + bytes(258), slice(4, 262)),
    ],
)
def test_every_form_of_a_length(data: bytes, where: slice) -> None:
    ber = reader(data)
    assert ber.primitive(OCTETS, "value") == where
    ber.finish()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "value is missing (at byte 0)"),
        (b"\x04", "value is missing (at byte 0)"),
        (b"\x02\x01x", "value has tag 0x02, not 0x04 (at byte 0)"),
        (b"\x04\x01", "value is longer than what holds it (at byte 0)"),
        (b"\x04\x80x\x00\x00", "value has no length (at byte 0)"),
        (b"\x04\x81", "the length of value is cut or too long (at byte 0)"),
        (b"\x04\x82\x01", "the length of value is cut or too long (at byte 0)"),
        (b"\x04\x84\x00\x00\x00", "the length of value is cut or too long (at byte 0)"),
        (b"\x04\x85\x00\x00\x00\x00\x01x", "the length of value is cut or too long (at byte 0)"),
    ],
)
def test_a_header_that_is_none(data: bytes, message: str) -> None:
    with pytest.raises(DecodingError) as caught:
        reader(data).primitive(OCTETS, "value")
    assert str(caught.value) == f"malformed BER: {message}"


def test_an_element_is_never_longer_than_the_one_around_it() -> None:
    ber = reader(b"\x30\x03\x04\x02xy")
    ber.enter(SEQUENCE, "outer")
    with pytest.raises(DecodingError, match="inner is longer than what holds it") as caught:
        ber.primitive(OCTETS, "inner")
    assert caught.value.offset == 2


def test_a_length_is_never_read_beyond_the_element_around_it() -> None:
    ber = reader(b"\x30\x02\x04\x81\x01x")
    ber.enter(SEQUENCE, "outer")
    with pytest.raises(DecodingError, match="the length of inner is cut"):
        ber.primitive(OCTETS, "inner")


def test_another_value_is_reported_where_it_begins() -> None:
    ber = reader(b"\x02\x01\x02\x02\x01\x03")
    ber.expect(INTEGER, b"\x02", "version")
    with pytest.raises(DecodingError, match="version is not the one expected") as caught:
        ber.expect(INTEGER, b"\x02", "version")
    assert caught.value.offset == 3


def test_the_next_tag_is_that_of_the_innermost_element() -> None:
    ber = reader(b"\x30\x80\x30\x02\x05\x00\x02\x01\x07\x00\x00")
    assert ber.peek() == SEQUENCE
    ber.enter(SEQUENCE, "outer")
    assert ber.peek() == SEQUENCE
    ber.enter(SEQUENCE, "inner")
    assert ber.peek() == 0x05
    ber.expect(0x05, b"", "NULL")
    assert ber.peek() is None
    ber.leave("inner")
    assert ber.peek() == INTEGER
    ber.primitive(INTEGER, "number")
    assert ber.peek() is None
    ber.leave("outer")
    assert ber.peek() is None
    ber.finish()


def test_an_end_mark_is_two_bytes_whatever_follows() -> None:
    ber = reader(b"\x30\x07\x30\x80\x00\x00\x02\x01\x07")
    ber.enter(SEQUENCE, "outer")
    ber.enter(SEQUENCE, "inner")
    assert ber.peek() is None
    ber.leave("inner")
    assert ber.primitive(INTEGER, "number") == slice(8, 9)
    ber.leave("outer")
    ber.finish()


def test_what_is_missing_is_named() -> None:
    with pytest.raises(DecodingError, match="ContentInfo is missing"):
        reader(b"").enter(SEQUENCE, "ContentInfo")
    with pytest.raises(DecodingError, match="version is missing"):
        reader(b"").expect(INTEGER, b"\x02", "version")


def test_two_zeros_end_only_an_element_of_indefinite_length() -> None:
    assert reader(b"\x00\x00").peek() == 0
    ber = reader(b"\x30\x02\x00\x00")
    ber.enter(SEQUENCE, "outer")
    assert ber.peek() == 0


@pytest.mark.parametrize("data", [b"\x30\x80", b"\x30\x80\x00", b"\x30\x80\x05\x00"])
def test_an_element_without_its_end(data: bytes) -> None:
    ber = reader(data)
    ber.enter(SEQUENCE, "outer")
    with pytest.raises(DecodingError, match="outer goes on where it should end") as caught:
        ber.leave("outer")
    assert caught.value.offset == 2


def test_the_end_of_an_inner_element_is_not_beyond_the_outer_ones() -> None:
    ber = reader(b"\x30\x03\x30\x80\x00\x00")
    ber.enter(SEQUENCE, "outer")
    ber.enter(SEQUENCE, "inner")
    with pytest.raises(DecodingError, match="inner goes on"):
        ber.leave("inner")


def test_what_follows_is_refused() -> None:
    ber = reader(b"\x05\x00\x00")
    ber.expect(0x05, b"", "NULL")
    with pytest.raises(DecodingError, match="bytes follow its end") as caught:
        ber.finish()
    assert caught.value.offset == 2
