"""Policies, and which rules of lint find something in them."""

from __future__ import annotations

from typing import Any

from parent.policy.actions import GUARDED
from tests.parent.policy.policies import (
    A0,
    ADMINISTRATION,
    B0,
    DEFAULT,
    IMAGE,
    KEY,
    PCR,
    ROLE,
    ROOT,
    TPM,
    compares,
    statement,
)

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
    "a service, behind a Deny": (
        [
            statement(Principal={"Service": "logs.amazonaws.com"}, Condition=None),
            NULL_GUARD,
        ],
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
    "a template's variable": ({"StringEquals": {IMAGE: "${pcr_0}"}}, {"placeholder"}),
    "a policy variable": ({"StringEquals": {IMAGE: "${aws:PrincipalTag/pcr0}"}}, {"variable"}),
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
    "numbers": ({"NumericEquals": {IMAGE: "1"}}, {"operator"}),
    "a switch": ({"Bool": {IMAGE: "true"}}, {"operator"}),
    "operator's case": ({"stringequals": {IMAGE: A0}}, {"operator"}),
    "no such operator": ({"Equals": {IMAGE: A0}}, {"operator"}),
    "no value": ({"StringEquals": {IMAGE: []}}, {"no-value"}),
    "neither": ({"Null": {IMAGE: "no"}}, {"null"}),
    "any document, in another case": ({"Null": {IMAGE: "False"}}, {"any-image"}),
    "ImageSha384 is not PCR0, for all values": (
        {"ForAllValues:StringEquals": {IMAGE: A0, f"{PCR}0": B0}},
        {"quantifier", "unattested"},
    ),
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
    **{
        f"a wildcard for {name}": ({"Action": ["kms:Decrypt", name]}, {"no-recipient"})
        for name in ("kms:ReEncrypt*", "kms:Encryp?", "kms:GenerateMa*", "kms:Verify*")
    },
    **{
        f"a wildcard for {name}": ({"Action": name}, set())
        for name in ("kms:GenerateDataKey*", "kms:*crypt")
    },
    **{
        f"only through a service, by {key}": (
            {"Condition": {"StringEqualsIgnoreCase": {IMAGE: A0}, operator: {key: value}}},
            {"through-a-service"},
        )
        for operator, key, value in (
            ("StringEquals", "kms:ViaService", "s3.eu-central-1.amazonaws.com"),
            ("StringLike", "kms:viaservice", "*.amazonaws.com"),
            ("ForAnyValue:StringEquals", "aws:CalledVia", "athena.amazonaws.com"),
            ("Bool", "aws:ViaAWSService", "true"),
        )
    },
    **{
        f"not through a service, by {operator}": (
            {"Condition": {"StringEqualsIgnoreCase": {IMAGE: A0}, operator: {key: value}}},
            set(),
        )
        for operator, key, value in (
            ("StringNotEquals", "kms:ViaService", "s3.eu-central-1.amazonaws.com"),
            ("StringEqualsIfExists", "kms:ViaService", "s3.eu-central-1.amazonaws.com"),
            ("Bool", "aws:ViaAWSService", "false"),
        )
    },
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
    "a service without a document": (
        {"Principal": {"Service": "logs.eu-central-1.amazonaws.com"}, "Condition": None},
        {"service"},
    ),
    "a service, beside a role": (
        {
            "Principal": {"AWS": ROLE, "Service": ["sns.amazonaws.com", "x"]},
            "Action": "kms:*",
            "Condition": None,
        },
        {"service", "unattested", "grant"},
    ),
    "a service that encrypts": (
        {
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": ["kms:Encrypt", "kms:GenerateDataKey"],
            "Condition": None,
        },
        set(),
    ),
    "no service": (
        {"Principal": {"Federated": "accounts.google.com"}, "Condition": None},
        set(),
    ),
    "no Action": ({"Action": None}, {"action"}),
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
