"""One evaluation, held against the simulated KMS's own, which shares no code with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave_simulator.kms.policy import Access, Verdict, parse_policy
from parent.policy import evaluate
from parent.policy.actions import ACTIONS, Action, find
from parent.policy.evaluate import Document, Outcome, Request
from parent.policy.language import parse
from parent.policy.principals import Named
from tests.parent.policy import policies
from tests.parent.policy.policies import (
    A0,
    IMAGE,
    KEY,
    OLD,
    PCR,
    ROLE,
    SESSION,
    compares,
    parsed,
    statement,
)

if TYPE_CHECKING:
    from parent.policy.measured import Measured

RECIPIENT = {"Decrypt", "DeriveSharedSecret", "GenerateDataKey", "GenerateDataKeyPair",
             "GenerateRandom"}  # fmt: skip

OUTCOMES = {
    Verdict.ALLOWED: Outcome.ALLOWED,
    Verdict.DELEGATED: Outcome.DELEGATED,
    Verdict.DENIED: Outcome.DENIED,
    Verdict.SILENT: Outcome.NOT_ALLOWED,
}
REFUSED = (Outcome.DENIED, Outcome.NOT_ALLOWED)


def simulated(
    text: str, action: Action, principal: str, measured: Measured | None, *, of_key: bool = True
) -> Outcome:
    """Return what the simulated KMS makes of a request of which all is known."""
    takes_document = action.name.removeprefix("kms:") in RECIPIENT
    given = measured.context() if measured and takes_document else {}
    context = {key: (value,) for key, value in given.items()}
    resource = KEY if action.is_on_key else "*"
    access = Access(principal, action.name, resource, context)
    return OUTCOMES[parse_policy(text, of_key=of_key).verdict(access)]


actions = st.sampled_from(list(ACTIONS.values()))
on_keys = actions.filter(lambda a: a.is_on_key and not a.is_on_alias)
principals = st.sampled_from([p for p in policies.PRINCIPALS if policies.ACCOUNT in p])


@settings(max_examples=150)
@given(policies.policies(), on_keys, principals, st.none() | policies.documents)
def test_the_simulated_kms_agrees(
    text: str, action: Action, principal: str, measured: Measured | None
) -> None:
    request = Request(action, principal, KEY, measured or Document.NONE)
    ours = evaluate.outcome(parse(text), request)
    assert ours is simulated(text, action, principal, measured)


@settings(max_examples=80)
@given(
    policies.policies(of_key=False),
    actions.filter(lambda a: not a.is_on_key),
    principals,
    st.none() | policies.documents,
)
def test_the_simulated_kms_agrees_on_iam_policies(
    text: str, action: Action, principal: str, measured: Measured | None
) -> None:
    request = Request(action, principal, KEY, measured or Document.NONE)
    ours = evaluate.outcome(parse(text), request)
    assert ours is simulated(text, action, principal, measured, of_key=False)


@settings(max_examples=150)
@given(policies.policies(), on_keys, principals, st.none() | policies.documents, st.data())
def test_what_is_told_of_half_a_request_holds_for_the_whole(
    text: str, action: Action, principal: str, measured: Measured | None, data: st.DataObject
) -> None:
    """Forget a part of a request: unless the outcome is UNKNOWN, it is the whole request's."""
    document: Measured | Document = measured or Document.NONE
    if data.draw(st.booleans()):
        document = Document.UNKNOWN
    elif measured:
        indices = [0, 1, 4, 8, 16]
        forgotten = data.draw(st.frozensets(st.sampled_from(indices)))
        kept = {i: value for i, value in measured.pcrs.items() if i not in forgotten}
        document = replace(measured, pcrs=kept, unknown=forgotten)
    key = data.draw(st.sampled_from([KEY, None]))
    ours = evaluate.outcome(parse(text), Request(action, principal, key, document))
    theirs = simulated(text, action, principal, measured)
    if ours is Outcome.NOT_ALLOWED:
        # No statement allows it; whether one denies it, too, may not be known.
        assert theirs in REFUSED
    elif ours is not Outcome.UNKNOWN:
        assert ours is theirs


