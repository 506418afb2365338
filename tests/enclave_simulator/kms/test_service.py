"""Operations of the simulated KMS."""

from __future__ import annotations

import base64
import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from enclave_simulator.authority import Authority
from enclave_simulator.kms.cms import Enveloper
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.recipient import DocumentVerifier
from enclave_simulator.kms.regions import MAX_REGIONS
from enclave_simulator.kms.service import KmsService
from enclave_simulator.nsm import SimulatedNsm
from tests.enclave_simulator.documents import attest, rsa_key, spki, vector
from tests.enclave_simulator.kms.kms_client import ask, openssl_decrypt, recipient, signed

if TYPE_CHECKING:
    from pathlib import Path

AUTHORITY = Authority.generate()
NSM = SimulatedNsm(AUTHORITY)


@pytest.fixture
def service() -> KmsService:
    return KmsService(
        AUTHORITY.root_pem,
        key_stores={
            "cks-connected": "CONNECTED",
            "cks-disconnected": "DISCONNECTED",
            "cks-external": "EXTERNAL",
        },
    )


@pytest.fixture(scope="module")
def document() -> bytes:
    return attest(NSM, spki(rsa_key()))


def generate_random(service: KmsService, **parameters: Any) -> tuple[int, dict[str, Any]]:
    return ask(service, signed("GenerateRandom", parameters))


# GenerateRandom


@pytest.mark.parametrize("count", [1, 32, 1024])
def test_without_recipient_the_response_has_the_plaintext(service: KmsService, count: int) -> None:
    status, response = generate_random(service, NumberOfBytes=count)
    assert status == 200
    assert list(response) == ["Plaintext"]
    assert len(base64.b64decode(response["Plaintext"], validate=True)) == count


def test_random_bytes_are_of_the_given_source() -> None:
    service = KmsService(AUTHORITY.root_pem, random=lambda size: b"r" * size)
    _, response = generate_random(service, NumberOfBytes=5)
    assert base64.b64decode(response["Plaintext"]) == b"rrrrr"


def test_openssl_decrypts_ciphertext_for_recipient(document: bytes, tmp_path: Path) -> None:
    service = KmsService(AUTHORITY.root_pem, random=lambda size: b"r" * size)
    forms = set()
    for count in (1, 32, 1000, 1024):
        status, response = generate_random(
            service, NumberOfBytes=count, Recipient=recipient(document)
        )
        assert status == 200
        assert "Plaintext" not in response
        ciphertext = base64.b64decode(response["CiphertextForRecipient"])
        assert openssl_decrypt(ciphertext, tmp_path) == b"r" * count
        forms.add(ciphertext[431])
    assert forms == {0xA0, 0x80}, "both forms of the encrypted content come in turn"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "NumberOfBytes is required."),
        (
            {"NumberOfBytes": 2000},
            (
                "1 validation error detected: Value '2000' at 'numberOfBytes' failed to satisfy "
                "constraint: Member must have value less than or equal to 1024"
            ),
        ),
        (
            {"NumberOfBytes": 0},
            (
                "1 validation error detected: Value '0' at 'numberOfBytes' failed to satisfy "
                "constraint: Member must have value greater than or equal to 1"
            ),
        ),
        (
            {"NumberOfBytes": 1, "Recipient": {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_1"}},
            (
                "1 validation error detected: Value 'RSAES_OAEP_SHA_1' at "
                "'recipient.keyEncryptionAlgorithm' failed to satisfy constraint: "
                "Member must satisfy enum value set: [RSAES_OAEP_SHA_256]"
            ),
        ),
        (
            {"NumberOfBytes": 1, "Recipient": {"AttestationDocument": ""}},
            (
                "1 validation error detected: Value at 'recipient.attestationDocument' "
                "failed to satisfy constraint: Member must have length greater than or equal to 1"
            ),
        ),
        (
            {"NumberOfBytes": 1025, "CustomKeyStoreId": ""},
            (
                "2 validation errors detected: Value '1025' at 'numberOfBytes' failed to satisfy "
                "constraint: Member must have value less than or equal to 1024; Value '' at "
                "'customKeyStoreId' failed to satisfy constraint: "
                "Member must have length greater than or equal to 1"
            ),
        ),
        (
            {"NumberOfBytes": 1, "Recipient": {}},
            "Recipient needs both KeyEncryptionAlgorithm and AttestationDocument.",
        ),
    ],
)
def test_wrong_values(service: KmsService, parameters: dict[str, Any], message: str) -> None:
    status, response = ask(service, signed("GenerateRandom", parameters))
    assert (status, response) == (400, {"__type": "ValidationException", "message": message})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", None),
        (b"{", None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (b"[]", "Start of list found where not expected"),
        (b'"x"', "STRING_VALUE can not be converted to Structure"),
        (b'{"NumberOfBytes": "1"}', "STRING_VALUE can not be converted to Integer"),
        (b'{"NumberOfBytes": true}', "TRUE_VALUE can not be converted to Integer"),
        (b'{"NumberOfBytes": 1.5}', "DECIMAL_VALUE can not be converted to Integer"),
        (b'{"NumberOfBytes": {}}', "Start of structure or map found where not expected."),
        (b'{"Recipient": {"AttestationDocument": "?"}}', "Invalid base64 in a blob"),
    ],
)
def test_wrong_types(service: KmsService, body: bytes, message: str | None) -> None:
    status, response = ask(service, signed("GenerateRandom", body))
    assert status == 400
    assert response.pop("__type") == "SerializationException"
    assert response == ({"message": message} if message else {})


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("cks-absent", "CustomKeyStoreNotFoundException"),
        ("cks-disconnected", "CustomKeyStoreInvalidStateException"),
        ("cks-external", "UnsupportedOperationException"),
    ],
)
def test_custom_key_stores(service: KmsService, name: str, error: str) -> None:
    status, response = generate_random(service, NumberOfBytes=1, CustomKeyStoreId=name)
    assert (status, response["__type"]) == (400, error)
    assert generate_random(service, NumberOfBytes=1, CustomKeyStoreId="cks-connected")[0] == 200


