"""Policies held against a file of expectations."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from parent.policy import expectations
from parent.policy.actions import Platform, PolicyError
from parent.policy.measured import of_values
from tests.parent.policy.policies import (
    A0,
    DEBUG,
    DEFAULT,
    NEW,
    OLD,
    ROLE,
    SESSION,
    compares,
    parsed,
    statement,
)
from tests.paths import ROOT
from vsock_proxy.errors import AgentError, ConfigurationError
from vsock_proxy.service.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from parent.policy.measured import Measured


def read(path: Path, text: str) -> tuple[expectations.Expectation, ...]:
    file = path / "expect.yaml"
    file.write_text(text)
    return expectations.read(load_settings(file), measured)


def measured(name: str, platform: Platform | None, enclave: str | None) -> Measured:
    assert (platform, enclave) in ((None, None), (Platform.ENCLAVE, "app"))
    found = {"old.eif": OLD, "new.eif": NEW, "debug.json": DEBUG}.get(name)
    if found is None:
        raise PolicyError(f"no such file {name}")
    return found


FILE = f"""\
principal: {SESSION}
expect:
  - name: the released image
    document: old.eif
    may: [kms:Decrypt, GenerateDataKey]
    may-not: kms:Sign
  - name: another image
    document: new.eif
    may-not: [kms:Decrypt]
  - name: in debug mode
    document: debug.json
    platform: enclave
    enclave: app
    may-not: [kms:Decrypt]
  - name: nobody outside
    may-not: [kms:Decrypt, kms:ReEncryptFrom]
"""


def test_a_policy_that_is_as_expected(tmp_path: Path) -> None:
    policy = parsed(statement(Action=["kms:Decrypt", "kms:GenerateDataKey"]))
    results = list(expectations.hold(policy, read(tmp_path, FILE)))
    assert [str(result) for result in results] == [
        "ok: the released image: may kms:Decrypt",
        "ok: the released image: may kms:GenerateDataKey",
        "ok: the released image: may not kms:Sign",
        "ok: another image: may not kms:Decrypt",
        "ok: in debug mode: may not kms:Decrypt",
        "ok: nobody outside: may not kms:Decrypt",
        "ok: nobody outside: may not kms:ReEncryptFrom",
    ]


def test_a_policy_that_is_not(tmp_path: Path) -> None:
    policy = parsed(compares("b0" * 48))
    failed = [str(r) for r in expectations.hold(policy, read(tmp_path, FILE)) if not r.holds]
    assert failed == [
        "FAILED: line 3: the released image: may kms:Decrypt",
        "FAILED: line 3: the released image: may kms:GenerateDataKey",
        "FAILED: line 7: another image: may not kms:Decrypt",
    ]


@pytest.mark.parametrize(
    "policy",
    [
        parsed(DEFAULT),  # left to IAM
        parsed(compares("vpc-1", key="aws:SourceVpc")),
        parsed(statement(Principal=None)),
    ],
)
def test_what_cannot_be_told_is_neither(tmp_path: Path, policy: object) -> None:
    text = "expect: [{document: old.eif, may: Decrypt, may-not: Decrypt}]"
    results = list(expectations.hold(policy, read(tmp_path, text)))  # type: ignore[arg-type]
    assert [result.holds for result in results] == [False, False]


def test_the_documented_file(tmp_path: Path) -> None:
    text = (ROOT / "docs/key-policy.md").read_text(encoding="utf-8")
    example = text[text.index("    # expectations.yaml") :].split("\n\n")[0]
    example = textwrap.dedent(example).replace("release.eif", "old.eif")
    found = read(tmp_path, example.replace("previous.json", "new.eif"))
    policy = parsed(statement(Action=["kms:Decrypt", "kms:GenerateDataKey"]))
    results = list(expectations.hold(policy, found))
    assert len(results) == 5
    assert all(result.holds for result in results)


def test_context_and_principals_of_one_expectation(tmp_path: Path) -> None:
    text = f"""\
expect:
  - document: old.eif
    principal: {ROLE}
    context: {{aws:SourceVpc: vpc-1}}
    may: [Decrypt]
  - document: old.eif
    principal: {ROLE}
    context: {{aws:SourceVpc: vpc-2}}
    may-not: [Decrypt]
"""
    conditions = {"StringEquals": {"aws:SourceVpc": "vpc-1"}}
    results = expectations.hold(parsed(statement(Condition=conditions)), read(tmp_path, text))
    assert all(result.holds for result in results)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("principal: x", "key 'expect' is missing"),
        ("expect: []", ":1: expect: no expectation"),
        ("expect: [{may: [Decypt]}]", r":1: may: KMS has no action 'Decypt'"),
        ("expect:\n - {name: x}", ":2: expect: neither may nor may-not"),
        ("expect:\n - {maynot: [Decrypt]}", "unknown key 'maynot' .did you mean may-not"),
        ("expect:\n - {may: [Decrypt], platform: sgx}", "platform: 'sgx' is not one of: enclave"),
        ("expect:\n - {may: [Decrypt], document: x}", "no such file x"),
    ],
)
def test_what_is_not_a_file_of_expectations(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(AgentError, match=message) as caught:
        read(tmp_path, text)
    assert isinstance(caught.value, ConfigurationError | PolicyError)


def test_values_in_place_of_a_document(tmp_path: Path) -> None:
    file = tmp_path / "expect.yaml"
    file.write_text(f"expect: [{{document: 'PCR0={A0}', may: Decrypt}}]")
    [found] = expectations.read(
        load_settings(file), lambda text, platform, _: of_values(text, platform=platform)
    )
    [result] = expectations.hold(parsed(statement()), (found,))
    assert result.holds