@settings(max_examples=150)
@given(policies.policies(), on_keys, principals, st.none() | policies.documents)
def test_nobody_is_allowed_who_is_not_when_the_caller_is_unknown(
    text: str, action: Action, principal: str, measured: Measured | None
) -> None:
    """What is denied to an unknown caller is denied to each."""
    request = Request(action, None, KEY, measured or Document.NONE)
    ours = evaluate.outcome(parse(text), request)
    if ours in REFUSED:
        assert simulated(text, action, principal, measured) in REFUSED


def outcome(*statements: dict[str, object], **known: object) -> Outcome:
    request = replace(Request(find("Decrypt"), SESSION, KEY, OLD), **known)  # type: ignore[arg-type]
    return evaluate.outcome(parsed(*statements), request)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Outcome.ALLOWED),
        ({"Principal": {"AWS": ROLE.replace("role/", "role/a/path/")}}, Outcome.ALLOWED),
        ({"Principal": {"AWS": f"{ROLE}2"}}, Outcome.NOT_ALLOWED),
        ({"Principal": {"AWS": "arn:aws:iam::444455556666:root"}}, Outcome.NOT_ALLOWED),
        ({"Principal": {"AWS": policies.ACCOUNT}}, Outcome.DELEGATED),
        ({"Principal": policies.ROOT}, Outcome.DELEGATED),
        ({"Principal": {"AWS": "AROAEXAMPLEEXAMPLEID"}}, Outcome.NOT_ALLOWED),
        ({"Principal": {"AWS": "arn:aws:iam::111122223333:role/*"}}, Outcome.NOT_ALLOWED),
        ({"Principal": {"Service": "ec2.amazonaws.com"}}, Outcome.NOT_ALLOWED),
        ({"Principal": None, "NotPrincipal": policies.ROOT}, Outcome.UNKNOWN),
        ({"Principal": None, "NotPrincipal": {"AWS": ROLE}}, Outcome.UNKNOWN),
        ({"Principal": None, "NotPrincipal": {"AWS": f"{ROLE}2"}}, Outcome.ALLOWED),
        ({"Resource": None}, Outcome.NOT_ALLOWED),
        ({"Resource": KEY}, Outcome.ALLOWED),
        ({"Resource": f"{KEY}2"}, Outcome.NOT_ALLOWED),
        ({"Resource": "arn:aws:kms:eu-central-1:111122223333:alias/a"}, Outcome.NOT_ALLOWED),
        ({"Resource": None, "NotResource": KEY}, Outcome.NOT_ALLOWED),
        ({"Condition": {"StringEqualsIgnorecase": {IMAGE: A0}}}, Outcome.NOT_ALLOWED),
        ({"Condition": {"StringEquals": {IMAGE: []}}}, Outcome.NOT_ALLOWED),
        ({"Condition": {"StringNotEquals": {IMAGE: []}}}, Outcome.UNKNOWN),
        ({"Condition": {"StringEquals": {IMAGE: "${aws:username}"}}}, Outcome.UNKNOWN),
        ({"Condition": {"NumericEquals": {IMAGE: "1"}}}, Outcome.UNKNOWN),
        ({"Condition": {"NumericEquals": {f"{PCR}32": "1"}}}, Outcome.NOT_ALLOWED),
        ({"Condition": {"ForAnyValue:StringEqualsIfExists": {f"{PCR}9": A0}}}, Outcome.UNKNOWN),
        ({"Condition": {"ForAllValues:StringEquals": {f"{PCR}9": A0}}}, Outcome.ALLOWED),
        ({"Condition": {"ForAnyValue:StringNotEquals": {f"{PCR}9": A0}}}, Outcome.NOT_ALLOWED),
        ({"Condition": {"StringEquals": {"aws:SourceVpc": "vpc-1"}}}, Outcome.UNKNOWN),
        ({"Condition": {"StringEquals": {"kms:SigningAlgorithm": "x"}}}, Outcome.NOT_ALLOWED),
        ({"Condition": {"StringEquals": {"kms:KeySpec": "x"}}}, Outcome.UNKNOWN),
        ({"Condition": {"StringEquals": {"kms:EncryptionContext:a": "x"}}}, Outcome.UNKNOWN),
        ({"Condition": {"StringEquals": {"kms:CallerAccount": "111122223333"}}}, Outcome.ALLOWED),
        (
            {"Condition": {"StringEquals": {"aws:PrincipalAccount": "444455556666"}}},
            Outcome.NOT_ALLOWED,
        ),
        ({"Condition": {"ArnLike": {"aws:PrincipalArn": "arn:*"}}}, Outcome.UNKNOWN),
        ({"Condition": {"Null": {IMAGE: ["true", "false"]}}}, Outcome.ALLOWED),
    ],
)
def test_one_statement(changes: dict[str, object], expected: Outcome) -> None:
    assert outcome(statement(**changes)) is expected


