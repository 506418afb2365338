"""Why a request is refused: which statement and condition, the value wanted and the value sent."""

from __future__ import annotations

from typing import Any

import pytest

from parent.policy import explain
from parent.policy.actions import Platform, PolicyError, find
from parent.policy.evaluate import Document, Outcome, Request
from parent.policy.explain import Refusal
from parent.policy.measured import Measured, of_image
from tests.parent.policy.policies import (
    A0,
    DEBUG,
    IMAGE,
    KEY,
    NEW,
    OLD,
    PCR,
    ROLE,
    ROOT,
    SESSION,
    TPM,
    compares,
    parsed,
    statement,
)

DECRYPT = find("Decrypt")


@pytest.mark.parametrize(
    ("document", "outcome", "remark"),
    [
        (OLD, Outcome.ALLOWED, ""),
        (NEW, Outcome.NOT_ALLOWED, "of another image"),
        (DEBUG, Outcome.NOT_ALLOWED, "debug mode"),
        (Document.NONE, Outcome.NOT_ALLOWED, "no attestation document"),
        (Document.UNKNOWN, Outcome.UNKNOWN, ""),
    ],
)
def test_explain(document: Measured | Document, outcome: Outcome, remark: str) -> None:
    request = Request(DECRYPT, SESSION, document=document)
    explanation = explain.explain(parsed(compares(A0)), request)
    assert explanation.outcome is outcome
    [step] = explanation.steps
    [check] = step.checks
    assert remark in explain.remark(check, request)
    lines = list(explanation.lines())
    assert lines[0] == f"kms:Decrypt by {SESSION}: {outcome.value}"
    assert f"    wanted {A0}" in lines
    if isinstance(document, Measured):
        assert f"    got    {document.pcrs[0].hex()}" in lines
    assert ("    got    none" in lines) == (document is Document.NONE)
    found = explanation.as_json()
    assert found["Outcome"] == outcome.name
    assert found["Statements"][0]["Line"] == step.statement.line
    assert found["Statements"][0]["Conditions"][0]["Expected"] == [A0]


def remarks(condition: dict[str, Any], document: Measured, action: str = "Decrypt") -> list[str]:
    request = Request(find(action), SESSION, KEY, document)
    policy = parsed(statement(Action="kms:*", Condition=condition))
    [step] = explain.explain(policy, request).steps
    return [explain.remark(check, request) for check in step.checks]


INSTANCE = Measured({4: b"\4" * 48}, "instance", Platform.INSTANCE)


@pytest.mark.parametrize(
    ("condition", "document", "expected"),
    [
        ({"StringEquals": {IMAGE: A0.upper()}}, OLD, "only the case differs"),
        ({"StringEquals": {f"{PCR}8": A0}}, NEW, "only locked PCRs are listed"),
        ({"StringEquals": {f"{PCR}8": A0}}, of_image(NEW.pcrs, "x"), "the image is not signed"),
        ({"StringEquals": {f"{PCR}5": A0}}, of_image(NEW.pcrs, "x"), "nothing was measured"),
        ({"StringEquals": {f"{PCR}32": A0}}, OLD, "KMS has no such condition key"),
        ({"StringEquals": {"kms:MacAlgorithm": "x"}}, OLD, "never have this condition key"),
        ({"StringEquals": {IMAGE: "a0"}}, NEW, "no value is 96 hexadecimal digits"),
        ({"StringEquals": {IMAGE: A0}}, INSTANCE, "of an instance has no such PCR"),
        ({"StringEquals": {f"{TPM}4": A0}}, OLD, "of an enclave has no such PCR"),
        ({"stringequals": {IMAGE: A0}}, OLD, "no operator stringequals: write StringEquals"),
        ({"StringEquals": {IMAGE: []}}, OLD, "no value is listed"),
        ({"Null": {IMAGE: "true"}}, OLD, ""),
        ({"StringNotEquals": {IMAGE: A0}}, OLD, ""),
        ({"StringEquals": {"aws:SourceVpc": "x"}}, OLD, ""),
    ],
)
def test_remarks(condition: dict[str, Any], document: Measured, expected: str) -> None:
    [found] = remarks(condition, document)
    assert expected in found
    assert bool(expected) == bool(found)


