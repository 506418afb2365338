"""Which mistakes lint finds, and what it has nothing against."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parent.policy.actions import GUARDED, Action, Platform
from parent.policy.evaluate import Document, Outcome, Request
from parent.policy.evaluate import outcome as evaluated
from parent.policy.findings import Options, Severity
from parent.policy.language import MAX_POLICY, parse
from parent.policy.lint import lint
from parent.policy.measured import Measured
from tests.parent.policy.policies import (
    A0,
    ADMINISTRATION,
    B0,
    DEFAULT,
    IMAGE,
    KEY,
    PCR,
    PRINCIPALS,
    ROLE,
    ROOT,
    TPM,
    compares,
    parsed,
    statement,
    text,
)
from tests.parent.policy.policies import (
    statements as any_statements,
)
from tests.paths import ROOT as ROOT_FOLDER

SECRETS = [action.name for action in GUARDED]
ANY_ROLE = "arn:aws:iam::111122223333:role/*"


def denies(condition: Any, **changes: Any) -> dict[str, Any]:
    """A Deny for everyone, beside the Allow that it guards."""
    return statement(
        Sid="guard", **{"Effect": "Deny", "Principal": "*", "Action": SECRETS, **changes},
        Condition=condition,
    )  # fmt: skip


NULL_GUARD = denies({"Null": {IMAGE: "true"}})
IMAGE_GUARD = denies({"StringNotEqualsIgnoreCase": {IMAGE: A0}})

USE: dict[str, tuple[list[dict[str, Any]], set[str]]] = {
    # Statements beside the administrator's, and the rules that find something.
    "right": ([statement()], set()),
    "by PCR0": ([compares(A0, key=f"{PCR}0")], set()),
    "by signer": ([compares(A0, key=f"{PCR}8")], set()),
    "by PCR1 and PCR2": (
        [statement(Condition={"StringEquals": {f"{PCR}1": A0, f"{PCR}2": B0}})],
        set(),
    ),
    "image and role": (
        [statement(Condition={"StringEquals": {IMAGE: A0, f"{PCR}3": B0}})],
        set(),
    ),
    "PCR1 alone": ([compares(A0, key=f"{PCR}1")], {"any-image"}),
    "PCR2 alone": ([compares(A0, key=f"{PCR}2")], {"any-image"}),
    "PCR3 alone": ([compares(A0, key=f"{PCR}3")], {"any-image"}),
    "PCR4 alone": ([compares(A0, key=f"{PCR}4")], {"any-image"}),
    "PCR16 alone": ([compares(A0, key=f"{PCR}16")], {"any-image"}),
    "PCR1 and a Deny of another PCR2": (
        [
            compares(A0, key=f"{PCR}1"),
            denies({"StringNotEquals": {f"{PCR}2": B0}}),
        ],
        set(),
    ),
    "a Deny of what differs in both": (
        [
            compares(A0, key=f"{PCR}1"),
            denies({"StringNotEquals": {f"{PCR}1": A0, f"{PCR}2": B0}}),
        ],
        {"any-image", "all-differ"},
    ),
    "a Deny of one measurement under both names": (
        [statement(), denies({"StringNotEquals": {IMAGE: A0, f"{PCR}0": A0}})],
        set(),
    ),
    "data keys for who encrypts": (
        [statement(), statement(Action=["kms:Encrypt", "kms:GenerateDataKey*"], Condition=None)],
        {"data-keys"},
    ),
    "data keys of any image": (
        [compares(A0, key=f"{PCR}3", Action="kms:GenerateDataKey")],
        {"data-keys"},
    ),
    "AWS's default": ([DEFAULT], {"unattested", "grant"}),
    "default, and a guard": ([DEFAULT, NULL_GUARD], {"any-image"}),
    "default, and a guard of the image": ([DEFAULT, IMAGE_GUARD], set()),
    "default, and a guard for any value": (
        [DEFAULT, denies({"ForAnyValue:StringNotEquals": {IMAGE: A0}})],
        {"unattested", "grant", "quantifier"},
    ),
    "default, and a guard with another condition": (
        [DEFAULT, denies({"Null": {IMAGE: "true"}, "Bool": {"aws:ViaAWSService": "false"}})],
        {"unattested", "grant"},
    ),
    "default, and a guard without ReEncryptFrom": (
        [DEFAULT, denies({"StringNotEquals": {IMAGE: A0}}, Action=SECRETS[:-1])],
        {"unattested", "grant"},
    ),
    "default, and a guard of everything": (
        [DEFAULT, denies({"Null": {IMAGE: "true"}}, Action="kms:*")],
        {"any-image", "always-denied", "locked"},
    ),
    "a guard for one caller only": (
        [DEFAULT, {**NULL_GUARD, "Principal": {"AWS": ROLE}}],
        {"unattested", "grant"},
    ),
    "a guard for the caller": (
        [statement(Condition=None), {**IMAGE_GUARD, "Principal": {"AWS": ROLE}}],
        set(),
    ),
    "a guard for the account": (
        [
            statement(Principal={"AWS": [ROLE, "111122223333"]}, Condition=None),
            {**IMAGE_GUARD, "Principal": ROOT},
        ],
        set(),
    ),
    "a guard for another account": (
        [
            statement(Condition=None),
            {**IMAGE_GUARD, "Principal": {"AWS": "444455556666"}},
        ],
        {"unattested"},
    ),
    "a guard for the caller, and grants": (
        [
            statement(Action=["kms:Decrypt", "kms:CreateGrant"], Condition=None),
            {**IMAGE_GUARD, "Principal": {"AWS": ROLE}},
        ],
        {"grant"},
    ),
    "a guard without Resource": (
        [DEFAULT, denies({"Null": {IMAGE: "true"}}, Resource=None)],
        {"unattested", "grant", "resource"},
    ),
    "a guard of no such key": (
        [statement(), denies({"Null": {"kms:RecipientAttestation": "true"}})],
        {"key", "always-denied"},
    ),
    "a Deny of this image only": (
        [statement(), denies({"StringEquals": {IMAGE: B0}}, Action="kms:Decrypt")],
        {"deny-equal"},
    ),
    "a Deny of this image, or of none": (
        [statement(), denies({"StringEqualsIfExists": {IMAGE: B0}}, Action="kms:Decrypt")],
        {"deny-equal"},
    ),
    "a guard with IfExists": (
        [DEFAULT, denies({"StringNotEqualsIfExists": {IMAGE: A0}})],
        set(),
    ),
    "anybody": ([statement(Principal="*", Condition=None)], {"unattested"}),
    "anybody with the image": ([statement(Principal={"AWS": "*"})], {"anyone"}),
    "anybody of the account": (
        [
            statement(
                Principal="*",
                Condition={
                    "StringEquals": {IMAGE: A0, "kms:CallerAccount": "111122223333"},
                },
            )
        ],
        set(),
    ),
    "anybody of any organization": (
        [
            statement(
                Principal="*",
                Condition={
                    "StringEquals": {IMAGE: A0},
                    "StringLike": {"aws:PrincipalOrgID": "*"},
                },
            )
        ],
        {"anyone"},
    ),
    "all but some": ([statement(NotPrincipal=ROOT, Principal=None)], {"not-principal"}),
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
            denies(None, Action="kms:ReEncryptFrom"),
        ],
        set(),
    ),
    "decapsulation": ([statement(Action="kms:Decapsulate", Condition=None)], {"unattested"}),
    "encryption": ([statement(), statement(Action="kms:Encrypt", Condition=None)], set()),
    "another condition": ([compares("x", key="aws:SourceVpc")], {"unattested"}),
    "any document": ([statement(Condition={"Null": {IMAGE: False}})], {"any-image"}),
    "grants": (
        [statement(), statement(Action="kms:CreateGrant", Condition=None)],
        {"grant"},
    ),
    "grants for services": (
        [
            statement(),
            statement(
                Action="kms:CreateGrant",
                Condition={"Bool": {"kms:GrantIsForAWSResource": True}},
            ),
        ],
        set(),
    ),
    "grants, and a guard": (
        [statement(), statement(Action="kms:CreateGrant", Condition=None), NULL_GUARD],
        set(),
    ),
}

CONDITIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "debug": ({"StringEquals": {IMAGE: "0" * 96}}, {"debug"}),
    "debug, and another": ({"StringEquals": {IMAGE: [A0, "0" * 96]}}, {"debug"}),
    "unsigned": ({"StringEquals": {f"{PCR}8": "0" * 96}}, {"debug"}),
    "short": ({"StringEquals": {IMAGE: "a0"}}, {"length"}),
    "not hexadecimal": ({"StringEquals": {IMAGE: "g" * 96}}, {"length"}),
    "placeholder": ({"StringEquals": {IMAGE: "<PCR0>"}}, {"placeholder"}),
    "placeholder without brackets": (
        {"StringEquals": {IMAGE: "EXAMPLE_PCR0_REPLACE_WITH_VALUE"}},
        {"placeholder"},
    ),
    "variable": ({"StringEquals": {IMAGE: "${pcr_0}"}}, {"placeholder"}),
    "upper case": ({"StringEquals": {IMAGE: A0.upper()}}, {"case"}),
    "upper case, ignored": ({"StringEqualsIgnoreCase": {IMAGE: A0.upper()}}, set()),
    "misspelt key": ({"StringEquals": {f"{PCR}_0": A0}}, {"key"}),
    "misspelt prefix": ({"StringEquals": {"kms:Recipient:ImageSha384": A0}}, {"key"}),
    "of another service": (
        {"StringEquals": {"aws:RecipientAttestation:PCR0": A0}},
        {"key", "unattested"},
    ),
    "PCR32": ({"StringEquals": {f"{PCR}32": A0}}, {"key"}),
    "no such key, negated": ({"StringNotEquals": {f"{PCR}32": A0}}, {"key", "unattested"}),
    "no such key, beside the image": (
        {"StringEquals": {IMAGE: A0}, "Null": {f"{PCR}32": "true"}},
        {"key"},
    ),
    "key in another case": ({"StringEquals": {IMAGE.upper(): A0}}, set()),
    "if there is one": (
        {"StringEqualsIfExists": {IMAGE: A0}},
        {"if-exists", "unattested"},
    ),
    "for all values": (
        {"ForAllValues:StringEquals": {IMAGE: A0}},
        {"quantifier", "unattested"},
    ),
    "for any value": ({"ForAnyValue:StringEquals": {IMAGE: A0}}, {"quantifier"}),
    "not this one": ({"StringNotEquals": {IMAGE: A0}}, {"negated", "unattested"}),
    "wildcard": ({"StringLike": {IMAGE: "a0*"}}, {"wildcard"}),
    "numbers": ({"NumericEquals": {IMAGE: "1"}}, {"operator", "any-image"}),
    "operator's case": ({"stringequals": {IMAGE: A0}}, {"operator"}),
    "no such operator": ({"Equals": {IMAGE: A0}}, {"operator"}),
    "no value": ({"StringEquals": {IMAGE: []}}, {"no-value"}),
    "neither": ({"Null": {IMAGE: "no"}}, {"null"}),
    "ImageSha384 is not PCR0": (
        {"StringEquals": {IMAGE: A0, f"{PCR}0": B0}},
        {"contradiction"},
    ),
    "ImageSha384 and PCR0 agree": (
        {"StringEquals": {IMAGE: A0, f"{PCR}0": [B0, A0]}},
        set(),
    ),
    "two operators disagree": (
        {"StringEquals": {f"{PCR}8": A0}, "StringEqualsIgnoreCase": {f"{PCR}8": B0}},
        {"contradiction"},
    ),
    "of an enclave and an instance": (
        {"StringEquals": {IMAGE: A0, f"{TPM}7": B0}},
        {"contradiction"},
    ),
    "of an instance": ({"StringEquals": {f"{TPM}4": A0, f"{TPM}12": B0}}, set()),
    "of an instance without command line": (
        {"StringEquals": {f"{TPM}4": A0, f"{TPM}12": "0" * 96}},
        set(),
    ),
    "of an instance with Secure Boot": ({"StringEquals": {f"{TPM}7": A0}}, set()),
    "of an instance, command line open": (
        {"StringEquals": {f"{TPM}4": A0}},
        {"command-line"},
    ),
    "of an instance, PCR12 alone": ({"StringEquals": {f"{TPM}12": A0}}, {"any-image"}),
    "of an instance, nothing measured": ({"StringEquals": {f"{TPM}7": "0" * 96}}, {"debug"}),
    "NitroTPMPCR24": ({"StringEquals": {f"{TPM}24": A0}}, {"key"}),
    "a key of other actions": (
        {"StringEquals": {IMAGE: A0, "kms:SigningAlgorithm": "x"}},
        {"key-of-other-actions"},
    ),
    "a key that is newer, or misspelt": (
        {"StringEquals": {IMAGE: A0, "kms:NoSuchKey": "x"}},
        {"key"},
    ),
    "a key that is newer, alone": ({"StringEquals": {"kms:NoSuchKey": "x"}}, {"key", "unattested"}),
    "encryption context": (
        {"StringEquals": {IMAGE: A0, "kms:EncryptionContext:a": "b"}},
        set(),
    ),
}

ELEMENTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "signing": ({"Action": "kms:Sign"}, {"no-recipient"}),
    "some that carry none": (
        {"Action": ["kms:Decrypt", "kms:Encrypt", "kms:GetKeyPolicy"]},
        {"no-recipient"},
    ),
    "data keys by a wildcard": ({"Action": "kms:GenerateDataKey*"}, set()),
    "random bytes": ({"Action": "kms:GenerateRandom"}, {"no-key"}),
    "random bytes among others": ({"Action": ["kms:Decrypt", "kms:GenerateRandom"]}, {"no-key"}),
    "no such action": ({"Action": ["kms:Decrypt", "kms:Decypt"]}, {"action"}),
    "the operation's name": ({"Action": ["kms:Decrypt", "kms:ReEncrypt"]}, {"action"}),
    "deleted": ({"Principal": {"AWS": "AROAEXAMPLEEXAMPLEID"}}, {"deleted-principal"}),
    "deleted, and another": (
        {"Principal": {"AWS": [ROLE, "AIDAEXAMPLEEXAMPLEID"]}},
        {"deleted-principal"},
    ),
    "wildcard in an ARN": ({"Principal": {"AWS": ANY_ROLE}}, {"principal-wildcard"}),
    "no principal of AWS": (
        {"Principal": {"AWS": "arn:aws:iam::ACCOUNT:role/x"}},
        {"principal"},
    ),
    "a service": ({"Principal": {"Service": "ec2.amazonaws.com"}}, {"principal"}),
    "no Resource": ({"Resource": None}, {"resource"}),
    "an alias": ({"Resource": "arn:aws:kms:eu-central-1:111122223333:alias/a"}, {"resource"}),
    "the key": ({"Resource": KEY}, set()),
    "not a resource": ({"Resource": None, "NotResource": "x"}, {"resource"}),
}

CASES = {
    **{name: ([ADMINISTRATION, *s], rules) for name, (s, rules) in USE.items()},
    **{
        f"condition: {name}": ([ADMINISTRATION, statement(Condition=c)], rules)
        for name, (c, rules) in CONDITIONS.items()
    },
    **{
        f"element: {name}": ([ADMINISTRATION, statement(**changes)], rules)
        for name, (changes, rules) in ELEMENTS.items()
    },
    "locked": ([statement()], {"locked"}),
    "administered by a deleted role only": (
        [{**ADMINISTRATION, "Principal": {"AWS": "AROAEXAMPLEEXAMPLEID"}}],
        {"locked", "deleted-principal"},
    ),
    "of IAM": ([statement(Principal=None, Action="kms:GenerateRandom")], set()),
    "of IAM, without Recipient": (
        [statement(Principal=None, Action=["kms:GenerateRandom", "kms:ListKeys"])],
        {"no-recipient"},
    ),
    "of IAM, open": (
        [statement(Principal=None, Action="kms:*", Condition=None)],
        {"unattested", "grant"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_lint(name: str) -> None:
    statements, rules = CASES[name]
    findings = lint(parsed(*statements))
    assert {finding.rule for finding in findings} == rules, findings
    for finding in findings:
        assert str(finding).startswith(f"{finding.severity.value}: ")
        assert finding.is_error == (finding.severity is Severity.ERROR)
        assert finding.change
        assert str(finding).isprintable()


def test_every_rule_is_documented() -> None:
    section = (ROOT_FOLDER / "docs/key-policy.md").read_text(encoding="utf-8").split("## ")[4]
    table = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    documented = {rule for cell in table for rule in re.findall(r"`([a-z-]+)`", cell)}
    found = {rule for _, rules in CASES.values() for rule in rules}
    assert documented == found | {"platform", "mutable", "size"}


def test_findings_name_the_line() -> None:
    given = text(ADMINISTRATION, compares("a0"))
    [finding] = lint(parse(given))
    assert finding.line == given[: given.index('"Sid": "use"')].count("\n")
    assert str(finding).startswith(f"error: line {finding.line}, use: StringEquals ")


WARNINGS = {
    "grant", "deny-equal", "quantifier", "key-of-other-actions", "action", "resource", "no-key",
    "debug", "data-keys", "key",
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_only_the_doubtful_is_a_warning(name: str) -> None:
    warned = {f.rule for f in lint(parsed(*CASES[name][0])) if not f.is_error}
    assert warned <= WARNINGS


@pytest.mark.parametrize(
    ("statements", "rules"),
    [
        ([statement()], set()),
        ([statement(), ADMINISTRATION], {"mutable"}),
        ([statement(), DEFAULT, IMAGE_GUARD], {"mutable"}),
        (
            [statement(), ADMINISTRATION, denies(None, Action="kms:PutKeyPolicy")],
            set(),
        ),
        ([statement(), statement(Action="kms:ReplicateKey", Condition=None)], {"mutable"}),
        ([statement(), statement(Action="kms:PutKeyPolicy")], {"no-recipient"}),
    ],
)
def test_a_policy_that_shall_never_change(
    statements: list[dict[str, Any]], rules: set[str]
) -> None:
    findings = lint(parsed(*statements), Options(is_immutable=True))
    assert {finding.rule for finding in findings} == rules


def test_grants_get_past_a_policy_that_shall_never_change() -> None:
    grants = statement(Action="kms:CreateGrant", Condition=None)
    [finding] = lint(parsed(statement(), grants), Options(is_immutable=True))
    assert (finding.rule, finding.is_error) == ("grant", True)


@pytest.mark.parametrize(
    ("condition", "platform", "rules"),
    [
        ({f"{PCR}17": A0}, None, {"any-image"}),
        ({f"{PCR}17": A0}, Platform.ENCLAVE, {"any-image"}),
        ({f"{PCR}17": A0}, Platform.SANDBOX, set()),
        ({f"{PCR}17": A0}, Platform.INSTANCE, {"platform"}),
        ({IMAGE: A0}, Platform.SANDBOX, {"any-image"}),
        ({IMAGE: A0, f"{PCR}17": A0}, Platform.ENCLAVE, set()),
        ({f"{TPM}7": A0}, Platform.ENCLAVE, {"platform"}),
        ({f"{TPM}7": A0}, Platform.SANDBOX, {"platform"}),
        ({f"{TPM}7": A0}, Platform.INSTANCE, set()),
        ({f"{TPM}4": A0}, Platform.INSTANCE, {"command-line"}),
    ],
)
def test_platforms(condition: dict[str, str], platform: Platform | None, rules: set[str]) -> None:
    policy = parsed(ADMINISTRATION, statement(Condition={"StringEquals": condition}))
    assert {f.rule for f in lint(policy, Options(platform))} == rules


def test_a_single_statement_is_not_asked_for_an_administrator() -> None:
    assert lint(parse(json.dumps(statement()))) == []


def test_size() -> None:
    many = [f"{n:096x}" for n in range(1, 340)]
    [finding] = lint(parsed(ADMINISTRATION, compares(many)))
    assert (finding.rule, finding.is_error) == ("size", True)
    spaced = json.dumps({"Statement": [ADMINISTRATION, statement()]}, indent=4) + " " * MAX_POLICY
    [finding] = lint(parse(spaced))
    assert (finding.rule, finding.is_error) == ("size", False)


# What lint lets pass holds for every request: the property that people rely on.

_PINS: list[dict[str, Any]] = [
    {"StringEquals": {IMAGE: A0}},
    {"StringEqualsIgnoreCase": {f"{PCR}0": [A0, B0.upper()]}},
    {"StringEquals": {f"{PCR}1": A0, f"{PCR}2": A0}},
    {"StringEquals": {f"{PCR}1": A0}, "StringLike": {f"{PCR}2": A0}},
    {"ForAnyValue:StringEquals": {f"{PCR}8": A0}},
    {"StringEquals": {IMAGE: A0}, "StringNotEquals": {f"{PCR}16": B0}},
    {"StringEquals": {IMAGE: A0}, "Null": {f"{PCR}1": "false"}},
]
_UNLIKE: list[dict[str, Any]] = [
    {"StringNotEquals": {IMAGE: A0}},
    {"StringNotEqualsIgnoreCase": {f"{PCR}0": A0}},
    {"StringNotLike": {f"{PCR}1": A0}},
    {"ForAllValues:StringNotEquals": {f"{PCR}2": A0}},
    {"StringNotEqualsIfExists": {f"{PCR}8": A0}},
    {"Null": {IMAGE: "true"}},
    {"StringNotEquals": {IMAGE: A0, f"{PCR}16": A0}},
]
_SOME_ACTIONS = st.lists(
    st.sampled_from([*SECRETS, "kms:*", "kms:GenerateDataKey*", "kms:Re*"]), min_size=1, max_size=4
)
_likely = st.lists(
    st.one_of(
        st.builds(
            lambda condition, actions, who: statement(
                Condition=condition, Action=actions, Principal=who
            ),
            st.sampled_from(_PINS), _SOME_ACTIONS, st.sampled_from([{"AWS": ROLE}, ROOT]),
        ),
        st.builds(
            lambda condition, actions: denies(condition, Action=actions),
            st.sampled_from(_UNLIKE), _SOME_ACTIONS | st.just(SECRETS),
        ),
        st.sampled_from([DEFAULT, ADMINISTRATION, IMAGE_GUARD, NULL_GUARD]),
        any_statements(),
    ),
    min_size=1,
    max_size=4,
).map(lambda s: text(*s))  # fmt: skip
"""Policies near to right ones: entirely random ones hardly ever pass."""

_IMAGES = st.sampled_from([b"\xa0" * 48, b"\xb0" * 48, b"\xc0" * 48])


@settings(max_examples=150)
@given(
    _likely, st.sampled_from(GUARDED), st.sampled_from(PRINCIPALS), st.none() | _IMAGES,
    st.dictionaries(st.sampled_from([3, 4, 16, 17]), _IMAGES), st.sampled_from([None, 1, 2]),
)  # fmt: skip
def test_what_passes_lets_no_secret_out(
    given_text: str,
    action: Action,
    principal: str,
    image: bytes | None,
    chosen: dict[int, bytes],
    same: int | None,
) -> None:
    policy = parse(given_text)
    errors = {f.rule for f in lint(policy) if f.is_error or f.rule == "data-keys"}
    if errors - {"locked", "always-denied", "no-key", "resource", "principal"}:
        return
    document: Document | Measured = Document.NONE
    if image is not None:
        # Another image than those the policy names, but for its kernel or its program, with PCRs
        # that its owner chooses.
        names = {v.lower() for s in policy.statements for c in s.conditions for v in c.values}
        if image.hex() in names:
            return
        pcrs = {0: image, 1: image, 2: image, 8: image, **chosen}
        if same is not None:
            pcrs[same] = b"\xa0" * 48
        document = Measured(pcrs, "stranger")
    found = evaluated(policy, Request(action, principal, KEY, document))
    assert found not in (Outcome.ALLOWED, Outcome.DELEGATED)
