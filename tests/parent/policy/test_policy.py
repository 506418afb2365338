"""Policies: what is written, and which mistakes are found."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parent.policy import explain, generate
from parent.policy.explain import Request
from parent.policy.language import MAX_POLICY, PolicyError, Statement, parse
from parent.policy.lint import lint
from parent.policy.measured import Measured

ROLE, ADMINISTRATOR = "arn:aws:iam::111122223333:role/enclave", "arn:aws:iam::111122223333:user/a"
SESSION = "arn:aws:sts::111122223333:assumed-role/enclave/i-1"
IMAGE = "kms:RecipientAttestation:ImageSha384"
PCR = "kms:RecipientAttestation:PCR"
OLD = Measured({0: b"\xa0" * 48, 1: b"\xa1" * 48, 2: b"\xa2" * 48, 8: b"\xa8" * 48}, "old")
NEW = Measured({0: b"\xb0" * 48, 1: b"\xb1" * 48, 2: b"\xb2" * 48}, "new")
DEBUG = Measured({0: bytes(48), 1: bytes(48), 2: bytes(48), 8: b"\xa8" * 48}, "debug")
A0, B0 = "a0" * 48, "b0" * 48


def key_policy(*measured: Measured, **changes: Any) -> dict[str, Any]:
    people: dict[str, Any] = {"roles": [ROLE], "administrators": [ADMINISTRATOR]}
    return generate.key_policy(measured, **{**people, **changes})


def conditions(policy: dict[str, Any]) -> list[Any]:
    return [s["Condition"] for s in policy["Statement"] if "Condition" in s]


def test_a_key_policy() -> None:
    administration, use = key_policy(OLD)["Statement"]
    assert administration["Principal"] == {"AWS": [ADMINISTRATOR]}
    assert "kms:PutKeyPolicy" in administration["Action"]
    assert not {"kms:*", "kms:Decrypt", "kms:CreateGrant"} & set(administration["Action"])
    assert use == {
        "Sid": "AttestedUse",
        "Effect": "Allow",
        "Principal": {"AWS": [ROLE]},
        "Action": [
            "kms:Decrypt", "kms:DeriveSharedSecret", "kms:GenerateDataKey",
            "kms:GenerateDataKeyPair",
        ],
        "Resource": "*",
        "Condition": {"StringEqualsIgnoreCase": {IMAGE: A0}},
    }  # fmt: skip


def test_a_rolling_upgrade() -> None:
    assert conditions(key_policy(OLD, NEW, OLD)) == [{"StringEqualsIgnoreCase": {IMAGE: [A0, B0]}}]
    # Several keys with several values each would let images be mixed.
    several = key_policy(OLD, NEW, conditions=["PCR1", "PCR2"])
    assert conditions(several) == [
        {"StringEqualsIgnoreCase": {f"{PCR}1": "a1" * 48, f"{PCR}2": "a2" * 48}},
        {"StringEqualsIgnoreCase": {f"{PCR}1": "b1" * 48, f"{PCR}2": "b2" * 48}},
    ]
    assert [s["Sid"] for s in several["Statement"][1:]] == ["AttestedUse1", "AttestedUse2"]


def test_the_guard() -> None:
    guard = key_policy(OLD, deny_outside=True)["Statement"][-1]
    assert (guard["Effect"], guard["Principal"]) == ("Deny", {"AWS": "*"})
    assert guard["Condition"] == {"Null": {IMAGE: "true"}}
    assert "kms:ReEncryptFrom" in guard["Action"]
    assert "kms:PutKeyPolicy" not in guard["Action"]


def test_an_iam_policy() -> None:
    assert generate.iam_policy([OLD], conditions=["PCR8"])["Statement"] == [
        {
            "Sid": "AttestedRandom",
            "Effect": "Allow",
            "Action": "kms:GenerateRandom",
            "Resource": "*",
            "Condition": {"StringEqualsIgnoreCase": {f"{PCR}8": "a8" * 48}},
        }
    ]


@pytest.mark.parametrize(
    ("measured", "changes", "reason"),
    [
        ([DEBUG], {}, "debug mode"),
        ([DEBUG], {"conditions": ["PCR8"]}, "debug mode"),
        ([NEW], {"conditions": ["PCR8"]}, "no PCR8 in new"),
        ([Measured({**NEW.pcrs, 8: bytes(48)}, "x")], {"conditions": ["PCR8"]}, "PCR8 is zero"),
        ([NEW], {"conditions": ["PCR32"]}, "'PCR32' is neither"),
        ([NEW], {"conditions": []}, "something of it to compare"),
        ([], {}, "needs an enclave"),
        ([NEW], {"roles": []}, "needs a role"),
        ([NEW], {"administrators": []}, "needs a role"),
    ],
)
def test_what_cannot_be_written(
    measured: list[Measured], changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(PolicyError, match=reason):
        key_policy(*measured, **changes)


def statement(**changes: Any) -> dict[str, Any]:
    """One that is as it should be, but for the changes."""
    good = {
        "Sid": "use",
        "Effect": "Allow",
        "Principal": {"AWS": ROLE},
        "Action": ["kms:Decrypt", "kms:PutKeyPolicy"],
        "Resource": "*",
        "Condition": {"StringEqualsIgnoreCase": {IMAGE: A0}},
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def parsed(*statements: dict[str, Any]) -> tuple[Statement, ...]:
    return parse(json.dumps({"Version": "2012-10-17", "Statement": list(statements)}))


ROOT = {"AWS": "arn:aws:iam::111122223333:root"}
DEFAULT = statement(Principal=ROOT, Action="kms:*", Condition=None)
NULL_GUARD = statement(
    Effect="Deny", Principal="*", Action="kms:*", Condition={"Null": {IMAGE: "true"}}
)
IMAGE_GUARD = statement(
    Effect="Deny",
    Principal="*",
    Action="kms:*",
    Condition={"StringNotEqualsIgnoreCase": {IMAGE: A0}},
)


def compares(value: object, *, key: str = IMAGE, operator: str = "StringEquals") -> dict[str, Any]:
    return statement(Condition={operator: {key: value}})


LINT: dict[str, tuple[list[dict[str, Any]], set[str]]] = {
    "good": ([statement()], set()),
    "by PCR0": ([compares(A0, key=f"{PCR}0")], set()),
    "by signer": ([compares(A0, key=f"{PCR}8")], set()),
    "by PCR1 and PCR2": (
        [statement(Condition={"StringEquals": {f"{PCR}1": A0, f"{PCR}2": B0}})],
        set(),
    ),
    "PCR2 alone": ([compares(A0, key=f"{PCR}2")], {"any-image"}),
    "only the parent's role": ([compares(A0, key=f"{PCR}3")], {"any-image"}),
    "AWS's default": ([DEFAULT], {"unattested", "grant"}),
    "default, and a guard": ([DEFAULT, NULL_GUARD], {"any-image"}),
    "default, and a guard of the image": ([DEFAULT, IMAGE_GUARD], set()),
    "a guard for one caller only": (
        [DEFAULT, {**NULL_GUARD, "Principal": {"AWS": ROLE}}],
        {"unattested", "grant"},
    ),
    "anybody": ([statement(Principal="*", Condition=None)], {"unattested"}),
    "all but some": ([statement(NotPrincipal=ROOT, Principal=None)], set()),
    "all actions but": ([statement(Action=None, NotAction="kms:Encrypt")], set()),
    "all actions but, open": (
        [statement(Action=None, NotAction="kms:Encrypt", Condition=None)],
        {"unattested", "grant"},
    ),
    "default as AWS mends it": (
        [statement(Principal=ROOT, Action=None, NotAction="kms:Decrypt", Condition=None)],
        {"unattested", "grant"},
    ),
    "re-encryption": (
        [statement(), statement(Action="kms:ReEncrypt*", Condition=None)],
        {"unattested"},
    ),
    "re-encryption denied": (
        [
            statement(),
            statement(Action="kms:ReEncrypt*", Condition=None),
            statement(Effect="Deny", Principal="*", Action="kms:ReEncryptFrom", Condition=None),
        ],
        set(),
    ),
    "encryption": ([statement(), statement(Action="kms:Encrypt", Condition=None)], set()),
    "another condition": ([compares("x", key="aws:SourceVpc")], {"unattested"}),
    "debug": ([compares("0" * 96)], {"debug"}),
    "one good value, one of debug": ([compares([A0, "0" * 96])], {"debug"}),
    "short": ([compares("a0")], {"length"}),
    "not hexadecimal": ([compares("g" * 96)], {"length"}),
    "upper case": ([compares(A0.upper())], {"case"}),
    "upper case, ignored": (
        [compares(A0.upper(), operator="StringEqualsIgnoreCase")],
        set(),
    ),
    "misspelt key": ([compares(A0, key="kms:RecipientAttestation:PCR_0")], {"key", "unattested"}),
    "misspelt prefix": ([compares(A0, key="kms:Recipient:ImageSha384")], {"key", "unattested"}),
    "PCR32": ([compares(A0, key=f"{PCR}32")], {"key", "unattested"}),
    "of NitroTPM": (
        [compares(A0, key="kms:RecipientAttestation:NitroTPMPCR4")],
        {"key", "unattested"},
    ),
    "key in another case": ([compares(A0, key=IMAGE.upper())], set()),
    "any document": (
        [statement(Condition={"Null": {IMAGE: False}})],
        {"any-image"},
    ),
    "if there is one": (
        [compares(A0, operator="StringEqualsIfExists")],
        {"if-exists", "unattested"},
    ),
    "for all values": (
        [compares(A0, operator="ForAllValues:StringEquals")],
        {"quantifier", "unattested"},
    ),
    "for any value": ([compares(A0, operator="ForAnyValue:StringEquals")], {"quantifier"}),
    "not this one": ([compares(A0, operator="StringNotEquals")], {"negated", "unattested"}),
    "wildcard": ([compares("a0*", operator="StringLike")], {"wildcard"}),
    "numbers": ([compares("1", operator="NumericEquals")], {"operator", "unattested"}),
    "ImageSha384 is not PCR0": (
        [statement(Condition={"StringEquals": {IMAGE: A0, f"{PCR}0": B0}})],
        {"contradiction"},
    ),
    "ImageSha384 and PCR0 agree": (
        [statement(Condition={"StringEquals": {IMAGE: A0, f"{PCR}0": [B0, A0]}})],
        set(),
    ),
    "locked": ([statement(Action="kms:Decrypt")], {"locked"}),
    "of IAM": ([statement(Principal=None, Action="kms:GenerateRandom")], set()),
    "of IAM, open": (
        [statement(Principal=None, Action="kms:*", Condition=None)],
        {"unattested", "grant"},
    ),
}


@pytest.mark.parametrize("name", LINT)
def test_lint(name: str) -> None:
    statements, rules = LINT[name]
    findings = lint(parsed(*statements))
    assert {finding.rule for finding in findings} == rules
    assert all(str(f).startswith("error: ") == f.is_error for f in findings)


def test_what_is_generated_passes() -> None:
    for guard in (False, True):
        for names in (["ImageSha384"], ["PCR1", "PCR2"], ["PCR0", "PCR1", "PCR2"]):
            policy = key_policy(OLD, NEW, conditions=names, deny_outside=guard)
            assert lint(parse(json.dumps(policy))) == []
    assert lint(parse(json.dumps(generate.iam_policy([OLD])))) == []


def test_what_get_key_policy_prints() -> None:
    policy = json.dumps({"Statement": statement()})
    assert parse(json.dumps({"Policy": policy, "PolicyName": "default"})) == parse(policy)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 30_000,
        "{}",
        "[]",
        '{"Policy": "x"}',
        '{"Statement": []}',
        '{"Statement": [1]}',
        json.dumps({"Statement": statement(Effect="allow")}),
        json.dumps({"Statement": statement(Action=None)}),
        json.dumps({"Statement": statement(Action=[1])}),
        json.dumps({"Statement": statement(Principal=[ROLE])}),
        json.dumps({"Statement": statement(Condition=[])}),
        json.dumps({"Statement": statement(Condition={"StringEquals": A0})}),
        json.dumps({"Statement": statement(Condition={"StringEquals": {IMAGE: "\x1b[2J"}})}),
        json.dumps({"Statement": statement(Condition={"\x1b": {IMAGE: "x"}})}),
        " " * (2 * MAX_POLICY + 1),
    ],
    ids=range(16),
)
def test_what_is_no_policy(text: str) -> None:
    with pytest.raises(PolicyError):
        parse(text)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.text(max_size=5)
        | st.sampled_from([IMAGE, "Allow", "kms:*"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["Statement", "Effect", "Action", "Principal", "Condition", "Null", IMAGE]
                ),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_only_the_documented_error(document: Any) -> None:
    try:
        statements = parse(json.dumps({"Statement": document}))
    except PolicyError:
        return
    lint(statements)
    list(explain.explain(statements, Request("kms:Decrypt", ROLE), OLD).lines())