@pytest.mark.parametrize(
    ("condition", "outcome"),
    [
        ({"StringEquals": {"kms:ViaService": "s3.eu-central-1.amazonaws.com"}}, "NOT_ALLOWED"),
        ({"StringLike": {"KMS:viaservice": "*"}}, "NOT_ALLOWED"),
        ({"ForAnyValue:StringEquals": {"aws:CalledVia": "s3.amazonaws.com"}}, "NOT_ALLOWED"),
        ({"Null": {"aws:CalledViaFirst": "false"}}, "NOT_ALLOWED"),
        ({"Bool": {"aws:ViaAWSService": "true"}}, "NOT_ALLOWED"),
        ({"Bool": {"aws:ViaAWSService": "false"}}, "ALLOWED"),
        ({"StringNotEquals": {"kms:ViaService": "s3.eu-central-1.amazonaws.com"}}, "ALLOWED"),
        ({"Null": {"aws:CalledVia": "true"}}, "ALLOWED"),
    ],
)
def test_a_request_with_a_document_comes_through_no_service(
    condition: dict[str, Any], outcome: str
) -> None:
    policy = parsed(statement(Condition=condition))
    found = explain.explain(policy, Request(DECRYPT, SESSION, KEY, OLD))
    assert found.outcome is Outcome[outcome]
    [check] = found.steps[0].checks
    assert "--context" in explain.remark(check, found.request)
    # Of a request whose document is not known, nothing is known of this either.
    unknown = Request(DECRYPT, SESSION, KEY, Document.UNKNOWN)
    assert explain.explain(policy, unknown).outcome is Outcome.UNKNOWN
    # And what is given counts.
    [key] = next(iter(condition.values()))
    given = Request(DECRYPT, SESSION, KEY, OLD, {key.lower(): ("other",)})
    [check] = explain.explain(policy, given).steps[0].checks
    assert check.actual == ("other",)
    assert not explain.remark(check, given)


def test_an_operation_without_recipient() -> None:
    [found] = remarks({"StringEquals": {IMAGE: A0}}, OLD, "Sign")
    assert found == "requests for kms:Sign take no Recipient: the key is absent"


@pytest.mark.parametrize(
    ("changes", "request_changes", "missing"),
    [
        (
            {"Condition": {"StringEquals": {"aws:SourceVpc": "x"}}},
            {},
            ["the value of aws:SourceVpc (--context aws:SourceVpc=VALUE)"],
        ),
        ({"Resource": KEY}, {"key": None}, ["which key (--key)"]),
        (
            {},
            {"document": Document.UNKNOWN},
            ["the attestation document of the request (--document)"],
        ),
        (
            {"Condition": {"StringEquals": {f"{PCR}3": A0}}},
            {"document": of_image(OLD.pcrs, "x.eif")},
            [f"the value of {PCR}3, which x.eif does not tell (--parent-role)"],
        ),
        (
            {"Condition": {"NumericEquals": {IMAGE: "1"}}},
            {},
            [f"how NumericEquals {IMAGE} compares"],
        ),
        ({"Principal": ROOT}, {}, ["the IAM policies of the caller"]),
        ({"Principal": None}, {}, ["the key's own policy"]),
        ({}, {}, []),
        ({"Condition": {"StringEquals": {IMAGE: "x", "aws:SourceVpc": "x"}}}, {}, []),
    ],
)
def test_what_is_missing_to_tell(
    changes: dict[str, Any], request_changes: dict[str, Any], missing: list[str]
) -> None:
    known = {"key": KEY, "document": OLD, **request_changes}
    request = Request(DECRYPT, SESSION, **known)
    explanation = explain.explain(parsed(statement(**changes)), request)
    assert list(explanation.missing) == missing
    assert [line for line in explanation.lines() if line.startswith("not known: ")] == [
        f"not known: {text}" for text in missing
    ]


def test_the_caller_is_missing() -> None:
    other = compares("b0" * 48, Principal={"AWS": f"{ROLE}2"})
    explanation = explain.explain(parsed(statement(), other), Request(DECRYPT, document=OLD))
    assert explanation.outcome is Outcome.UNKNOWN
    assert explanation.missing == ("who calls (--principal)",)


