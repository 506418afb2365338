"""The operations that take Recipient, with keys and their policies, as a program in the enclave."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from enclave.errors import AgentError, KmsRefusedError, KmsResponseError
from enclave.nsm import Nsm
from enclave.recipient.exchange import SECRET_FIELD
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.nsm import SimulatedNsm

if TYPE_CHECKING:
    from enclave import Agent
    from enclave_simulator.authority import Authority
    from tests.enclave.conftest import Enclave

ZERO = "00" * 48
IMAGE = "kms:RecipientAttestation:ImageSha384"


def pcr(nsm: SimulatedNsm, index: int) -> str:
    return Nsm(nsm).describe_pcr(index).data.hex()


def policy(*statements: dict[str, Any]) -> str:
    """A key policy: anything without an enclave's secret, and what the statements say."""
    whole = [
        {"Effect": "Allow", "Action": ["kms:Encrypt", "kms:GetPublicKey", "kms:PutKeyPolicy"]},
        *statements,
    ]
    principal = {"AWS": SIMULATED_CREDENTIALS.principal}
    return json.dumps(
        {"Statement": [{"Principal": principal, "Resource": "*", **part} for part in whole]}
    )


def only_if(condition: dict[str, Any]) -> str:
    """Secrets for who meets a condition."""
    actions = ["kms:Decrypt", "kms:GenerateDataKey*", "kms:DeriveSharedSecret"]
    return policy({"Effect": "Allow", "Action": actions, "Condition": condition})


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


OWN = ec.generate_private_key(ec.SECP256R1())
OWN_PUBLIC = OWN.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

CALLS: dict[str, dict[str, Any]] = {
    "Decrypt": {"EncryptionContext": {"purpose": "test"}},
    "DeriveSharedSecret": {
        "KeyId": "alias/agree",
        "KeyAgreementAlgorithm": "ECDH",
        "PublicKey": b64(OWN_PUBLIC),
    },
    "GenerateDataKey": {"KeyId": "alias/x", "KeySpec": "AES_256"},
    "GenerateDataKeyPair": {"KeyId": "alias/x", "KeyPairSpec": "ECC_NIST_P384"},
    "GenerateRandom": {"NumberOfBytes": 24},
}
"""One call of each, complete but for Decrypt's ciphertext."""

KEYED = sorted(set(CALLS) - {"GenerateRandom"})


def make_keys(enclave: Enclave, key_policy: str | None = None) -> None:
    service = enclave.kms.service
    service.add_key("alias/x", policy=key_policy)
    service.add_key("alias/agree", spec="ECC_NIST_P256", policy=key_policy)


def completed(agent: Agent, operation: str) -> dict[str, Any]:
    """The call's parameters, with a ciphertext where one is needed."""
    parameters = CALLS[operation]
    if operation != "Decrypt":
        return parameters
    plain = {"KeyId": "alias/x", "Plaintext": b64(b"sealed"), **parameters}
    sealed = agent.call("Encrypt", plain).content
    return {**parameters, "CiphertextBlob": sealed["CiphertextBlob"]}


def call(enclave: Enclave, operation: str, **changes: Any) -> dict[str, Any]:
    agent = enclave.agent(**changes)
    return agent.call(operation, completed(agent, operation)).content


def test_there_is_a_call_of_every_operation() -> None:
    assert CALLS.keys() == SECRET_FIELD.keys()


@pytest.mark.parametrize("operation", CALLS)
def test_the_secret_is_for_the_enclave(enclave: Enclave, operation: str) -> None:
    make_keys(enclave)
    answer = call(enclave, operation)
    secret = answer[SECRET_FIELD[operation]]
    match operation:
        case "Decrypt":
            assert secret == b"sealed"
        case "DeriveSharedSecret":
            published = enclave.agent().call("GetPublicKey", {"KeyId": "alias/agree"}).content
            public = load_der_public_key(base64.b64decode(published["PublicKey"]))
            assert isinstance(public, ec.EllipticCurvePublicKey)
            assert secret == OWN.exchange(ec.ECDH(), public)
        case "GenerateDataKey":
            sealed = {"CiphertextBlob": answer["CiphertextBlob"], "KeyId": answer["KeyId"]}
            assert enclave.agent().call("Decrypt", sealed).content["Plaintext"] == secret
            assert len(secret) == 32
        case "GenerateDataKeyPair":
            public = load_der_private_key(secret, None).public_key()
            assert public == load_der_public_key(base64.b64decode(answer["PublicKey"]))
        case "GenerateRandom":
            assert len(secret) == 24


def refused(enclave: Enclave, operation: str, **changes: Any) -> KmsRefusedError:
    with pytest.raises(KmsRefusedError) as caught:
        call(enclave, operation, **changes)
    assert caught.value.type == "AccessDeniedException"
    return caught.value


