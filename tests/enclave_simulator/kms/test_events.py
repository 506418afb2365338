"""CloudTrail-shaped events, and the reasons for refusals."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from enclave_simulator.kms.outputs import EventFile, report_refusal
from enclave_simulator.kms.policy import Access, parse_policy
from enclave_simulator.kms.refusals import explain
from enclave_simulator.kms.service import KmsService
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
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
