"""Signature sections: those of others read, ours read by the book, forgeries told apart."""

from __future__ import annotations

import contextlib
import hashlib
from datetime import datetime, timedelta

import cbor2
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from parent.eif import signature
from parent.eif.errors import EifError
from parent.eif.signer import FileKey, Signer
from tests.parent.conftest import NOT_AFTER, NOT_BEFORE, WITHIN, Identity, make_identity
from tests.parent.eif import eifs

PCR0 = bytes(range(48))


def failures(data: bytes, pcr0: bytes = PCR0, at: datetime | None = WITHIN) -> list[str]:
    return list(signature.failures(signature.decode(data, offset=0), pcr0, at=at))


def test_reads_what_others_sign(identity: Identity) -> None:
    data = eifs.signature(PCR0, identity.pem, identity.key)
    read = signature.decode(data, offset=0)
    assert read.certificate == identity.certificate
    der = identity.certificate.public_bytes(serialization.Encoding.DER)
    measured = hashlib.sha384(der).digest()
    assert read.pcr8 == hashlib.sha384(bytes(48) + measured).digest()
    assert failures(data) == []


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_signs_what_it_verifies(curve: ec.EllipticCurve) -> None:
    identity = make_identity(curve)
    assert failures(Signer(identity.pem, FileKey(identity.key_pem)).sign(PCR0)) == []


def test_signs_in_the_form_of_others(identity: Identity) -> None:
    ours = cbor2.loads(Signer(identity.pem, FileKey(identity.key_pem)).sign(PCR0))
    theirs = cbor2.loads(eifs.signature(PCR0, identity.pem, identity.key))
    assert ours[0]["signing_certificate"] == theirs[0]["signing_certificate"]
    our_cose, their_cose = (cbor2.loads(bytes(s[0]["signature"])) for s in (ours, theirs))
    assert our_cose[:3] == their_cose[:3]
    assert len(our_cose[3]) == len(their_cose[3])


def test_forgeries(identity: Identity) -> None:
    stranger = make_identity(ec.SECP384R1())
    over_another = eifs.signature(bytes(48), identity.pem, identity.key)
    by_another = eifs.signature(PCR0, identity.pem, stranger.key)
    as_es256 = eifs.signature(PCR0, identity.pem, identity.key, protected=b"\xa1\x01\x26")
    assert failures(over_another) == ["the signature was made over another image: PCR0 differs"]
    assert failures(by_another) == ["the signature was not made by the certificate's key"]
    assert "header is not that of ES384" in failures(as_es256)[0]
    assert len(failures(by_another, pcr0=bytes(48))) == 2


def test_a_signature_of_the_wrong_length(identity: Identity) -> None:
    document = cbor2.loads(eifs.signature(PCR0, identity.pem, identity.key))
    cose = cbor2.loads(bytes(document[0]["signature"]))
    cose[3] = cose[3][:-1]
    document[0]["signature"] = list(cbor2.dumps(cose))
    assert failures(cbor2.dumps(document)) == [
        "the signature was not made by the certificate's key"
    ]


def test_validity_of_the_certificate(identity: Identity) -> None:
    data = eifs.signature(PCR0, identity.pem, identity.key)
    second = timedelta(seconds=1)
    assert failures(data, at=NOT_BEFORE) == failures(data, at=NOT_AFTER) == []
    assert failures(data, at=NOT_BEFORE - second) == [
        "the certificate is not valid before 2026-01-05 07:08:09Z"
    ]
    assert failures(data, at=NOT_AFTER + second) == [
        "the certificate expired on 2999-11-30 00:00:00Z"
    ]
    assert failures(data, at=None) == []


def entry(**changes: object) -> dict[str, object]:
    good: dict[str, object] = {"signing_certificate": [1], "signature": list(b"\x84")}
    return {**good, **changes}


COSE = [b"", {}, b"", b""]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not what signers write"),
        (b"\x80", "other than one signature"),
        (cbor2.dumps([entry(), entry()]), "other than one signature"),
        (cbor2.dumps([entry()]) + b"\0", "bytes after the end"),
        (b"\xa0", "no array"),
        (b"\x9f\xff", "indefinite"),
        (b"\x81" * 100_000, "no map"),
        (b"\x9b" + b"\xff" * 8, "not what signers write"),
        (cbor2.dumps([{"signing_certificate": [1]}]), "other than two entries"),
        (cbor2.dumps([{"certificate": [], "signature": []}]), "no 'signing_certificate'"),
        (cbor2.dumps([{"signing_certificate": [], "sig": []}]), "no 'signature'"),
        (cbor2.dumps([entry(signing_certificate=b"bytes")]), "no array"),
        (cbor2.dumps([entry(signing_certificate=[256])]), "not what signers write"),
        (cbor2.dumps([entry(signing_certificate=[-1])]), "no number"),
        (cbor2.dumps([entry(signing_certificate=[True])]), "no number"),
        (b"\x81\xa2\x73signing_certificate\x9b" + b"\x7f" * 8, "cut short"),
        (cbor2.dumps([entry()]), "not what signers write"),
        (cbor2.dumps([entry(signature=list(cbor2.dumps([b""])))]), "no COSE_Sign1"),
        (cbor2.dumps([entry(signature=list(cbor2.dumps([b"", {1: 2}, b"", b""])))]), "unprotected"),
        (cbor2.dumps([entry(signature=list(cbor2.dumps(COSE) + b"\0"))]), "bytes after the end"),
        (cbor2.dumps([entry(signature=list(cbor2.dumps(COSE)))]), "certificate cannot be read"),
    ],
)
def test_what_is_no_signature_section(data: bytes, reason: str) -> None:
    with pytest.raises(EifError) as caught:
        signature.decode(data, offset=1000)
    assert reason in caught.value.reason
    assert 1000 <= caught.value.offset <= 1000 + len(data)


@pytest.fixture(scope="session")
def section(identity: Identity) -> bytes:
    return eifs.signature(PCR0, identity.pem, identity.key)


@given(data=st.data())
def test_only_the_documented_error(section: bytes, data: st.DataObject) -> None:
    good = bytearray(section)
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(EifError):
        failures(bytes(good))