# The front end


@pytest.mark.parametrize("target", ["TrentService.Nonsense", "Other.GenerateRandom", "", None])
def test_unknown_operations(service: KmsService, target: str | None) -> None:
    request = signed("GenerateRandom", {"NumberOfBytes": 1})
    if target is None:
        del request.headers["x-amz-target"]
    else:
        request.headers["x-amz-target"] = target
    assert ask(service, request) == (400, {"__type": "UnknownOperationException"})
    assert not service.requests


@pytest.mark.parametrize(
    "change", [{"method": "GET"}, {"headers": {}}, {"headers": {"content-type": "text/plain"}}]
)
def test_other_protocols_get_an_unknown_operation(
    service: KmsService, change: dict[str, Any]
) -> None:
    request = dataclasses.replace(signed("GenerateRandom", {}), **change)
    response = service.handle(request)
    assert (response.status, response.body) == (404, b"<UnknownOperationException/>\n")


def test_every_response_has_its_own_request_id(service: KmsService) -> None:
    request = signed("GenerateRandom", {"NumberOfBytes": 1})
    ids = {service.handle(request).request_id for _ in range(3)}
    assert len(ids) == 3


def test_unsigned_requests_are_rejected(service: KmsService) -> None:
    request = signed("GenerateRandom", {"NumberOfBytes": 1})
    del request.headers["authorization"]
    assert ask(service, request) == (
        400,
        {
            "__type": "MissingAuthenticationTokenException",
            "message": "Missing Authentication Token",
        },
    )


def test_only_known_callers_are_counted_and_meet_faults(service: KmsService) -> None:
    request = signed("GenerateRandom", {"NumberOfBytes": 1})
    service.faults.inject("throttle:1")
    unsigned = dataclasses.replace(
        request, headers={k: v for k, v in request.headers.items() if k != "authorization"}
    )
    assert ask(service, unsigned)[1]["__type"] == "MissingAuthenticationTokenException"
    assert not service.requests
    assert ask(service, request)[1]["__type"] == "ThrottlingException"
    assert ask(service, signed("GenerateRandom", {}))[1]["__type"] == "ValidationException"
    assert service.requests == {"GenerateRandom": 2}


@given(st.binary() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("aR\ud800\0", max_size=9),
    lambda inner: st.dictionaries(
        st.sampled_from(["NumberOfBytes", "Recipient", "CustomKeyStoreId", "AttestationDocument"]),
        inner,
    ) | st.lists(inner, max_size=3),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_whatever_the_body_the_response_is_kms_shaped(body: bytes) -> None:
    service = KmsService(AUTHORITY.root_pem)
    status, response = ask(service, signed("GenerateRandom", body))
    if status == 200:
        assert list(response) == ["Plaintext"]
    else:
        assert status == 400
        assert response["__type"].endswith("Exception")
        assert {*response} <= {"__type", "message"}


# The Recipient's document


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


# Regions


@pytest.mark.parametrize("region", ["nowhere", "us-east-1a", "", "US-EAST-1", "a" * 300])
def test_region_that_is_none_is_rejected(service: KmsService, region: str) -> None:
    status, document = ask(service, signed("ListKeys", {}, region=region))
    assert (status, document["__type"]) == (400, "InvalidSignatureException")


def test_regions_are_bounded(service: KmsService) -> None:
    for number in range(MAX_REGIONS):
        region = f"us-{'a' * (number + 1)}-1"
        assert ask(service, signed("ListKeys", {}, region=region))[0] == 200
    assert ask(service, signed("ListKeys", {}, region="us-east-1"))[0] == 400
    assert ask(service, signed("ListKeys", {}, region="us-a-1"))[0] == 200


def test_added_key_is_another_one_in_each_region(service: KmsService) -> None:
    key_id = service.add_key("alias/both")
    for region in ("us-east-1", "eu-west-1"):
        _, document = ask(service, signed("DescribeKey", {"KeyId": "alias/both"}, region=region))
        assert document["KeyMetadata"]["KeyId"] == key_id
        assert region in document["KeyMetadata"]["Arn"]
    parameters = {"KeyId": "alias/both", "Plaintext": "AAAA"}
    _, sealed = ask(service, signed("Encrypt", parameters, region="us-east-1"))
    blob = {"CiphertextBlob": sealed["CiphertextBlob"]}
    assert ask(service, signed("Decrypt", blob, region="us-east-1"))[0] == 200
    _, document = ask(service, signed("Decrypt", blob, region="eu-west-1"))
    assert document["__type"] == "AccessDeniedException"