def test_values_of_keys_of_the_request_itself() -> None:
    def value(key: str, **known: object) -> tuple[str, ...] | None:
        return replace(Request(find("Decrypt")), **known).value(key)  # type: ignore[arg-type]

    assert value(IMAGE) == ()
    assert value(IMAGE, document=Document.UNKNOWN) is None
    assert value(IMAGE, document=OLD) == (A0,)
    for key in ("kms:CallerAccount", "aws:PrincipalAccount"):
        assert value(key) is None
        assert value(key, principal=SESSION) == (policies.ACCOUNT,)
        assert value(key, principal="a:b:c:d:e") == ("e",)
        assert value(key, principal="a:b:c:d") is None
    assert value("aws:PrincipalArn", principal=ROLE) == (ROLE,)
    # Of a session it is its role's, with a path that a session does not tell.
    assert value("aws:PrincipalArn", principal=SESSION) is None
    assert value("aws:SourceVpc", principal=ROLE) is None


def test_values_of_keys_of_a_service_that_asks_for_a_caller() -> None:
    own = Request(find("Decrypt"), document=OLD)
    for key in ("kms:ViaService", "aws:CalledVia", "AWS:CalledViaFirst", "aws:CalledViaLast"):
        assert own.value(key) == ()
        assert replace(own, document=Document.UNKNOWN).value(key) is None
        assert replace(own, document=Document.NONE).value(key) is None
        assert replace(own, context={key.lower(): ("s3",)}).value(key) == ("s3",)
    assert own.value("aws:ViaAWSService") == ("false",)
    assert replace(own, document=Document.NONE).value("aws:ViaAWSService") is None
    # A measured image beside an operation that takes no document tells nothing of the request.
    assert replace(own, action=find("Encrypt")).value("kms:ViaService") is None


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        (KEY, Outcome.UNKNOWN),
        ("*", Outcome.ALLOWED),
        ([KEY, "*"], Outcome.ALLOWED),
        ("arn:aws:kms:eu-central-1:111122223333:alias/a", Outcome.NOT_ALLOWED),
        ("", Outcome.NOT_ALLOWED),
    ],
)
def test_resource_of_a_key_that_is_not_known(resource: object, expected: Outcome) -> None:
    assert outcome(statement(Resource=resource), key=None) is expected


def test_iam_policy_allows_what_is_about_no_key_only() -> None:
    def allowed(name: str, resource: str) -> Outcome:
        own = statement(Principal=None, Action=f"kms:{name}", Condition=None, Resource=resource)
        return outcome(own, action=find(name))

    assert allowed("GenerateRandom", "*") is Outcome.ALLOWED
    assert allowed("GenerateRandom", KEY) is Outcome.NOT_ALLOWED
    # The key's own policy must allow it too.
    assert allowed("Decrypt", KEY) is Outcome.UNKNOWN
    assert allowed("Decrypt", f"{KEY}2") is Outcome.NOT_ALLOWED


def test_steps_tell_what_decided() -> None:
    (found,) = evaluate.steps(parsed(statement(Resource=f"{KEY}2")), Request(
        find("Decrypt"), SESSION, KEY, OLD
    ))  # fmt: skip
    assert (found.named, found.is_resource, found.applies) == (Named.YES, False, False)
    (check,) = found.checks
    assert (check.condition.key, check.actual, check.is_met) == (IMAGE, (A0,), True)


