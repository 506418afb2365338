"""Parsing: what a document says, and everything that is not a document."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.attestation import AttestationDocument, parse
from enclave.attestation.document import MAX_DOCUMENT
from enclave.errors import DecodingError
from tests.enclave.nitro import NOW, Document

GOOD = Document(payload={"public_key": b"k", "user_data": b"", "nonce": b"n" * 1024})


def _wrap(*parts: object) -> bytes:
    return cbor2.dumps(list(parts))


def test_what_it_says() -> None:
    document = parse(GOOD.encode())
    assert document.module_id == "i-0123456789abcdef0-enc0123456789abcdef"
    assert document.timestamp == NOW
    assert document.digest == "SHA384"
    assert document.pcrs == {index: bytes([index]) * 48 for index in range(16)}
    assert document.nitrotpm_pcrs == {}
    assert [*document.cabundle, document.certificate] == GOOD.certificates
    assert document.public_key == b"k"
    assert document.user_data == b""
    assert document.nonce == b"n" * 1024
    assert not document.is_debug


def test_both_encodings_of_the_payload_map_and_the_tag() -> None:
    raw = GOOD.encode()
    plain = parse(raw)
    definite = plain.payload
    assert definite[0] == 0xA9
    indefinite = b"\xbf" + definite[1:] + b"\xff"
    other = parse(_wrap(GOOD.protected, {}, indefinite, GOOD.sign(indefinite)))
    tagged = parse(b"\xd2" + raw)
    assert tagged.raw == b"\xd2" + raw
    for document in (other, tagged):
        assert document.pcrs == plain.pcrs
        assert document.module_id == plain.module_id


def test_milliseconds_are_kept() -> None:
    document = parse(Document(payload={"timestamp": 1766650846577}).encode())
    assert document.timestamp == datetime(2025, 12, 25, 8, 20, 46, 577000, tzinfo=UTC)


def test_fields_that_need_not_be_there_and_fields_nobody_knows() -> None:
    payload = GOOD.payload | {"new": [1]}
    for name in ("public_key", "user_data", "nonce"):
        del payload[name]
    document = parse(_wrap(GOOD.protected, {}, cbor2.dumps(payload), bytes(96)))
    assert document.public_key is document.user_data is document.nonce is None


@pytest.mark.parametrize(
    ("pcrs", "is_debug"),
    [
        ({0: bytes(48), 1: bytes(48), 2: bytes(48), 3: b"x" * 48}, True),
        ({3: b"x" * 48}, True),
        ({0: bytes(48), 1: bytes(48), 2: bytes(47) + b"x"}, False),
    ],
)
def test_debug_mode(pcrs: dict[int, bytes], is_debug: bool) -> None:
    assert parse(Document(payload={"pcrs": pcrs}).encode()).is_debug is is_debug


def test_the_repr_is_short() -> None:
    assert len(repr(parse(Document().encode()))) < 400


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"module_id": ""}, "module_id"),
        ({"module_id": b"i-0"}, "module_id"),
        ({"module_id": "i-0\n"}, "module_id"),
        ({"module_id": None}, "module_id"),
        ({"digest": "SHA256"}, "digest"),
        ({"timestamp": -1}, "timestamp"),
        ({"timestamp": True}, "timestamp"),
        ({"timestamp": 253_402_300_800_000}, "timestamp"),
        ({"timestamp": 2**64 - 1}, "timestamp"),
        ({"timestamp": 1.5}, "float"),
        ({"timestamp": NOW}, "tag"),
        ({"timestamp": 2**64}, "tag"),
        ({"pcrs": {}}, "pcrs"),
        ({"pcrs": [bytes(48)]}, "pcrs"),
        ({"pcrs": {32: bytes(48)}}, "pcrs"),
        ({"pcrs": {"0": bytes(48)}}, "pcrs"),
        ({"pcrs": {0: bytes(47)}}, "pcrs"),
        ({"pcrs": {0: bytes(49)}}, "pcrs"),
        ({"pcrs": {-1: bytes(48)}}, "a map key"),
        ({"pcrs": {0: "0" * 48}}, "pcrs"),
        ({"certificate": b""}, "certificate"),
        ({"certificate": bytes(1025)}, "certificate"),
        ({"certificate": None}, "certificate"),
        ({"cabundle": []}, "cabundle"),
        ({"cabundle": [b"x"] * 11}, "cabundle"),
        ({"cabundle": [b"x", b""]}, "cabundle"),
        ({"cabundle": [b"x", bytes(1025)]}, "cabundle"),
        ({"cabundle": b"x"}, "cabundle"),
        ({"public_key": bytes(1025)}, "public_key"),
        ({"user_data": "text"}, "user_data"),
        ({"nonce": 0}, "nonce"),
        ({"new": [[[[[0]]]]]}, "deep"),
    ],
)
def test_payloads_that_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(DecodingError, match=reason) as caught:
        parse(Document(payload=change).encode())
    assert caught.value.format == "attestation document"


def test_what_is_exactly_at_a_limit_is_accepted() -> None:
    change = {"pcrs": {31: bytes(48)}, "cabundle": [bytes(1024)] * 10, "nonce": bytes(1024)}
    document = parse(Document(payload=change).encode())
    assert document.pcrs == {31: bytes(48)}
    assert document.cabundle == (bytes(1024),) * 10
    with pytest.raises(DecodingError, match="malformed") as caught:
        parse(bytes(MAX_DOCUMENT))
    assert "bytes, not" not in str(caught.value)


def test_an_instance_has_24_pcrs() -> None:
    payload = dict(GOOD.payload)
    del payload["pcrs"]

    def of_instance(index: int) -> AttestationDocument:
        pcrs = {"nitrotpm_pcrs": {index: bytes(48)}}
        return parse(_wrap(GOOD.protected, {}, cbor2.dumps(payload | pcrs), bytes(96)))

    assert of_instance(23).nitrotpm_pcrs == {23: bytes(48)}
    assert of_instance(23).pcrs == {}
    with pytest.raises(DecodingError, match="nitrotpm_pcrs"):
        of_instance(24)


def test_an_error_says_where_it_is() -> None:
    cut = GOOD.encode()[:-1]
    for raw, offset in ((cut, len(cut)), (b"\xd2" + cut, len(cut) + 1)):
        with pytest.raises(DecodingError, match="cut short") as caught:
            parse(raw)
        assert caught.value.format == "attestation document"
        assert caught.value.offset is not None
        # Where the signature begins, whose end is missing.
        assert caught.value.offset == offset - 95 - 2
    raw = _wrap(GOOD.protected, {}, b"\xff", b"\xff" * 96)
    with pytest.raises(DecodingError) as caught:
        parse(raw)
    assert caught.value.offset == raw.index(b"\xff")


PAYLOAD = cbor2.dumps(GOOD.payload)
PROTECTED = GOOD.protected


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "0 bytes"),
        (bytes(MAX_DOCUMENT + 1), "bytes, not"),
        (GOOD.encode() + b"\0", "bytes follow"),
        (GOOD.encode()[:-1], "cut short"),
        (b"\xd8\x12" + GOOD.encode(), "a tag"),
        (b"\xd2\xd2" + GOOD.encode(), "a tag"),
        (b"\xd1" + GOOD.encode(), "a tag"),
        (cbor2.dumps({}), "COSE_Sign1"),
        (_wrap(PROTECTED, {}, PAYLOAD), "COSE_Sign1"),
        (_wrap(PROTECTED, {}, PAYLOAD, bytes(96), b""), "COSE_Sign1"),
        (_wrap({1: -35}, {}, PAYLOAD, bytes(96)), "COSE_Sign1"),
        (_wrap(PROTECTED, {}, None, bytes(96)), "COSE_Sign1"),
        (_wrap(b"", {}, PAYLOAD, bytes(96)), "protected header"),
        (_wrap(b"", {1: 35}, PAYLOAD, bytes(96)), "protected header"),
        (_wrap(bytes.fromhex("a10126"), {}, PAYLOAD, bytes(96)), "protected header"),
        (_wrap(bytes.fromhex("a201382204414b"), {}, PAYLOAD, bytes(96)), "protected header"),
        (_wrap(PROTECTED, {4: b"kid"}, PAYLOAD, bytes(96)), "unprotected header"),
        (_wrap(PROTECTED, {}, PAYLOAD, bytes(95)), "signature is 95"),
        (_wrap(PROTECTED, {}, b"", bytes(96)), "cut short"),
        (_wrap(PROTECTED, {}, cbor2.dumps([1]), bytes(96)), "not a map"),
        (_wrap(PROTECTED, {}, PAYLOAD + b"\0", bytes(96)), "bytes follow"),
    ],
)
def test_documents_that_are_none(raw: bytes, reason: str) -> None:
    with pytest.raises(DecodingError, match=reason):
        parse(raw)


def test_an_unsigned_document_of_qemu() -> None:
    """QEMU's own NSM writes algorithm -1 and 64 zero bytes."""
    with pytest.raises(DecodingError, match="protected header is a10120"):
        parse(_wrap(bytes.fromhex("a10120"), {}, PAYLOAD, bytes(64)))


