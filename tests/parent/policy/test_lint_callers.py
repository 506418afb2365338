"""Whom lint takes a statement to let in: by the caller, by a grant, and despite a Deny."""

from __future__ import annotations

from typing import Any

import pytest

from parent.policy.lint import lint
from tests.parent.policy.lint_cases import denies
from tests.parent.policy.policies import (
    A0,
    ACCOUNT,
    ADMINISTRATION,
    IMAGE,
    KEY,
    ROLE,
    ROOT,
    compares,
    parsed,
    statement,
)

ORGANIZATION = "o-a1b2c3d4e5"
ROLE_ID = "AROAEXAMPLEEXAMPLEID"


def rules(*statements: dict[str, Any]) -> set[str]:
    return {finding.rule for finding in lint(parsed(ADMINISTRATION, *statements))}


def of_callers(operator: str, key: str, value: object) -> set[str]:
    """Return the rules that find something where everyone is named who meets a condition."""
    return rules(
        statement(
            Principal="*", Condition={"StringEqualsIgnoreCase": {IMAGE: A0}, operator: {key: value}}
        )
    )


@pytest.mark.parametrize(
    ("operator", "key", "value"),
    [
        ("StringEquals", "kms:CallerAccount", ACCOUNT),
        ("StringEquals", "KMS:calleraccount", [ACCOUNT, "444455556666"]),
        ("StringLike", "aws:PrincipalAccount", ACCOUNT),
        ("ArnLike", "aws:PrincipalArn", f"arn:aws:iam::{ACCOUNT}:role/*"),
        ("ArnEquals", "aws:PrincipalArn", f"arn:aws:iam::{ACCOUNT}:role/enclave"),
        ("StringLike", "aws:PrincipalArn", f"arn:aws:iam::{ACCOUNT}:role/a?"),
        ("StringEquals", "aws:PrincipalOrgID", ORGANIZATION),
        ("ForAnyValue:StringLike", "aws:PrincipalOrgPaths", f"{ORGANIZATION}/r-ab12/*"),
        ("StringLike", "aws:userid", f"{ROLE_ID}:*"),
        ("StringEquals", "aws:SourceVpce", "vpce-1a2b3c4d"),
        ("IpAddress", "aws:SourceIp", "203.0.113.0/24"),
        ("IpAddress", "aws:SourceIp", "203.0.113.10"),
    ],
)
def test_some_callers_are_not_anyone(operator: str, key: str, value: object) -> None:
    assert of_callers(operator, key, value) == set()


@pytest.mark.parametrize(
    ("operator", "key", "value"),
    [
        # A role of that name, that tag, that session or that private address: anybody makes one.
        ("ArnLike", "aws:PrincipalArn", "arn:aws:iam::*:role/enclave"),
        ("ArnEquals", "aws:PrincipalArn", "arn:aws:iam::*:role/enclave"),
        ("StringLike", "aws:PrincipalArn", "*:role/enclave"),
        ("ArnLike", "aws:PrincipalArn", f"arn:aws:iam::{ACCOUNT[:-1]}?:role/enclave"),
        (
            "ArnLike",
            "aws:PrincipalArn",
            [f"arn:aws:iam::{ACCOUNT}:role/a", "arn:aws:iam::*:role/b"],
        ),
        ("StringEquals", "aws:PrincipalTag/team", "enclave"),
        ("StringEquals", "aws:username", "enclave"),
        ("StringLike", "aws:userid", "*:i-1"),
        ("IpAddress", "aws:VpcSourceIp", "10.0.0.0/8"),
        ("StringLike", "kms:CallerAccount", "1*"),
        ("StringLike", "aws:PrincipalOrgID", [ORGANIZATION, "o-*"]),
        ("ForAnyValue:StringLike", "aws:PrincipalOrgPaths", "o-*/r-ab12/*"),
        ("IpAddress", "aws:SourceIp", "0.0.0.0/0"),
        ("IpAddress", "aws:SourceIp", ["203.0.113.0/24", "::/0"]),
        ("Null", "kms:CallerAccount", "false"),
        ("StringEqualsIfExists", "kms:CallerAccount", ACCOUNT),
        ("StringNotEquals", "kms:CallerAccount", ACCOUNT),
        ("ForAllValues:StringEquals", "kms:CallerAccount", ACCOUNT),
    ],
)
def test_callers_that_anybody_may_be(operator: str, key: str, value: object) -> None:
    assert of_callers(operator, key, value) == {"anyone"}


@pytest.mark.parametrize(
    ("operator", "key", "value"),
    [
        ("ForAnyValue:StringEquals", "aws:CalledVia", "athena.amazonaws.com"),
        ("StringEquals", "kms:ViaService", "s3.eu-central-1.amazonaws.com"),
    ],
)
def test_a_service_acts_for_anybody(operator: str, key: str, value: object) -> None:
    assert of_callers(operator, key, value) == {"anyone", "through-a-service"}


