"""Real documents of the last years, and what must become of them."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from enclave.attestation import parse
from enclave.attestation.verify import verify
from enclave.errors import AgentError, AttestationError, DecodingError
from tests.paths import VECTORS

DOCUMENTS = VECTORS / "attestation"
pytestmark = pytest.mark.skipif(
    not DOCUMENTS.is_dir(), reason="the real documents (../shared/vectors) are not here"
)

# name, whether it is of debug mode
REAL = [
    ("dstack-attest-dbg.bin", True),
    ("dstack-attest.bin", False),
    ("fortanix-proper.bin", True),
    ("oyster-aws-pcr16.bin", False),
    ("tee-verifier-0.bin", False),
    ("veracruz.cbor", False),
]
# After the document itself these two carry other data of the project they come from.
TRAILING = {"dstack-attest-dbg.bin": 151, "dstack-attest.bin": 179}


def _read(name: str) -> bytes:
    raw = (DOCUMENTS / name).read_bytes()
    return raw[: len(raw) - TRAILING.get(name, 0)]


@pytest.mark.parametrize(("name", "is_debug"), REAL)
def test_real_documents_verify_at_their_time(name: str, is_debug: bool) -> None:
    raw = _read(name)
    document = parse(raw)
    assert document.is_debug is is_debug
    proven = verify(
        raw,
        at=document.timestamp,
        max_age=timedelta(0),
        pcrs=document.pcrs,
        allow_debug=is_debug,
    )
    assert proven == document
    assert len(proven.cabundle) == 4


@pytest.mark.parametrize(("name", "is_debug"), REAL)
def test_real_documents_are_of_their_time(name: str, is_debug: bool) -> None:
    raw = _read(name)
    later = parse(raw).timestamp + timedelta(hours=3, seconds=10)
    with pytest.raises(AttestationError) as caught:
        verify(raw, at=later, max_age=None, pcrs=None, allow_debug=is_debug)
    [failure] = caught.value.failures
    assert failure.startswith("certificate: expired on ")


@pytest.mark.parametrize("name", TRAILING)
def test_what_follows_a_document_is_not_ignored(name: str) -> None:
    with pytest.raises(DecodingError, match="bytes follow the end") as caught:
        parse((DOCUMENTS / name).read_bytes())
    assert caught.value.offset == len(_read(name))


@pytest.mark.parametrize(
    ("name", "failures"),
    [
        ("veracruz-badsig.cbor", ["signature: not made over this payload"]),
        (
            "fortanix-tampered-cert.bin",
            ["certificate: not a readable certificate", "signature: no P-384 key"],
        ),
        ("oyster-custom-mockroot.bin", ["root: expected the SHA-256 641a0321"]),
    ],
)
def test_bad_documents(name: str, failures: list[str]) -> None:
    raw = _read(name)
    at = parse(raw).timestamp
    with pytest.raises(AttestationError) as caught:
        verify(raw, at=at, max_age=None, pcrs=None, allow_debug=True)
    assert len(caught.value.failures) == len(failures)
    for got, expected in zip(caught.value.failures, failures, strict=True):
        assert got.startswith(expected)


def test_a_mock_document_verifies_against_its_own_root() -> None:
    raw = _read("oyster-custom-mockroot.bin")
    document = parse(raw)
    mock_root = bytes.fromhex("024a7c97261ad34de885537fa08b8bd35121a28d9dc2017e688e4813fda28c96")
    verify(raw, at=document.timestamp, max_age=None, pcrs=None, root_fingerprint=mock_root)


def test_no_document_with_a_bit_flipped_verifies() -> None:
    raw = _read("tee-verifier-0.bin")
    at = parse(raw).timestamp
    chosen = random.Random(1)  # noqa: S311 (a sample, the same one each run)
    for bit in chosen.sample(range(len(raw) * 8), 250):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((AttestationError, DecodingError)):
            verify(bytes(flipped), at=at, max_age=None, pcrs=None)


def test_no_document_cut_short_parses() -> None:
    raw = _read("dstack-attest.bin")
    for length in range(0, len(raw), 7):
        with pytest.raises(AgentError):
            parse(raw[:length])


def test_a_real_document_of_an_instance() -> None:
    raw = (VECTORS / "nitrotpm" / "nitrotpm-2026-08.cbor").read_bytes()
    document = parse(raw)
    assert document.platform == "instance"
    assert document.module_id == "i-000fa553dad58a9f1-tpm0000000000000000"
    assert set(document.nitrotpm_pcrs) == set(range(24))
    assert not document.pcrs
    proven = verify(
        raw,
        at=document.timestamp,
        max_age=timedelta(0),
        platform="instance",
        pcrs=document.nitrotpm_pcrs,
        nonce=document.nonce,
        public_key=document.public_key,
    )
    assert proven == document
    with pytest.raises(AttestationError) as caught:
        verify(raw, at=document.timestamp, max_age=timedelta(0), pcrs=None)
    [failure] = caught.value.failures
    assert failure.startswith("platform: expected an enclave")
    flipped = raw[:-1] + bytes([raw[-1] ^ 1])
    with pytest.raises(AttestationError, match="signature"):
        verify(flipped, at=document.timestamp, max_age=None, platform="instance", pcrs=None)
