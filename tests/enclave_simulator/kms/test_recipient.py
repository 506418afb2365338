"""The Recipient's document as the simulated KMS checks it, and the CMS envelope it answers with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from enclave_simulator.authority import Authority
from enclave_simulator.kms.cms import Enveloper
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.recipient import DocumentVerifier
from enclave_simulator.nsm import SimulatedNsm
from tests.enclave_simulator.documents import attest, rsa_key, spki, vector

AUTHORITY = Authority.generate()
NSM = SimulatedNsm(AUTHORITY)


@pytest.fixture(scope="module")
def document() -> bytes:
    return attest(NSM, spki(rsa_key()))


def refusal(document: bytes, *, now: datetime | None = None, root: bytes | None = None) -> str:
    verifier = DocumentVerifier(root or AUTHORITY.root_pem)
    with pytest.raises(KmsError) as refused:
        verifier.verify(document, now or datetime.now(UTC))
    assert refused.value.type == "ValidationException"
    return str(refused.value.message)


def test_a_verified_document_has_its_module_id(document: bytes) -> None:
    attested = DocumentVerifier(AUTHORITY.root_pem).verify(document, datetime.now(UTC))
    assert attested.module_id == NSM.module_id
    assert list(attested.pcrs) == list(range(16))


@pytest.mark.parametrize("indefinite", [True, False])
def test_both_payload_encodings_verify(indefinite: bool) -> None:
    document = attest(SimulatedNsm(AUTHORITY, indefinite_map=indefinite), spki(rsa_key()))
    DocumentVerifier(AUTHORITY.root_pem).verify(document, datetime.now(UTC))


def test_a_real_document_verifies_under_the_real_root() -> None:
    document = vector("attestation/tee-verifier-0.bin")
    made = datetime.fromtimestamp(1743791947.519, UTC)
    verifier = DocumentVerifier(vector("certs/AWS_NitroEnclaves_Root-G1.pem"))
    attested = verifier.verify(document, made)
    assert attested.module_id == "i-01721714461f7afa6-enc01953e42450be060"
    assert "too far" in refusal(
        document,
        now=made + timedelta(minutes=6),
        root=vector("certs/AWS_NitroEnclaves_Root-G1.pem"),
    )
    assert "root" in refusal(document, now=made)


@pytest.mark.parametrize("minutes", [6, -6])
def test_the_age_of_a_cached_document_is_checked(document: bytes, minutes: int) -> None:
    verifier = DocumentVerifier(AUTHORITY.root_pem)
    now = datetime.now(UTC)
    verifier.verify(document, now)
    with pytest.raises(KmsError, match="too far from now"):
        verifier.verify(document, now + timedelta(minutes=minutes))


def test_another_root_is_not_trusted(document: bytes) -> None:
    assert "root certificate" in refusal(document, root=Authority.generate().root_pem)


def rebuilt(document: bytes, position: int, value: Any) -> bytes:
    parts = cbor2.loads(document)
    parts[position] = value
    return cbor2.dumps(parts)


def test_a_changed_document_does_not_verify(document: bytes) -> None:
    header, _, payload, signature = cbor2.loads(document)
    flipped = bytes([signature[0] ^ 1]) + signature[1:]
    assert "signature" in refusal(rebuilt(document, 3, flipped))
    assert "signature" in refusal(rebuilt(document, 3, b""))
    assert "signature" in refusal(rebuilt(document, 3, "text"))
    changed = payload.replace(b"SHA384", b"SHA256")
    assert "signature" in refusal(rebuilt(document, 2, changed))
    assert "ES384" in refusal(rebuilt(document, 0, header[:-1] + b"\x21"))


def test_a_chain_of_another_authority_below_our_root_does_not_verify(document: bytes) -> None:
    other = attest(SimulatedNsm(Authority.generate()), spki(rsa_key()))
    fields = cbor2.loads(cbor2.loads(other)[2])
    fields["cabundle"][0] = AUTHORITY.root_der
    assert "chain" in refusal(rebuilt(other, 2, cbor2.dumps(fields)))


def test_a_leaf_cannot_certify(document: bytes) -> None:
    fields = cbor2.loads(cbor2.loads(document)[2])
    fields["cabundle"].append(fields["certificate"])
    assert "chain" in refusal(rebuilt(document, 2, cbor2.dumps(fields)))


def test_certificates_must_be_valid_now() -> None:
    past = datetime.now(UTC) - timedelta(hours=4)
    document = attest(SimulatedNsm(AUTHORITY, now=lambda: past), spki(rsa_key()))
    assert "not valid now" in refusal(document)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (None, "no public key"),
        (b"", "cannot be parsed"),
        (b"\x30\x00", "cannot be parsed"),
        ("ec", "not RSA-2048"),
        ("rsa-3072", "not RSA-2048"),
    ],
)
def test_the_public_key_must_be_rsa_2048(key: bytes | str | None, text: str) -> None:
    if key == "ec":
        key = spki(ec.generate_private_key(ec.SECP256R1()))
    elif key == "rsa-3072":
        key = spki(rsa.generate_private_key(65537, 3072))
    assert isinstance(key, bytes | None)
    assert text in refusal(attest(NSM, key))


@given(st.binary(max_size=200))
def test_whatever_the_document_only_kms_errors_are_raised(garbage: bytes) -> None:
    assert refusal(garbage).startswith("The attestation document is not valid: ")


@given(st.data())
def test_a_document_changed_anywhere_is_rejected(data: st.DataObject) -> None:
    document = bytearray(attest(NSM, spki(rsa_key())))
    position = data.draw(st.integers(0, len(document) - 1))
    document[position] ^= data.draw(st.integers(1, 255))
    assert refusal(bytes(document)).startswith("The attestation document is not valid: ")


def test_a_certificate_that_cryptography_warns_of_is_rejected() -> None:
    """Found by the test above: a serial number made negative is a warning, not an error, there."""
    raw = attest(NSM, spki(rsa_key()))
    leaf = cbor2.loads(cbor2.loads(raw)[2])["certificate"]
    serial = raw.index(leaf) + leaf.index(b"\xa0\x03\x02\x01\x02\x02") + 7
    document = bytearray(raw)
    document[serial] |= 0x80
    assert refusal(bytes(document)).endswith(": it cannot be parsed.")


def test_a_certificate_of_a_version_that_does_not_exist_is_rejected() -> None:
    """Found by the same test: cryptography's InvalidVersion is no ValueError."""
    raw = attest(NSM, spki(rsa_key()))
    leaf = cbor2.loads(cbor2.loads(raw)[2])["certificate"]
    version = raw.index(leaf) + leaf.index(b"\xa0\x03\x02\x01\x02\x02") + 4
    document = bytearray(raw)
    document[version] = 3
    assert refusal(bytes(document)).endswith(": it cannot be parsed.")


