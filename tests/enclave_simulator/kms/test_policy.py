"""Key policies in the simulated KMS."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.policy import Access, parse_policy, refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

ACCOUNT = "111122223333"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/service/enclave"
PRINCIPAL = f"arn:aws:sts::{ACCOUNT}:assumed-role/enclave/i-0123456789abcdef0"
KEY = f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"

PCR0 = "ab" * 48
IMAGE = "kms:RecipientAttestation:ImageSha384"
ATTESTED = {IMAGE.lower(): (PCR0,), "kms:recipientattestation:pcr8": ("cd" * 48,)}


def statement(**changes: Any) -> dict[str, Any]:
    made = {
        "Effect": "Allow",
        "Principal": {"AWS": PRINCIPAL},
        "Action": "kms:Decrypt",
        "Resource": "*",
        **changes,
    }
    return {name: value for name, value in made.items() if value is not None}


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def access(action: str = "kms:Decrypt", **context: tuple[str, ...]) -> Access:
    return Access(PRINCIPAL, action, KEY, context)


def refused(
    *statements: dict[str, Any], context: Mapping[str, tuple[str, ...]] | None = None
) -> str:
    """The reason after the resource; empty where access is given."""
    text = refusal(
        Access(PRINCIPAL, "kms:Decrypt", KEY, context or {}),
        parse_policy(document(*statements)),
        None,
    )
    if text is None:
        return ""
    start = f"User: {PRINCIPAL} is not authorized to perform: kms:Decrypt on resource: {KEY} "
    assert text.startswith(start)
    return text.removeprefix(start)


SILENT = "because no resource-based policy allows the kms:Decrypt action"
DENIED = "with an explicit deny in a resource-based policy"


@pytest.mark.parametrize(
    ("changes", "applies"),
    [
        ({}, True),
        ({"Principal": "*"}, True),
        ({"Principal": {"AWS": "*"}}, True),
        ({"Principal": {"AWS": [f"arn:aws:iam::{ACCOUNT}:user/other", PRINCIPAL]}}, True),
        ({"Principal": {"AWS": ROLE}}, True),
        ({"Principal": {"AWS": ROOT}}, True),
        ({"Principal": {"AWS": ACCOUNT}}, True),
        ({"Principal": {"AWS": "arn:aws:iam::444455556666:root"}}, False),
        ({"Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:role/other"}}, False),
        ({"Principal": {"AWS": PRINCIPAL + "1"}}, False),
        ({"Principal": {"Service": "*"}}, False),
        ({"Action": "kms:*"}, True),
        ({"Action": "*"}, True),
        ({"Action": "KMS:decrypt"}, True),
        ({"Action": "kms:De?rypt"}, True),
        ({"Action": ["kms:Encrypt", "kms:Decr*"]}, True),
        ({"Action": "kms:GenerateDataKey*"}, False),
        ({"Action": "kms:[D]ecrypt"}, False),
        ({"Action": None, "NotAction": "kms:Encrypt"}, True),
        ({"Action": None, "NotAction": "kms:D*"}, False),
        ({"Resource": KEY}, True),
        ({"Resource": f"arn:aws:kms:*:{ACCOUNT}:key/*"}, True),
        ({"Resource": KEY + "x"}, False),
        ({"Resource": None, "NotResource": KEY}, False),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_principals_actions_and_resources(changes: dict[str, Any], applies: bool) -> None:
    assert refused(statement(**changes)) == ("" if applies else SILENT)
    denial = statement(Effect="Deny", **changes)
    assert refused(statement(), denial) == (DENIED if applies else "")


CONDITIONS = [
    # condition, whether it holds for an attested call, for an unattested one
    ({"StringEquals": {IMAGE: PCR0}}, True, False),
    ({"StringEquals": {IMAGE: PCR0.upper()}}, False, False),
    ({"StringEquals": {IMAGE: ["00" * 48, PCR0]}}, True, False),
    ({"StringEquals": {"KMS:recipientattestation:IMAGESHA384": PCR0}}, True, False),
    ({"StringEqualsIgnoreCase": {IMAGE: PCR0.upper()}}, True, False),
    ({"StringEqualsIgnoreCase": {IMAGE: "00" * 48}}, False, False),
    ({"StringEqualsIgnoreCaseIfExists": {IMAGE: PCR0}}, True, True),
    ({"StringEqualsIgnoreCaseIfExists": {IMAGE: "00" * 48}}, False, True),
    ({"ForAnyValue:StringEquals": {IMAGE: PCR0}}, True, False),
    ({"ForAllValues:StringEquals": {IMAGE: PCR0}}, True, True),
    ({"ForAllValues:StringEquals": {IMAGE: "00" * 48}}, False, True),
    ({"StringNotEquals": {IMAGE: PCR0}}, False, True),
    ({"StringNotEqualsIgnoreCase": {IMAGE: PCR0.upper()}}, False, True),
    ({"StringNotEquals": {IMAGE: ["00" * 48, "11" * 48]}}, True, True),
    ({"ForAnyValue:StringNotEquals": {IMAGE: "00" * 48}}, True, False),
    ({"StringLike": {IMAGE: "ab*"}}, True, False),
    ({"StringNotLike": {IMAGE: "ab*"}}, False, True),
    ({"Null": {IMAGE: "false"}}, True, False),
    ({"Null": {IMAGE: "true"}}, False, True),
    ({"Null": {IMAGE: False}}, True, False),
    ({"Null": {IMAGE: "False"}}, True, False),
    ({"StringEquals": {"kms:RecipientAttestation:PCR8": "cd" * 48}}, True, False),
    ({"StringEquals": {"kms:RecipientAttestation:PCR9": "cd" * 48}}, False, False),
    ({"StringEquals": {IMAGE: PCR0, "kms:RecipientAttestation:PCR8": "0"}}, False, False),
    ({"StringEquals": {IMAGE: PCR0}, "Null": {"aws:SourceVpce": "true"}}, True, False),
    ({}, True, True),
]


@pytest.mark.parametrize(
    ("condition", "attested", "unattested"), CONDITIONS, ids=[json.dumps(c[0]) for c in CONDITIONS]
)
def test_conditions(condition: dict[str, Any], attested: bool, unattested: bool) -> None:
    for context, holds in ((ATTESTED, attested), ({}, unattested)):
        assert refused(statement(Condition=condition), context=context) == ("" if holds else SILENT)
        denial = statement(Effect="Deny", Condition=condition)
        assert refused(statement(), denial, context=context) == (DENIED if holds else "")


def test_for_any_value_and_for_all_values() -> None:
    context = {"kms:encryptioncontextkeys": ("a", "b")}
    for quantifier, expected, holds in (
        ("ForAnyValue", ["a"], True),
        ("ForAnyValue", ["c"], False),
        ("ForAllValues", ["a"], False),
        ("ForAllValues", ["a", "b", "c"], True),
    ):
        condition = {f"{quantifier}:StringEquals": {"kms:EncryptionContextKeys": expected}}
        assert (refused(statement(Condition=condition), context=context) == "") == holds


# Operators and variables beside those of attestation

CALLER = {
    "aws:principalarn": (ROLE,),
    "aws:username": ("a*b",),
    "kms:encryptioncontext:user": ("a*b",),
    "kms:encryptioncontextkeys": ("x", "y"),
    "kms:rotationperiodindays": ("100",),
}


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        # IAM User Guide, "Amazon Resource Name (ARN) condition operators": part by part
        ({"ArnLike": {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/*"}}, True),
        ({"ArnEquals": {"aws:PrincipalArn": "arn:*:iam::*:*"}}, True),
        ({"ArnLike": {"aws:PrincipalArn": "arn:*"}}, False),
        ({"ArnLike": {"aws:PrincipalArn": "*"}}, False),
        ({"ArnLike": {"aws:PrincipalArn": "arn:aws:*:role/*"}}, False),
        ({"ArnNotLike": {"aws:PrincipalArn": "arn:aws:*:role/*"}}, True),
        ({"StringLike": {"aws:PrincipalArn": "arn:aws:*:role/*"}}, True),
        # "Supported data types": numbers need no quotes
        ({"NumericEquals": {"kms:RotationPeriodInDays": 100}}, True),
        ({"NumericLessThan": {"kms:RotationPeriodInDays": [90, 100.5]}}, True),
        ({"NumericLessThan": {"kms:RotationPeriodInDays": 100}}, False),
        # "Variables and tags"
        ({"StringEquals": {"kms:EncryptionContext:User": "${aws:username}"}}, True),
        ({"StringEquals": {"kms:EncryptionContext:User": "${aws:UserName}"}}, True),
        ({"StringEquals": {"kms:EncryptionContext:User": "${aws:userid}"}}, False),
        ({"StringNotEquals": {"kms:EncryptionContext:User": "${aws:userid}"}}, True),
        ({"StringEquals": {"kms:EncryptionContext:User": "${aws:userid, 'a*b'}"}}, True),
        ({"StringEquals": {"kms:EncryptionContext:User": "${kms:EncryptionContextKeys}"}}, False),
        ({"StringLike": {"kms:EncryptionContext:User": "${aws:username}*"}}, True),
        ({"StringLike": {"kms:EncryptionContext:User": "a${*}b"}}, True),
        ({"StringLike": {"aws:PrincipalArn": "arn${*}"}}, False),
        ({"StringLike": {"aws:PrincipalArn": "${*}"}}, False),
        ({"ArnLike": {"aws:PrincipalArn": "${aws:PrincipalArn}"}}, True),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_other_operators_and_variables(condition: dict[str, Any], holds: bool) -> None:
    text = statement(Condition=condition)
    assert refused(text, context=CALLER) == ("" if holds else SILENT)


def test_the_older_language_has_no_variables() -> None:
    condition = {"StringEquals": {"kms:EncryptionContext:User": "${aws:username}"}}
    text = document(statement(Condition=condition)).replace("2012-10-17", "2008-10-17")
    of_caller = Access(PRINCIPAL, "kms:Decrypt", KEY, CALLER)
    assert str(refusal(of_caller, parse_policy(text), None)).endswith(SILENT)
    literal = {**CALLER, "kms:encryptioncontext:user": ("${aws:username}",)}
    assert refusal(Access(PRINCIPAL, "kms:Decrypt", KEY, literal), parse_policy(text), None) is None


def test_a_resource_may_name_variables() -> None:
    for resource, expected in (
        (KEY.replace(ACCOUNT, "${aws:PrincipalAccount}"), ""),
        (KEY.replace(ACCOUNT, "${aws:SourceAccount}"), SILENT),
    ):
        context = {"aws:principalaccount": (ACCOUNT,)}
        assert refused(statement(Resource=resource), context=context) == expected


# Key policies and IAM policies together


@pytest.mark.parametrize(
    ("principal", "caller", "reason"),
    [
        (PRINCIPAL, None, ""),
        (ROOT, None, ""),
        (ROOT, "kms:Decrypt", ""),
        (ROOT, "kms:Encrypt", "because no identity-based policy allows the kms:Decrypt action"),
        (PRINCIPAL, "kms:Encrypt", ""),
        (f"arn:aws:iam::{ACCOUNT}:user/other", "kms:*", SILENT),
    ],
)
def test_the_account_leaves_it_to_iam(principal: str, caller: str | None, reason: str) -> None:
    key_policy = parse_policy(document(statement(Principal={"AWS": principal})))
    caller_policy = None
    if caller is not None:
        caller_policy = parse_policy(
            document(statement(Principal=None, Action=caller)), of_key=False
        )
    text = refusal(access(), key_policy, caller_policy)
    assert (text is None) if not reason else (text is not None and text.endswith(f"{KEY} {reason}"))


def test_iam_can_deny_what_the_key_allows() -> None:
    denial = parse_policy(document(statement(Principal=None, Effect="Deny")), of_key=False)
    text = refusal(access(), parse_policy(document(statement())), denial)
    assert str(text).endswith("with an explicit deny in an identity-based policy")


def test_without_a_key_iam_alone_decides() -> None:
    policy = parse_policy(document(statement(Principal=None)), of_key=False)
    assert refusal(access(), None, policy) is None
    assert refusal(access("kms:GenerateRandom"), None, None) is None
    assert str(refusal(access("kms:GenerateRandom"), None, policy)).endswith(
        "because no identity-based policy allows the kms:GenerateRandom action"
    )


# Malformed policies


def malformed(text: str, *, of_key: bool = True) -> str:
    with pytest.raises(KmsError) as refused:
        parse_policy(text, of_key=of_key)
    assert refused.value.type == "MalformedPolicyDocumentException"
    return str(refused.value.message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 10_000, "not JSON"),
        ("[]", "not an object"),
        ('{"Statement": [], "Other": 1}', "not an object"),
        ('{"Version": "2013-01-01", "Statement": []}', "no such Version"),
        ('{"Version": {}, "Statement": []}', "no such Version"),
        ("{}", "no Statement"),
        (document(), "no Statement"),
        ('{"Statement": [1]}', "other elements"),
        (document(statement(Effekt="Allow")), "other elements"),
        (document(statement(NotPrincipal="*")), "other elements"),
        (document(statement(Effect="allow")), "Effect"),
        (document(statement(Effect=[])), "Effect"),
        (document(statement(Principal=None)), "name a Principal"),
        (document(statement(Principal={})), "Principal is neither"),
        (document(statement(Principal="me")), "Principal is neither"),
        (document(statement(Principal={"AWS": []})), "not text"),
        (document(statement(Principal={"AWS": "me"})), "invalid principals"),
        (document(statement(Principal={"AWS": ROLE + "*"})), "invalid principals"),
        (document(statement(NotAction="*")), "exactly one of Action and NotAction"),
        (document(statement(NotResource="*")), "exactly one of Resource"),
        (document(statement())[:-2] + ', "Effect": "Deny"}]}', "a name twice"),
        (document(statement(Action=True)), "not text"),
        (document(statement(Action=5)), "not text"),
        (document(statement(Condition=[])), "Condition is not"),
        (document(statement(Condition={"StringEquals": IMAGE})), "Condition is not"),
        (document(statement(Condition={"StringEquals": {IMAGE: {}}})), "not text"),
        (document(statement(Condition={"Equals": {}})), "no condition operator 'Equals'"),
        (document(statement(Condition={"NullIfExists": {}})), "'NullIfExists'"),
        (document(statement(Condition={"ForSome:StringEquals": {}})), "'ForSome:"),
    ],
)  # fmt: skip
def test_malformed_policies(text: str, message: str) -> None:
    assert message in malformed(text)


@pytest.mark.parametrize("element", ["Action", "Resource"])
def test_a_statement_without_one_of_its_elements_has_no_effect(element: str) -> None:
    """PutKeyPolicy accepts it; a caller's policy with it is malformed."""
    for effect, expected in (("Allow", SILENT), ("Deny", "")):
        allowed = [statement()] if effect == "Deny" else []
        lacking = statement(Effect=effect, **{element: None})
        assert refused(*allowed, lacking) == expected
    text = document(statement(Principal=None, **{element: None}))
    assert f"exactly one of {element}" in malformed(text, of_key=False)


def test_a_policy_has_at_most_32_kib() -> None:
    text = document(statement())
    parse_policy(text.ljust(32 * 1024))
    with pytest.raises(KmsError) as refused:
        parse_policy(text.ljust(32 * 1024 + 1))
    assert refused.value.type == "LimitExceededException"


def test_a_callers_policy_has_no_principal() -> None:
    assert "Principal" in malformed(document(statement()), of_key=False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from([PRINCIPAL]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(
            ["Effect", "Principal", "AWS", "Action", "Resource", "Condition", "Null"]
        ),
        inner,
    ),
)  # fmt: skip


@given(JSON, st.sampled_from([*statement(), "Condition"]), JSON)
def test_whatever_the_policy_only_kms_errors_are_raised(
    whole: Any, element: str, part: Any
) -> None:
    for text in (json.dumps(whole), document(statement(**{element: part}))):
        try:
            policy = parse_policy(text)
        except KmsError as e:
            assert e.type == "MalformedPolicyDocumentException"  # noqa: PT017 (it may pass, too)
        else:
            refusal(access(), policy, None)
