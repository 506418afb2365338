"""Policies that are written: their form, what cannot be written, and that KMS enforces them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from enclave_simulator.kms.policy import Access, Verdict, parse_policy
from parent.policy import generate
from parent.policy.actions import Platform, PolicyError
from parent.policy.findings import Options
from parent.policy.language import parse
from parent.policy.lint import lint
from parent.policy.measured import Measured, of_image, of_values, with_parent
from parent.policy.rollout import rollout
from tests.parent.policy.policies import (
    A0,
    ADMINISTRATOR,
    B0,
    DEBUG,
    DEFAULT,
    IMAGE,
    KEY,
    NEW,
    OLD,
    PCR,
    ROLE,
    SESSION,
    TPM,
)

PEOPLE: dict[str, Any] = {"roles": [ROLE], "administrators": [ADMINISTRATOR]}
INSTANCE = Measured({4: b"\4" * 48, 7: b"\7" * 48, 12: bytes(48)}, "instance", Platform.INSTANCE)
SANDBOX = of_values(f"PCR17={A0}", platform=Platform.SANDBOX)
STRANGER = Measured(dict.fromkeys((0, 1, 2), b"\xcc" * 48), "stranger")


def key_policy(*measured: Measured, **changes: Any) -> dict[str, Any]:
    return generate.key_policy(measured, **{**PEOPLE, **changes})


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


def test_several_images() -> None:
    assert conditions(key_policy(OLD, NEW, OLD)) == [{"StringEqualsIgnoreCase": {IMAGE: [A0, B0]}}]
    # Several keys with several values each would let images be mixed.
    several = key_policy(OLD, NEW, conditions=["PCR1", "PCR2"])
    assert conditions(several) == [
        {"StringEqualsIgnoreCase": {f"{PCR}1": "a1" * 48, f"{PCR}2": "a2" * 48}},
        {"StringEqualsIgnoreCase": {f"{PCR}1": "b1" * 48, f"{PCR}2": "b2" * 48}},
    ]
    assert [s["Sid"] for s in several["Statement"][1:]] == ["AttestedUse1", "AttestedUse2"]


def test_the_guard_is_for_decrypt_and_re_encrypt_from() -> None:
    guard = key_policy(OLD, deny_outside=True)["Statement"][-1]
    assert (guard["Effect"], guard["Principal"]) == ("Deny", {"AWS": "*"})
    assert guard["Condition"] == {"Null": {IMAGE: "true"}}
    assert {"kms:Decrypt", "kms:ReEncryptFrom"} < set(guard["Action"])
    assert "kms:PutKeyPolicy" not in guard["Action"]


def test_an_instance() -> None:
    policy = key_policy(INSTANCE, deny_outside=True)
    assert conditions(policy) == [
        {"StringEqualsIgnoreCase": {f"{TPM}4": "04" * 48, f"{TPM}12": "00" * 48}},
        {"Null": {f"{TPM}4": "true"}},
    ]
    secure_boot = key_policy(INSTANCE, conditions=["NitroTPMPCR7"])
    assert conditions(secure_boot) == [{"StringEqualsIgnoreCase": {f"{TPM}7": "07" * 48}}]


def test_a_sandbox() -> None:
    assert conditions(key_policy(SANDBOX)) == [{"StringEqualsIgnoreCase": {f"{PCR}17": A0}}]
    # A sandbox's image PCRs are zero, as those of an enclave in debug mode are.
    booted = replace(DEBUG, pcrs={**DEBUG.pcrs, 17: b"\xa0" * 48}, platform=Platform.SANDBOX)
    assert key_policy(booted) == key_policy(SANDBOX)


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


PARENT = with_parent(OLD, role=ROLE, instance="i-1")


@pytest.mark.parametrize(
    ("measured", "changes", "reason"),
    [
        ([DEBUG], {}, "debug mode"),
        ([DEBUG], {"conditions": ["PCR8"]}, "debug mode"),
        ([NEW], {"conditions": ["PCR8"]}, "no PCR8 in new"),
        ([of_image(NEW.pcrs, "x")], {"conditions": ["PCR8"]}, "PCR8 is zero in x"),
        ([NEW], {"conditions": ["PCR32"]}, "'PCR32' is not ImageSha384 or PCR0 to PCR31"),
        ([INSTANCE], {"conditions": ["PCR24"]}, "'PCR24' is not PCR0 to PCR23"),
        ([INSTANCE], {"conditions": ["ImageSha384"]}, "is not PCR0 to PCR23"),
        ([NEW], {"conditions": []}, "something of them to compare"),
        ([], {}, "needs measurements"),
        ([NEW], {"roles": []}, "needs a role"),
        ([NEW], {"administrators": []}, "needs a role"),
        ([OLD, INSTANCE], {}, "need a policy each"),
        # What lint rejects is not written.
        (
            [PARENT],
            {"conditions": ["PCR3"]},
            "by lint: .* PCR3 measures the parent's role",
        ),
        ([PARENT], {"conditions": ["PCR4"]}, "rejected by lint: .* the parent's instance ID"),
        ([PARENT], {"conditions": ["PCR3", "PCR4"]}, "rejected by lint"),
        ([OLD], {"conditions": ["PCR1"]}, "rejected by lint: .* not the program"),
        ([OLD], {"conditions": ["PCR2"]}, "rejected by lint: .* the kernel"),
        (
            [of_values(f"PCR17={A0}", platform=None)],
            {"conditions": ["PCR17"]},
            "rejected by lint: .* an enclave extends PCR17 itself",
        ),
        ([INSTANCE], {"conditions": ["PCR4"]}, "rejected by lint: .* kernel command line"),
        ([OLD], {"roles": ["arn:aws:iam::111122223333:role/*"]}, "takes no wildcard"),
        ([OLD], {"roles": ["role/enclave"]}, "not a principal that KMS accepts"),
        ([OLD], {"roles": ["*"]}, "any principal of any AWS account"),
    ],
)
def test_what_cannot_be_written(
    measured: list[Measured], changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(PolicyError, match=reason):
        key_policy(*measured, **changes)


def test_the_parents_pcrs_beside_the_image() -> None:
    [condition] = conditions(key_policy(PARENT, conditions=["PCR0", "PCR3", "PCR4"]))
    of_role = hashlib.sha384(bytes(48) + ROLE.encode()).hexdigest()
    assert condition["StringEqualsIgnoreCase"][f"{PCR}3"] == of_role


@pytest.mark.parametrize("guard", [False, True])
@pytest.mark.parametrize(
    ("measured", "names"),
    [
        ([OLD, NEW], ["ImageSha384"]),
        ([OLD, NEW], ["PCR1", "PCR2"]),
        ([OLD, NEW], ["PCR0", "PCR1", "PCR2"]),
        ([OLD], ["PCR8"]),
        ([INSTANCE], None),
        ([SANDBOX], None),
    ],
)
def test_lint_has_nothing_against_it(
    measured: list[Measured], names: list[str] | None, guard: bool
) -> None:
    policy = key_policy(*measured, conditions=names, deny_outside=guard)
    assert lint(parse(json.dumps(policy)), Options(measured[0].platform)) == []
    iam = generate.iam_policy(measured, conditions=names)
    assert lint(parse(json.dumps(iam)), Options(measured[0].platform)) == []


def test_a_rollout() -> None:
    found = rollout(OLD, NEW, **PEOPLE, deny_outside=True)
    assert found["During"] == key_policy(OLD, NEW, deny_outside=True)
    assert found["After"] == key_policy(NEW, deny_outside=True)
    assert len(found["Steps"]) == 3


@pytest.mark.parametrize(
    ("old", "new", "changes", "reason"),
    [
        (OLD, OLD, {}, "ImageSha384 of both are the same"),
        (OLD, INSTANCE, {}, "need a policy each"),
        (OLD, NEW, {"conditions": ["PCR8"]}, "no PCR8 in new"),
        (OLD, DEBUG, {}, "debug mode"),
    ],
)
def test_what_cannot_be_rolled_out(
    old: Measured, new: Measured, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(PolicyError, match=reason):
        rollout(old, new, **PEOPLE, **changes)


def verdict(policy: str, principal: str, action: str, measured: Measured | None) -> Verdict:
    context = {key: (value,) for key, value in (measured.context() if measured else {}).items()}
    return parse_policy(policy).verdict(Access(principal, action, KEY, context))


@pytest.mark.parametrize(
    ("principal", "action", "measured", "expected"),
    [
        (SESSION, "kms:Decrypt", OLD, Verdict.ALLOWED),
        (SESSION, "kms:GenerateDataKeyPair", NEW, Verdict.ALLOWED),
        (SESSION, "kms:Decrypt", STRANGER, Verdict.SILENT),
        (SESSION, "kms:Decrypt", DEBUG, Verdict.SILENT),
        (SESSION, "kms:Decrypt", None, Verdict.DENIED),
        (SESSION, "kms:PutKeyPolicy", OLD, Verdict.SILENT),
        (ADMINISTRATOR, "kms:PutKeyPolicy", None, Verdict.ALLOWED),
        (ADMINISTRATOR, "kms:Decrypt", OLD, Verdict.SILENT),
        (ADMINISTRATOR, "kms:ReEncryptFrom", None, Verdict.DENIED),
    ],
)
@pytest.mark.parametrize("names", [["ImageSha384"], ["PCR1", "PCR2"]])
def test_the_simulated_kms_enforces_it(
    principal: str, action: str, measured: Measured | None, expected: Verdict, names: list[str]
) -> None:
    policy = json.dumps(key_policy(OLD, NEW, conditions=names, deny_outside=True))
    assert verdict(policy, principal, action, measured) is expected


def test_the_guard_holds_whatever_else_allows() -> None:
    policy = key_policy(OLD, deny_outside=True)
    policy["Statement"].append(DEFAULT)
    enforced = json.dumps(policy)
    assert verdict(enforced, ADMINISTRATOR, "kms:Decrypt", None) is Verdict.DENIED
    assert verdict(enforced, ADMINISTRATOR, "kms:Encrypt", None) is Verdict.DELEGATED


def test_the_simulated_kms_enforces_the_iam_policy() -> None:
    policy = parse_policy(json.dumps(generate.iam_policy([OLD, NEW])), of_key=False)

    def random(measured: Measured | None) -> Verdict:
        given = measured.context() if measured else {}
        context = {key: (value,) for key, value in given.items()}
        return policy.verdict(Access(SESSION, "kms:GenerateRandom", "*", context))

    assert random(NEW) is Verdict.ALLOWED
    assert random(STRANGER) is Verdict.SILENT
    assert random(None) is Verdict.SILENT