def test_verified_documents_are_cached_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("enclave_simulator.kms.recipient._CACHED_DOCUMENTS", 4)
    verifier = DocumentVerifier(AUTHORITY.root_pem)
    now = datetime.now(UTC)
    documents = [attest(NSM, spki(rsa_key()), nonce=bytes([n])) for n in range(6)]
    first = verifier.verify(documents[0], now)
    assert verifier.verify(documents[0], now) is first
    for document in documents:
        verifier.verify(document, now)
    assert len(verifier._verified) == 4
    assert verifier.verify(documents[0], now) is not first


# CMS


@pytest.mark.parametrize(
    ("name", "size", "form"),
    [
        ("edgebit-cms.ber", 32, "constructed"),
        ("ethsigner-cms.ber", 154, "constructed"),
        ("sdkc-input_ber.bin", 32, "constructed"),
        ("sdkc-input_ber_w_ctx.bin", 10, "primitive"),
    ],
)
def test_envelopes_have_the_bytes_of_kms(name: str, size: int, form: Any) -> None:
    real = vector(f"cms/{name}")
    simulated = Enveloper(rsa_key().public_key()).encrypt(bytes(size), form)

    def structure(envelope: bytes) -> bytes:
        masked = bytearray(envelope)
        # Where the encrypted content starts; over 127 bytes its length takes one byte more.
        start = {"constructed": 435 if size < 112 else 436, "primitive": 433}[form]
        for part in (slice(33, 65), slice(131, 387), slice(415, 431)):
            masked[part] = bytes(part.stop - part.start)
        end = len(masked) - (10 if form == "constructed" else 8)
        masked[start:end] = bytes(end - start)
        return bytes(masked)

    assert structure(simulated) == structure(real)
