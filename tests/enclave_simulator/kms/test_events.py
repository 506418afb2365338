"""CloudTrail-shaped events, and the reasons for refusals."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import cbor2
import pytest

from enclave_simulator.kms.outputs import EventFile, report_refusal
from enclave_simulator.kms.policy import Access, parse_policy
from enclave_simulator.kms.refusals import explain
from enclave_simulator.kms.service import KmsService
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.nsm import MODULE_ID, sign1
from tests.enclave_simulator.documents import attest, payload, rsa_key, spki
from tests.enclave_simulator.kms.kms_client import ACCOUNT, REGION, recipient, signed

if TYPE_CHECKING:
    from pathlib import Path

    from enclave_simulator.authority import Authority
    from enclave_simulator.nsm import SimulatedNsm

PCR0 = "kms:RecipientAttestation:PCR0"


class Watched:
    """A KMS whose events and refusals are collected."""

    def __init__(self, nitro_root: bytes) -> None:
        self.events: list[dict[str, Any]] = []
        self.refusals: list[tuple[str, tuple[str, ...]]] = []
        self.service = KmsService(
            nitro_root,
            on_event=self.events.append,
            on_refusal=lambda message, reasons: self.refusals.append((message, reasons)),
        )

    def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        response = self.service.handle(signed(operation, parameters))
        document: dict[str, Any] = json.loads(response.body or b"{}")
        return document


@pytest.fixture
def watched(nitro_authority: Authority) -> Watched:
    return Watched(nitro_authority.root_pem)


@pytest.fixture
def document(simulated_nsm: SimulatedNsm) -> bytes:
    return attest(simulated_nsm, spki(rsa_key()))


def policy(condition: dict[str, Any]) -> str:
    def allow(action: str, **more: Any) -> dict[str, Any]:
        who = {"AWS": SIMULATED_CREDENTIALS.principal}
        return {"Effect": "Allow", "Principal": who, "Action": action, "Resource": "*", **more}

    return json.dumps(
        {"Statement": [allow("kms:PutKeyPolicy"), allow("kms:Encrypt"),
                       allow("kms:Decrypt", Condition=condition, Sid="enclave")]}
    )  # fmt: skip


def test_attested_call_has_the_documents_measurements(watched: Watched, document: bytes) -> None:
    watched.call("GenerateRandom", NumberOfBytes=32, Recipient=recipient(document))
    (event,) = watched.events
    pcrs = {n: base64.b64encode(pcr).decode() for n, pcr in payload(document)["pcrs"].items()}
    assert event["additionalEventData"]["recipient"] == {
        "attestationDocumentModuleId": payload(document)["module_id"],
        "attestationDocumentEnclaveImageDigest": pcrs[0],
        **{f"attestationDocumentEnclavePCR{n}": pcrs[n] for n in (1, 2, 3, 4, 8)},
    }
    assert event["eventName"] == "GenerateRandom"
    assert event["requestParameters"] == {"numberOfBytes": 32}
    assert event["responseElements"] is None
    assert event["resources"] == []
    assert event["awsRegion"] == REGION
    assert event["userIdentity"]["arn"] == SIMULATED_CREDENTIALS.principal
    assert event["recipientAccountId"] == ACCOUNT


def test_call_with_a_key_names_it_and_no_secret(watched: Watched) -> None:
    created = watched.call("CreateKey")["KeyMetadata"]
    sealed = watched.call("Encrypt", KeyId=created["KeyId"], Plaintext="c2VjcmV0")
    watched.call("Decrypt", CiphertextBlob=sealed["CiphertextBlob"])
    create, encrypt, decrypt = watched.events
    assert create["responseElements"]["keyMetadata"]["keyId"] == created["KeyId"]
    assert (create["readOnly"], encrypt["readOnly"]) == (False, True)
    assert encrypt["requestParameters"] == {"keyId": created["KeyId"]}
    assert decrypt["additionalEventData"] == {"keyMaterialId": created["CurrentKeyMaterialId"]}
    for event in (create, encrypt, decrypt):
        (resource,) = event["resources"]
        assert resource["ARN"] == created["Arn"]
    assert "c2VjcmV0" not in json.dumps(watched.events)
    assert sealed["CiphertextBlob"] not in json.dumps(watched.events)


def test_denied_call_has_its_error_and_no_recipient(watched: Watched, document: bytes) -> None:
    denied = policy({"StringEquals": {PCR0: "00" * 48}})
    key = watched.call("CreateKey", Policy=denied)["KeyMetadata"]["KeyId"]
    sealed = watched.call("Encrypt", KeyId=key, Plaintext="AAAA")["CiphertextBlob"]
    watched.call("Decrypt", CiphertextBlob=sealed, Recipient=recipient(document))
    event = watched.events[-1]
    assert event["errorCode"] == "AccessDenied"
    assert event["errorMessage"].startswith("User: ")
    assert "additionalEventData" not in event


def test_refusal_names_the_condition_with_wanted_and_got(watched: Watched, document: bytes) -> None:
    denied = policy({"StringEqualsIgnoreCase": {PCR0: "AB" * 48}})
    key = watched.call("CreateKey", Policy=denied)["KeyMetadata"]["KeyId"]
    sealed = watched.call("Encrypt", KeyId=key, Plaintext="AAAA")["CiphertextBlob"]
    got = payload(document)["pcrs"][0].hex()
    start = f"key policy, statement 3 (enclave): StringEqualsIgnoreCase {PCR0}: wanted {'AB' * 48};"
    for parameters, shown in (
        ({"Recipient": recipient(document)}, got),
        ({}, "none: the request has no attestation document"),
    ):
        response = watched.call("Decrypt", CiphertextBlob=sealed, **parameters)
        message, reasons = watched.refusals.pop()
        assert response["Message"] == message
        assert reasons == (f"{start} got {shown}",)
        assert "wanted" not in json.dumps(response), "KMS's own response does not tell"


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ({"Action": "kms:Encrypt"}, "key policy: no statement allows kms:Decrypt"),
        ({"Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:user/other"}}, "Principal: wanted"),
        ({"Resource": "arn:aws:kms:*:*:key/other"}, "Resource: does not match"),
        ({"Condition": {"StringEquals": {"kms:RecipientAttestation:PCR1": "00"}}}, "got none"),
        (
            {"Condition": {"StringNotEquals": {PCR0: "00" * 48}}},
            f"StringNotEquals {PCR0}: wanted {'00' * 48}; got {'00' * 48}",
        ),
    ],
)
def test_reason(statement: dict[str, Any], reason: str) -> None:
    allow = {"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}
    parsed = parse_policy(json.dumps({"Statement": [{**allow, **statement}]}))
    access = Access(
        SIMULATED_CREDENTIALS.principal, "kms:Decrypt", "arn:aws:kms:x",
        {PCR0.lower(): ("00" * 48,)},
    )  # fmt: skip
    (line,) = explain(access, parsed, "key policy", explicit=False)
    assert reason in line


def test_deny_is_named() -> None:
    statements = [
        {"Effect": effect, "Principal": "*", "Action": "kms:*", "Resource": "*", "Sid": effect}
        for effect in ("Allow", "Deny")
    ]
    access = Access(SIMULATED_CREDENTIALS.principal, "kms:Decrypt", "arn:aws:kms:x", {})
    parsed = parse_policy(json.dumps({"Statement": statements}))
    assert explain(access, parsed, "key policy", explicit=True) == [
        "key policy, statement 2 (Deny): denies kms:Decrypt"
    ]


def test_refusals_are_printed_without_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report_refusal("User: \x1b[31mred\n", ("a\tb", "キー"))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        r"enclave-simulator: warning: refused: User: \x1b[31mred\n",
        r"enclave-simulator: hint: a\tb",
        "enclave-simulator: hint: キー",
    ]


def test_events_are_appended_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for number in range(2):
        with EventFile(path) as file:
            file.append({"number": number})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"number": 0},
        {"number": 1},
    ]


def test_wrong_pcr_and_no_document_are_one_text_and_a_replay_is_accepted(
    watched: Watched, document: bytes
) -> None:
    """As users report of the real KMS (docs/simulated-kms.md)."""
    sealed, texts = {}, []
    for pcr in ("00" * 48, payload(document)["pcrs"][0].hex()):
        given = policy({"StringEquals": {PCR0: pcr}})
        key = watched.call("CreateKey", Policy=given)["KeyMetadata"]["Arn"]
        sealed[key] = watched.call("Encrypt", KeyId=key, Plaintext="AAAA")["CiphertextBlob"]
    wrong, right = sealed
    for key, parameters in (
        (wrong, {"Recipient": recipient(document)}),
        (wrong, {}),
        (right, {}),
    ):
        response = watched.call("Decrypt", CiphertextBlob=sealed[key], **parameters)
        assert response["__type"] == "AccessDeniedException"
        texts.append(response["Message"].replace(key, "KEY"))
    assert len(set(texts)) == 1
    assert "PCR" not in texts[0]
    flipped = document[:-1] + bytes([document[-1] ^ 1])
    for _ in range(2):
        attested = {"Recipient": recipient(document)}
        response = watched.call("Decrypt", CiphertextBlob=sealed[right], **attested)
        assert "CiphertextForRecipient" in response
    response = watched.call("Decrypt", CiphertextBlob=sealed[right], Recipient=recipient(flipped))
    assert response["__type"] == "ValidationException"


def test_document_of_a_nitrotpm_has_its_own_condition_keys_and_fields(
    watched: Watched, nitro_authority: Authority
) -> None:
    now = datetime.now(UTC)
    leaf = nitro_authority.issue_leaf(MODULE_ID, now)
    pcrs = {index: bytes([index]) * 48 for index in range(24)}
    signed_payload = cbor2.dumps(
        {
            "module_id": "i-0123456789abcdef0-tpm0000000000000000",
            "digest": "SHA384",
            "timestamp": int(now.timestamp() * 1000),
            "nitrotpm_pcrs": pcrs,
            "certificate": leaf.certificate,
            "cabundle": list(leaf.cabundle),
            "public_key": spki(rsa_key()),
            "user_data": None,
            "nonce": None,
        }
    )
    document = sign1(signed_payload, leaf.key)
    for name, value, allowed in (
        ("NitroTPMPCR4", pcrs[4].hex(), True),
        ("NitroTPMPCR4", pcrs[7].hex(), False),
        ("PCR4", pcrs[4].hex(), False),
        ("ImageSha384", pcrs[0].hex(), False),
    ):
        given = policy({"StringEquals": {f"kms:RecipientAttestation:{name}": value}})
        key = watched.call("CreateKey", Policy=given)["KeyMetadata"]["KeyId"]
        sealed = watched.call("Encrypt", KeyId=key, Plaintext="AAAA")["CiphertextBlob"]
        response = watched.call("Decrypt", CiphertextBlob=sealed, Recipient=recipient(document))
        assert ("CiphertextForRecipient" in response) == allowed, name
        if allowed:
            fields = watched.events[-1]["additionalEventData"]["recipient"]
            assert fields["attestationDocumentNitroTPMPCR4"] == base64.b64encode(pcrs[4]).decode()
            assert "attestationDocumentEnclaveImageDigest" not in fields