@pytest.mark.parametrize(
    ("operator", "key", "value"),
    [
        ("StringEquals", "kms:CallerAccount", "*"),
        ("StringEquals", "aws:PrincipalArn", f"arn:aws:iam::{ACCOUNT}:role/*"),
        ("StringEquals", "aws:PrincipalOrgID", "o-?"),
    ],
)
def test_wildcards_that_are_none(operator: str, key: str, value: object) -> None:
    """No caller has them, so it lets in nobody: it is not said to let in anyone."""
    assert of_callers(operator, key, value) == {"wildcard"}


def test_wildcards_that_are_none_in_a_deny() -> None:
    guard = denies({"StringNotEquals": {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/*"}})
    assert "wildcard" in rules(statement(), guard)
    context = compares("a*", key="kms:EncryptionContext:pattern", operator="StringEquals")
    assert "wildcard" not in rules(context)


ANY_IMAGE = compares("false", operator="Null")
DIFFERS = {"StringNotEqualsIgnoreCase": {IMAGE: A0}}


@pytest.mark.parametrize(
    ("allow", "deny", "expected"),
    [
        ("*", "*", set()),
        (KEY, "*", set()),
        (KEY, KEY, {"resource"}),
        (KEY, f"{KEY}2", {"resource", "any-image"}),
        (KEY, KEY.replace("/k", "/*"), {"resource"}),
        (KEY.replace("/k", "/*"), KEY, {"resource", "any-image"}),
        ("*", KEY, {"resource", "any-image"}),
        ([KEY, f"{KEY}2"], KEY, {"resource", "any-image"}),
        (KEY, None, {"resource", "any-image"}),
    ],
)
def test_a_deny_guards_the_keys_that_it_names(
    allow: object, deny: object, expected: set[str]
) -> None:
    assert rules({**ANY_IMAGE, "Resource": allow}, denies(DIFFERS, Resource=deny)) == expected


def test_a_deny_without_a_document_guards_the_keys_that_it_names() -> None:
    def found(deny: str) -> set[str]:
        allow = statement(Condition=None, Resource=KEY)
        return rules(allow, denies(DIFFERS, Resource=deny))

    assert found("*") == set()
    assert found(KEY) == {"resource"}
    assert found(f"{KEY}2") == {"resource", "unattested"}


@pytest.mark.parametrize(
    ("callers", "spared"),
    [
        # Conditions on the caller beside the one on the image, and whether they spare the role.
        ({"ArnNotLike": {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/admin"}}, False),
        ({"ArnNotLike": {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/e*"}}, True),
        ({"StringNotEquals": {"aws:PrincipalArn": ROLE}}, True),
        ({"StringEquals": {"aws:PrincipalAccount": ACCOUNT}}, False),
        ({"StringEquals": {"kms:CallerAccount": "444455556666"}}, True),
        ({"StringNotEquals": {"aws:SourceVpc": "vpc-1"}}, True),  # It may be in that one.
    ],
)
@pytest.mark.parametrize("allow", [statement(Condition=None), ANY_IMAGE])
def test_a_deny_that_spares_some_callers(
    allow: dict[str, Any], callers: dict[str, Any], spared: bool
) -> None:
    found = rules(allow, denies({"StringNotEqualsIgnoreCase": {IMAGE: A0}, **callers}))
    assert bool(found) is spared
    assert found <= {"unattested", "any-image"}


def test_a_deny_must_be_for_each_caller_named() -> None:
    spares = {"ArnNotLike": {"aws:PrincipalArn": f"{ROLE}2"}}
    allow = statement(Condition=None, Principal={"AWS": [ROLE, f"{ROLE}2"]})
    assert rules(allow, denies({**DIFFERS, **spares})) == {"unattested"}
    assert rules({**allow, "Principal": {"AWS": [ROLE]}}, denies({**DIFFERS, **spares})) == set()
    # Of an account's principals it is not known who they are.
    assert rules({**allow, "Principal": ROOT}, denies({**DIFFERS, **spares})) == {"unattested"}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({}, {"grant"}),
        ({"Bool": {"kms:GrantIsForAWSResource": "true"}}, set()),
        ({"Bool": {"kms:GrantIsForAWSResource": "false"}}, {"grant"}),
        ({"BoolIfExists": {"kms:GrantIsForAWSResource": True}}, set()),
        ({"StringEquals": {"kms:GrantIsForAWSResource": "true"}}, set()),
        ({"Null": {"kms:GrantIsForAWSResource": "false"}}, {"grant"}),
        ({"ForAllValues:StringEquals": {"kms:GrantOperations": ["Encrypt", "Verify"]}}, set()),
        ({"ForAllValues:StringEquals": {"kms:GrantOperations": ["Encrypt", "Decrypt"]}}, {"grant"}),
        ({"ForAnyValue:StringEquals": {"kms:GrantOperations": "ReEncryptFrom"}}, {"grant"}),
        ({"StringEquals": {"kms:GrantConstraintType": "EncryptionContextEquals"}}, {"grant"}),
        ({"StringEquals": {"aws:PrincipalTag/a": "b"}}, {"grant"}),
    ],
)
def test_grants(condition: dict[str, Any], expected: set[str]) -> None:
    grants = statement(Sid="grants", Action="kms:CreateGrant", Condition=condition)
    assert rules(statement(), grants) == expected
