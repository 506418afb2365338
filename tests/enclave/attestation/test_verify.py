"""Verifying: one thing wrong, one failure; several things wrong, all of them listed."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import cbor2
import pytest

from enclave.attestation import parse
from enclave.attestation.verify import CLOCK_ALLOWANCE, verify
from enclave.errors import AttestationError, ConfigurationError
from tests.enclave.attestation.verifying import HOUR, SECOND, failures_of, verified
from tests.enclave.nitro import NOW, Document, key


def test_a_good_document() -> None:
    document = Document(payload={"nonce": b"n", "user_data": b"", "public_key": b"k"})
    proven = verified(
        document,
        pcrs={0: bytes(48), 1: b"\1" * 48},
        nonce=b"n",
        user_data=b"",
        public_key=b"k",
    )
    assert proven.nonce == b"n"
    assert proven.pcrs[1] == b"\1" * 48


def test_only_the_bytes_count() -> None:
    """A parsed document whose fields were changed afterwards proves what its bytes say."""
    document = Document(payload={"nonce": b"true"})
    forged = replace(parse(document.encode()), nonce=b"forged", timestamp=NOW + HOUR)
    proven = verify(
        forged, at=NOW, max_age=SECOND, pcrs=None, root_fingerprint=document.root_fingerprint
    )
    assert proven.nonce == b"true"


def test_every_failure_is_listed_at_once() -> None:
    document = Document(signer=key(0), payload={"nonce": b"other"})
    failures = failures_of(
        document,
        at=NOW + HOUR,
        pcrs={3: b"\1" * 48, 16: b"\2" * 48},
        nonce=b"mine",
        root_fingerprint=bytes(32),
    )
    assert [failure.split(":")[0] for failure in failures] == [
        "signature",
        "root",
        "timestamp",
        "PCR3",
        "PCR16",
        "nonce",
    ]
    assert failures[3] == f"PCR3: expected {'01' * 48}, got {'03' * 48}"
    assert "locked PCRs only" in failures[4]
    assert failures[5] == f"nonce: expected {b'mine'.hex()}, got {b'other'.hex()}"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("module_id", "i-0-enc0"),
        ("timestamp", int(NOW.timestamp() * 1000) + 1),
        ("pcrs", dict.fromkeys(range(16), b"\xff" * 48)),
        ("public_key", b"k"),
        ("user_data", b""),
        ("nonce", b"n"),
    ],
)
def test_a_field_changed_after_signing(field: str, value: object) -> None:
    document = Document()
    signature = document.sign(cbor2.dumps(document.payload))
    changed = cbor2.dumps(document.payload | {field: value})
    with pytest.raises(AttestationError) as caught:
        verify(
            cbor2.dumps([document.protected, {}, changed, signature]),
            at=NOW,
            max_age=None,
            pcrs=None,
            root_fingerprint=document.root_fingerprint,
        )
    assert caught.value.failures == (
        "signature: not made over this payload by the certificate's key",
    )


@pytest.mark.parametrize("signature", [bytes(96), b"\xff" * 96, bytes(95) + b"\1"])
def test_signatures_that_are_none(signature: bytes) -> None:
    document = Document()
    raw = document.encode()[:-96] + signature
    with pytest.raises(AttestationError, match="signature"):
        verify(raw, at=NOW, max_age=None, pcrs=None, root_fingerprint=document.root_fingerprint)


@pytest.mark.parametrize(("size", "shown"), [(64, "61" * 64), (65, "61" * 64 + "... (65 bytes)")])
def test_a_long_value_is_shown_in_part(size: int, shown: str) -> None:
    document = Document(payload={"nonce": b"a" * size})
    assert failures_of(document, nonce=b"b") == (f"nonce: expected 62, got {shown}",)


@pytest.mark.parametrize(
    ("at", "max_age", "failures"),
    [
        (NOW, timedelta(0), []),
        (NOW + 5 * SECOND, 5 * SECOND, []),
        (NOW + 6 * SECOND, 5 * SECOND, ["timestamp: 0:00:06 old, over 0:00:05"]),
        (NOW + HOUR, None, []),
        (NOW - CLOCK_ALLOWANCE, timedelta(0), []),
        (
            NOW - CLOCK_ALLOWANCE - SECOND,
            None,
            ["timestamp: 2025-06-01 12:00:00Z is in the future of 2025-06-01 11:58:59+0000"],
        ),
    ],
)
def test_age(at: datetime, max_age: timedelta | None, failures: list[str]) -> None:
    document = Document()
    if failures:
        assert list(failures_of(document, at=at, max_age=max_age)) == failures
    else:
        verified(document, at=at, max_age=max_age)


@pytest.mark.parametrize("form", [list, tuple, set, frozenset])
def test_one_of_several_values(form: Any) -> None:
    """As a rolling update needs: the old image's or the new one's."""
    old, new = b"\1" * 48, b"\x10" * 48
    pcrs = {index: bytes([index]) * 48 for index in range(16)}
    document = Document(payload={"pcrs": pcrs})
    assert verified(document, pcrs={1: form([new, old]), 2: [b"\2" * 48]}).pcrs[1] == old
    [failure] = failures_of(document, pcrs={1: form([new])})
    assert failure == f"PCR1: expected {new.hex()}, got {old.hex()}"
    [failure] = failures_of(document, pcrs={1: [new, bytes(48)]})
    assert failure == f"PCR1: expected {new.hex()} or {'00' * 48}, got {old.hex()}"


def test_debug_mode_is_refused_unless_allowed() -> None:
    document = Document(payload={"pcrs": {0: bytes(48), 1: bytes(48), 2: bytes(48)}})
    [failure] = failures_of(document, pcrs={0: bytes(48)})
    assert failure.startswith("debug mode")
    assert verified(document, allow_debug=True).is_debug


@pytest.mark.parametrize("name", ["nonce", "user_data", "public_key"])
def test_what_was_expected_is_not_there(name: str) -> None:
    assert failures_of(Document(), **{name: b""}) == (f"{name}: expected 0 bytes, got none",)
    long = Document(payload={name: b"\1" * 1024})
    [failure] = failures_of(long, **{name: b"\2"})
    assert failure == f"{name}: expected 02, got {'01' * 64}... (1024 bytes)"


@pytest.mark.parametrize(
    "impossible",
    [
        {"at": NOW.replace(tzinfo=None)},
        {"platform": "sandbox"},
        {"platform": "instance", "pcrs": {24: bytes(48)}},
        {"pcrs": {32: bytes(48)}},
        {"pcrs": {-1: bytes(48)}},
        {"pcrs": {0: bytes(32)}},
        {"pcrs": {0: "00" * 24}},
        {"pcrs": {0: []}},
        {"pcrs": {0: [bytes(48), bytes(32)]}},
        {"pcrs": {0: ["00" * 48]}},
        {"pcrs": {0: bytearray(48)}},
        {"pcrs": {0: 0}},
        {"nonce": "00"},
        {"user_data": "00"},
        {"public_key": "00"},
        {"root_fingerprint": "00" * 16},
        {"root_fingerprint": bytes(31)},
    ],
)
def test_expectations_nothing_could_meet(impossible: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        verified(Document(), **impossible)
