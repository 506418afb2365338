"""Why a request is refused: which condition, and by what value."""

from __future__ import annotations

import json
from typing import Any

import pytest

from parent.policy import explain
from parent.policy.explain import Outcome, Request
from parent.policy.language import PolicyError, parse
from parent.policy.measured import Measured
from tests.parent.policy.test_policy import (
    A0,
    B0,
    DEBUG,
    DEFAULT,
    IMAGE,
    IMAGE_GUARD,
    NEW,
    NULL_GUARD,
    OLD,
    PCR,
    SESSION,
    compares,
    key_policy,
    parsed,
    statement,
)


@pytest.mark.parametrize(
    ("measured", "outcome", "remark"),
    [
        (OLD, Outcome.ALLOWED, ""),
        (NEW, Outcome.NOT_ALLOWED, "of another image"),
        (DEBUG, Outcome.NOT_ALLOWED, "debug mode"),
        (None, Outcome.NOT_ALLOWED, "no attestation document"),
    ],
)
def test_explain(measured: Measured | None, outcome: Outcome, remark: str) -> None:
    statements = parse(json.dumps(key_policy(OLD)))
    explanation = explain.explain(statements, Request("kms:Decrypt", SESSION), measured)
    assert explanation.outcome is outcome
    [step] = explanation.steps
    [check] = step.checks
    assert remark in check.remark
    lines = list(explanation.lines())
    assert lines[0] == f"kms:Decrypt by {SESSION}: {outcome.value}"
    assert f"    wanted {A0}" in lines
    assert f"    got    {measured.pcrs[0].hex() if measured else 'none'}" in lines
    document = explanation.as_json()
    assert document["Outcome"] == outcome.name
    assert document["Statements"][0]["Conditions"][0]["Expected"] == [A0]


@pytest.mark.parametrize(
    ("statements", "outcome"),
    [
        ([statement(), NULL_GUARD], Outcome.ALLOWED),
        ([DEFAULT, {**IMAGE_GUARD, "Condition": {"StringNotEquals": {IMAGE: B0}}}], Outcome.DENIED),
        ([statement(Effect="Deny", Condition=None), DEFAULT], Outcome.DENIED),
        ([compares("x", key="aws:SourceVpc")], Outcome.UNKNOWN),
        ([DEFAULT, {**compares("x", key="aws:SourceVpc"), "Effect": "Deny"}], Outcome.UNKNOWN),
        ([compares(A0, operator="NumericEquals")], Outcome.UNKNOWN),
        ([statement(Principal={"AWS": "arn:aws:iam::111122223333:role/x"})], Outcome.NOT_ALLOWED),
        ([statement(Principal={"AWS": "444455556666"})], Outcome.NOT_ALLOWED),
        ([statement(Principal={"AWS": "111122223333"})], Outcome.ALLOWED),
        ([statement(Principal={"Service": "ec2.amazonaws.com"})], Outcome.NOT_ALLOWED),
        ([compares(A0[:-2] + "*", operator="StringLike")], Outcome.ALLOWED),
        ([compares(A0.upper())], Outcome.NOT_ALLOWED),
        ([compares("x", operator="ForAllValues:StringEquals", key=f"{PCR}9")], Outcome.ALLOWED),
        ([compares("x", operator="StringEqualsIfExists", key=f"{PCR}9")], Outcome.ALLOWED),
    ],
)
def test_outcomes(statements: list[dict[str, Any]], outcome: Outcome) -> None:
    request = Request("kms:Decrypt", SESSION)
    assert explain.explain(parsed(*statements), request, OLD).outcome is outcome


@pytest.mark.parametrize(
    ("condition", "measured", "remark"),
    [
        ({"StringEquals": {IMAGE: A0.upper()}}, OLD, "only the case differs"),
        ({"StringEquals": {f"{PCR}8": A0}}, NEW, "no such PCR"),
        (
            {"StringEquals": {f"{PCR}1": A0}},
            Measured({**OLD.pcrs, 1: bytes(48)}, "x"),
            "nothing was",
        ),
        ({"StringEquals": {"aws:SourceVpc": "x"}}, OLD, "cannot be told"),
        ({"Null": {IMAGE: "true"}}, OLD, ""),
    ],
)
def test_remarks(condition: dict[str, Any], measured: Measured, remark: str) -> None:
    statements = parsed(statement(Condition=condition))
    [step] = explain.explain(statements, Request("kms:Decrypt"), measured).steps
    assert remark in step.checks[0].remark
    assert bool(step.checks[0].remark) == bool(remark)


REFUSAL = (
    "An error occurred (AccessDeniedException) when calling the Decrypt operation: User: "
    f"{SESSION} is not authorized to perform: kms:Decrypt on resource: arn:aws:kms:eu-central-1:"
    "111122223333:key/k "
)


@pytest.mark.parametrize(
    ("ending", "refused_by"),
    [
        ("with an explicit deny in a resource-based policy", "resource-based"),
        ("because no resource-based policy allows the kms:Decrypt action", "resource-based"),
        ("because no identity-based policy allows the kms:Decrypt action", "identity-based"),
        ("", None),
    ],
)
def test_kmss_message(ending: str, refused_by: str | None) -> None:
    request = explain.read_refusal(REFUSAL + ending)
    assert request == Request("kms:Decrypt", SESSION, refused_by)
    remark = explain.explain(parsed(statement()), request, OLD).remark
    assert bool(remark) == (refused_by == "identity-based")


def test_another_message() -> None:
    with pytest.raises(PolicyError, match="that is not KMS's"):
        explain.read_refusal("ThrottlingException: Rate exceeded")


def test_no_statement_is_about_it() -> None:
    explanation = explain.explain(parsed(statement()), Request("kms:Encrypt"), OLD)
    assert list(explanation.lines())[-1] == "no statement is about this action and this caller"