def test_the_statement_that_denies_is_named() -> None:
    guard = statement(
        Sid="guard", Effect="Deny", Principal="*", Condition={"Null": {IMAGE: "true"}}
    )
    explanation = explain.explain(parsed(statement(), guard), Request(DECRYPT, SESSION))
    [line] = [text for text in explanation.remarks if text.startswith("denied by")]
    place = explanation.steps[1].statement.line
    assert line == f"denied by guard (line {place}): Null {IMAGE} is met"


REFUSAL = (
    "An error occurred (AccessDeniedException) when calling the Decrypt operation: User: "
    f"{SESSION} is not authorized to perform: kms:Decrypt on resource: {KEY} "
)


@pytest.mark.parametrize(
    ("ending", "policy", "is_explicit"),
    [
        ("with an explicit deny in a resource-based policy", "resource-based policy", True),
        ("because no resource-based policy allows the action", "resource-based policy", False),
        ("because no identity-based policy allows the action", "identity-based policy", False),
        ("because no session policy allows the kms:Decrypt action", "session policy", False),
        ("because no permissions boundary allows the action", "permissions boundary", False),
        ("because no VPC endpoint policy allows the action", "VPC endpoint policy", False),
        (
            "with an explicit deny in a service control policy: arn:x",
            "service control policy",
            True,
        ),
        ("with an explicit deny in a resource control policy", "resource control policy", True),
        ("", None, False),
    ],
)
def test_the_message_of_kms(ending: str, policy: str | None, is_explicit: bool) -> None:
    refusal = explain.read_refusal(REFUSAL + ending)
    request = Request(DECRYPT, SESSION, KEY, Document.UNKNOWN)
    assert refusal == Refusal(request, policy, is_explicit)
    found = explain.explain(parsed(statement()), request, refusal).remarks
    told = f"KMS says that the refusal comes from another policy: {policy}"
    assert (told in found) is (policy not in (None, "resource-based policy"))


def test_a_message_that_does_not_fit_the_policy() -> None:
    refusal = explain.read_refusal(REFUSAL + "with an explicit deny in a resource-based policy")
    request = Request(DECRYPT, SESSION, KEY, OLD)
    for policy in (parsed(statement()), parsed(statement(Principal={"AWS": f"{ROLE}2"}))):
        remarks = explain.explain(policy, request, refusal).remarks
        assert any("the policy in force is another one" in text for text in remarks)


def test_a_message_broken_into_lines() -> None:
    text = REFUSAL + "because no identity-based policy allows the kms:Decrypt action"
    whole = explain.read_refusal(text)
    assert explain.read_refusal(text.replace(" ", "\n    ")) == whole
    # As a log has it: once for each try.
    assert explain.read_refusal(f"{text}\n{text}") == whole


def test_one_of_several_refusals() -> None:
    other = REFUSAL.replace("kms:Decrypt", "kms:Sign")
    with pytest.raises(PolicyError, match="2 different refusals"):
        explain.read_refusal(f"{REFUSAL}\n{other}")


def test_the_message_in_json() -> None:
    refusal = explain.read_refusal('{"Message":"' + REFUSAL.strip() + '"}')
    assert refusal.request.key == KEY


@pytest.mark.parametrize(
    "message",
    [
        "ThrottlingException: Rate exceeded",
        f"User: {SESSION} is not authorized to perform: s3:Get",
        f"User: {SESSION}\x1b[31m is not authorized to perform: kms:Decrypt",
    ],
)
def test_another_message(message: str) -> None:
    with pytest.raises(PolicyError, match="not KMS's"):
        explain.read_refusal(message)


def test_no_statement_is_about_it() -> None:
    explanation = explain.explain(parsed(statement()), Request(find("Encrypt"), document=OLD))
    assert list(explanation.lines())[-1] == "no statement is about this action and this caller"


def test_what_no_key_policy_governs() -> None:
    explanation = explain.explain(
        parsed(statement(Action="kms:GenerateRandom")), Request(find("GenerateRandom"))
    )
    assert explanation.outcome is Outcome.NOT_GOVERNED
    assert "IAM policies alone decide" in list(explanation.lines())[1]


def test_a_resource_that_is_not_the_key() -> None:
    for changes in ({"Resource": f"{KEY}2"}, {"Resource": None}):
        request = Request(DECRYPT, SESSION, KEY, OLD)
        explanation = explain.explain(parsed(statement(**changes)), request)
        assert any(line.startswith("  Resource: ") for line in explanation.lines())
