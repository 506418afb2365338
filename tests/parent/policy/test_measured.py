"""Measurements out of documents and of nitro-cli's JSON, whatever the bytes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parent.policy import measured
from parent.policy.language import PolicyError
from tests.vectors import vector

PCRS = {0: bytes([1]) * 48, 1: bytes([2]) * 48, 8: bytes([9]) * 48}


def document(pcrs: object = PCRS, module_id: object = "i-1-enc2") -> bytes:
    payload = cbor2.dumps({"module_id": module_id, "pcrs": pcrs})
    return cbor2.dumps([b"\xa1\x01\x38\x22", {}, payload, bytes(96)])


def nitro_cli(pcrs: dict[int, bytes]) -> dict[str, object]:
    named = {f"PCR{index}": value.hex().upper() for index, value in pcrs.items()}
    return {"Measurements": {"HashAlgorithm": "Sha384 { ... }", **named}}


@pytest.mark.parametrize(
    "data",
    [
        document(),
        b"\xd2" + document(),
        base64.b64encode(document()) + b"\n",
        json.dumps(nitro_cli(PCRS)).encode(),
        json.dumps([{"EnclaveName": "x", **nitro_cli(PCRS)}], indent=2).encode(),
    ],
    ids=["document", "tagged", "base64", "describe-eif", "describe-enclaves"],
)
def test_every_source(data: bytes) -> None:
    found = measured.parse(data)
    assert found.pcrs == PCRS
    assert not found.is_debug
    assert found.context() == {
        "kms:recipientattestation:imagesha384": "01" * 48,
        "kms:recipientattestation:pcr0": "01" * 48,
        "kms:recipientattestation:pcr1": "02" * 48,
        "kms:recipientattestation:pcr8": "09" * 48,
    }


@pytest.mark.parametrize(
    ("name", "is_debug"), [("tee-verifier-0.bin", False), ("dstack-attest-dbg.bin", True)]
)
def test_real_documents(name: str, is_debug: bool) -> None:
    found = measured.parse(vector(f"attestation/{name}"))
    assert found.is_debug is is_debug
    assert set(range(5)) <= set(found.pcrs)
    assert found.origin.startswith("attestation document of i-")


def test_what_the_parent_adds() -> None:
    found = measured.with_parent(measured.parse(document()), role="arn:r", instance="i-1")
    assert found.pcrs[3] == hashlib.sha384(bytes(48) + b"arn:r").digest()
    assert found.pcrs[4] == hashlib.sha384(bytes(48) + b"i-1").digest()
    assert measured.with_parent(found, role=None, instance=None) == found


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "neither"),
        (b"\x81" * 5000, "neither"),
        (b"{", "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (b"{}", "no Measurements"),
        (b"[]", "no Measurements"),
        (json.dumps({"Measurements": {"PCR0": "00"}}).encode(), "PCR0 is not 48 bytes"),
        (json.dumps({"Measurements": {"PCR1": "00" * 48}}).encode(), "no PCR0"),
        (document({0: b"short"}), "not of SHA-384"),
        (document({32: bytes(48)}), "not of SHA-384"),
        (document({True: bytes(48)}), "not of SHA-384"),
        (document({1: bytes(48)}), "no PCR0"),
        (document([]), "neither|no PCR0"),
        (bytes(measured.MAX_DOCUMENT + 1), "more than"),
    ],
)
def test_what_measures_nothing(data: bytes, reason: str) -> None:
    with pytest.raises(PolicyError, match=reason):
        measured.parse(data)


def test_origins_are_printable() -> None:
    assert measured.parse(document(module_id="\x1b[2J")).origin == "attestation document of ?"


@given(st.binary(max_size=300) | st.binary(max_size=40).map(lambda tail: document()[:60] + tail))
def test_only_the_documented_error(data: bytes) -> None:
    with contextlib.suppress(PolicyError):
        measured.parse(data)