def test_a_key_that_comes_twice_is_refused_where_it_stands() -> None:
    again = cbor2.dumps("nonce") + b"\xf6"
    payload = bytes([PAYLOAD[0] + 1]) + PAYLOAD[1:] + again
    raw = _wrap(PROTECTED, {}, payload, bytes(96))
    with pytest.raises(DecodingError, match="twice") as caught:
        parse(raw)
    assert caught.value.offset == raw.index(again)
    with pytest.raises(DecodingError, match="twice") as caught:
        parse(b"\xd2" + raw)
    assert caught.value.offset == raw.index(again) + 1


@given(
    payload=st.binary(max_size=100)
    | st.dictionaries(
        st.sampled_from([*GOOD.payload, "other"]),
        st.none() | st.integers() | st.binary() | st.text() | st.floats() | st.lists(st.binary()),
    ).map(lambda change: cbor2.dumps(GOOD.payload | change)),
    signature=st.binary(min_size=95, max_size=97),
    tail=st.binary(max_size=2),
)
def test_whatever_the_bytes_only_decoding_errors_leave(
    payload: bytes, signature: bytes, tail: bytes
) -> None:
    for raw in (payload, _wrap(PROTECTED, {}, payload, signature) + tail):
        try:
            document = parse(raw)
        except DecodingError:
            continue
        assert isinstance(document, AttestationDocument)
