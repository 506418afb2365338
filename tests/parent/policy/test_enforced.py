"""The simulated KMS enforces what is generated, and agrees with what is explained."""

from __future__ import annotations

import json

import pytest

from enclave_simulator.kms.policy import Access, Policy, Verdict, parse_policy
from parent.policy import explain, generate
from parent.policy.explain import Outcome, Request
from parent.policy.language import parse
from parent.policy.measured import Measured
from tests.parent.policy.test_policy import (
    ADMINISTRATOR,
    DEBUG,
    DEFAULT,
    NEW,
    OLD,
    SESSION,
    key_policy,
)

STRANGER = Measured(dict.fromkeys((0, 1, 2), b"\xcc" * 48), "stranger")
KEY = "arn:aws:kms:eu-central-1:111122223333:key/k"


def verdict(policy: Policy, principal: str, action: str, measured: Measured | None) -> Verdict:
    context = {key: (value,) for key, value in (measured.context() if measured else {}).items()}
    return policy.verdict(Access(principal, action, KEY, context))


CASES = [
    (SESSION, "kms:Decrypt", OLD, Verdict.ALLOWED),
    (SESSION, "kms:GenerateDataKeyPair", NEW, Verdict.ALLOWED),
    (SESSION, "kms:Decrypt", STRANGER, Verdict.SILENT),
    (SESSION, "kms:Decrypt", DEBUG, Verdict.SILENT),
    (SESSION, "kms:Decrypt", None, Verdict.DENIED),
    (SESSION, "kms:PutKeyPolicy", OLD, Verdict.SILENT),
    (ADMINISTRATOR, "kms:PutKeyPolicy", None, Verdict.ALLOWED),
    (ADMINISTRATOR, "kms:Decrypt", OLD, Verdict.SILENT),
    (ADMINISTRATOR, "kms:ReEncryptFrom", None, Verdict.DENIED),
]
OUTCOMES = {
    Verdict.ALLOWED: Outcome.ALLOWED,
    Verdict.DENIED: Outcome.DENIED,
    Verdict.SILENT: Outcome.NOT_ALLOWED,
}


@pytest.mark.parametrize(("principal", "action", "measured", "expected"), CASES)
@pytest.mark.parametrize("names", [["ImageSha384"], ["PCR1", "PCR2"]])
def test_key_policies(
    principal: str, action: str, measured: Measured | None, expected: Verdict, names: list[str]
) -> None:
    text = json.dumps(key_policy(OLD, NEW, conditions=names, deny_outside=True))
    assert verdict(parse_policy(text), principal, action, measured) is expected
    explained = explain.explain(parse(text), Request(action, principal), measured)
    assert explained.outcome is OUTCOMES[expected]


def test_the_guard_holds_whatever_else_allows() -> None:
    policy = key_policy(OLD, deny_outside=True)
    policy["Statement"].append(DEFAULT)
    enforced = parse_policy(json.dumps(policy))
    assert verdict(enforced, ADMINISTRATOR, "kms:Decrypt", None) is Verdict.DENIED
    assert verdict(enforced, ADMINISTRATOR, "kms:Encrypt", None) is Verdict.DELEGATED


def test_iam_policies() -> None:
    policy = parse_policy(json.dumps(generate.iam_policy([OLD, NEW])), of_key=False)
    random = "kms:GenerateRandom"
    assert verdict(policy, SESSION, random, NEW) is Verdict.ALLOWED
    assert verdict(policy, SESSION, random, STRANGER) is Verdict.SILENT
    assert verdict(policy, SESSION, random, None) is Verdict.SILENT