@pytest.mark.parametrize("operation", KEYED)
@pytest.mark.parametrize(
    ("operator", "key", "upper"),
    [
        ("StringEqualsIgnoreCase", IMAGE, True),
        ("StringEquals", "kms:RecipientAttestation:PCR0", False),
    ],
)
def test_the_right_image_is_let_in(
    enclave: Enclave, operation: str, operator: str, key: str, upper: bool
) -> None:
    value = pcr(enclave.nsm, 0)
    make_keys(enclave, only_if({operator: {key: value.upper() if upper else value}}))
    assert call(enclave, operation)[SECRET_FIELD[operation]]


@pytest.mark.parametrize("operation", KEYED)
def test_another_image_is_refused_in_kms_words(enclave: Enclave, operation: str) -> None:
    make_keys(enclave, only_if({"StringEqualsIgnoreCase": {IMAGE: "ab" * 48}}))
    message = str(refused(enclave, operation))
    assert f"User: {SIMULATED_CREDENTIALS.principal} is not authorized to perform: " in message
    assert f"kms:{operation} on resource: arn:aws:kms:eu-central-1:000000000000:key/" in message
    assert f"because no resource-based policy allows the kms:{operation} action" in message


@pytest.mark.parametrize("operation", KEYED)
def test_without_a_document_nobody_is_let_in(enclave: Enclave, operation: str) -> None:
    deny = {"Effect": "Deny", "Action": f"kms:{operation}", "Condition": {"Null": {IMAGE: "true"}}}
    make_keys(enclave, policy({"Effect": "Allow", "Action": "kms:*"}, deny))
    assert call(enclave, operation)[SECRET_FIELD[operation]]
    agent = enclave.agent()
    parameters = completed(agent, operation)
    with pytest.raises(KmsRefusedError, match="with an explicit deny in a resource-based policy"):
        agent._kms.call(operation, parameters)  # as a program outside an enclave would


def test_every_named_pcr_must_fit(enclave: Enclave) -> None:
    def condition(pcr4: str) -> dict[str, Any]:
        return {
            "StringEqualsIgnoreCase": {
                "kms:RecipientAttestation:PCR0": pcr(enclave.nsm, 0),
                "kms:RecipientAttestation:PCR4": pcr4,
            }
        }

    make_keys(enclave, only_if(condition(pcr(enclave.nsm, 4))))
    assert call(enclave, "GenerateDataKey")
    enclave.agent().call(
        "PutKeyPolicy", {"KeyId": _key_id(enclave), "Policy": only_if(condition(ZERO))}
    )
    refused(enclave, "GenerateDataKey")


def _key_id(enclave: Enclave) -> str:
    described = enclave.agent().call("GenerateDataKey", CALLS["GenerateDataKey"]).content
    return str(described["KeyId"])


def test_an_enclave_in_debug_mode_is_another_image(
    enclave: Enclave, nitro_authority: Authority
) -> None:
    debugged = SimulatedNsm(nitro_authority, debug_mode=True)
    make_keys(enclave, only_if({"StringEqualsIgnoreCase": {IMAGE: pcr(enclave.nsm, 0)}}))
    assert call(enclave, "GenerateDataKey")
    refused(enclave, "GenerateDataKey", device=debugged)


def test_who_allows_zero_pcrs_allows_debug_mode(
    enclave: Enclave, nitro_authority: Authority
) -> None:
    debugged = SimulatedNsm(nitro_authority, debug_mode=True)
    make_keys(enclave, only_if({"StringEquals": {IMAGE: ZERO}}))
    assert call(enclave, "GenerateDataKey", device=debugged)
    refused(enclave, "GenerateDataKey")


# Faults


@pytest.mark.parametrize("operation", CALLS)
@pytest.mark.parametrize("fault", ["plaintext", "no-ciphertext", "wrong-key", "corrupt-cms"])
def test_a_false_answer_is_never_taken(enclave: Enclave, operation: str, fault: str) -> None:
    make_keys(enclave)
    agent = enclave.agent()
    parameters = completed(agent, operation)
    enclave.kms.faults.inject(fault)
    with pytest.raises(AgentError):
        agent.call(operation, parameters)


@pytest.mark.parametrize("named", ["id", "arn"])
def test_the_answer_of_another_key_is_not_taken(enclave: Enclave, named: str) -> None:
    make_keys(enclave)
    arn = _key_id(enclave)
    key_id = arn if named == "arn" else arn.rpartition("/")[2]
    enclave.kms.faults.inject("wrong-key-id:1")
    parameters = {"KeyId": key_id, "NumberOfBytes": 16}
    with pytest.raises(KmsResponseError, match="KMS used key"):
        enclave.agent().call("GenerateDataKey", parameters)
    assert len(enclave.agent().call("GenerateDataKey", parameters).content["Plaintext"]) == 16