def test_an_account_or_an_alias_leaves_it_to_iam() -> None:
    foreign = KEY.replace("111122223333", "444455556666")
    assert outcome(statement(), key=foreign) is Outcome.DELEGATED
    alias = statement(Action="kms:CreateAlias", Condition=None)
    assert outcome(alias, action=find("CreateAlias")) is Outcome.DELEGATED


def test_no_key_policy_governs_what_is_about_no_key() -> None:
    everything = statement(Action="*", Condition=None)
    assert outcome(everything, action=find("GenerateRandom")) is Outcome.NOT_GOVERNED
    deny = statement(Effect="Deny", Action="*", Principal="*", Condition=None)
    assert outcome(deny, action=find("ListKeys")) is Outcome.NOT_GOVERNED


@pytest.mark.parametrize(
    ("deny", "expected"),
    [
        ({"Condition": {"StringEqualsIgnorecase": {IMAGE: A0}}}, Outcome.UNKNOWN),
        ({"Condition": {"StringEquals": {IMAGE: []}}}, Outcome.UNKNOWN),
        ({"Condition": {"Foo": {IMAGE: A0}, "Null": {IMAGE: "true"}}}, Outcome.ALLOWED),
        ({"Principal": {"AWS": "arn:aws:sts::*"}, "Condition": None}, Outcome.UNKNOWN),
        ({"Principal": {"AWS": "arn:aws:iam::2*"}, "Condition": None}, Outcome.ALLOWED),
        ({"Condition": {"Null": {"kms:RecipientAttestation": "true"}}}, Outcome.DENIED),
    ],
)
def test_nothing_is_allowed_by_a_deny_that_kms_would_not_take(
    deny: dict[str, object], expected: Outcome
) -> None:
    refusing = statement(**{"Effect": "Deny", "Principal": "*", **deny})
    assert outcome(statement(), refusing) is expected


def test_an_unknown_caller_is_allowed_only_if_every_caller_named_is() -> None:
    same = compares("b0" * 48)
    assert outcome(statement(), same, principal=None) is Outcome.ALLOWED
    other = compares("b0" * 48, Principal={"AWS": f"{ROLE}2"})
    assert outcome(statement(), principal=None) is Outcome.ALLOWED
    assert outcome(statement(), other, principal=None) is Outcome.UNKNOWN
    assert outcome(statement(Principal="*"), other, principal=None) is Outcome.ALLOWED
    deny = statement(Effect="Deny", Principal={"AWS": f"{ROLE}2"}, Condition=None)
    assert outcome(statement(), deny, principal=None) is Outcome.UNKNOWN
    assert outcome(statement(), deny, principal=f"{ROLE}2") is Outcome.DENIED


def test_given_values_of_other_keys() -> None:
    vpc = compares("vpc-1", key="aws:SourceVpc")
    assert outcome(vpc, context={"aws:sourcevpc": ("vpc-1",)}) is Outcome.ALLOWED
    assert outcome(vpc, context={"aws:sourcevpc": ("vpc-2",)}) is Outcome.NOT_ALLOWED
    every = compares(["a", "b"], key="aws:TagKeys", operator="ForAllValues:StringEquals")
    assert outcome(every, context={"aws:tagkeys": ("a", "b")}) is Outcome.ALLOWED
    assert outcome(every, context={"aws:tagkeys": ("a", "c")}) is Outcome.NOT_ALLOWED
    arn = compares("arn:aws:iam::*:role/x", key="aws:PrincipalArn", operator="ArnLike")
    for value, expected in (
        ("arn:aws:iam::1:role/x", Outcome.ALLOWED),
        ("arn:aws:iam::1:2:role/x", Outcome.NOT_ALLOWED),  # A wildcard ends at a colon.
        ("x", Outcome.NOT_ALLOWED),
    ):
        assert outcome(arn, context={"aws:principalarn": (value,)}) is expected
