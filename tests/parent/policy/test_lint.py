"""Which mistakes lint finds, and what it has nothing against."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from parent.policy import reach
from parent.policy.actions import Platform
from parent.policy.evaluate import step
from parent.policy.findings import Options, Severity
from parent.policy.language import MAX_POLICY, parse
from parent.policy.lint import lint
from tests.parent.policy.lint_cases import (
    CASES,
    IMAGE_GUARD,
    denies,
)
from tests.parent.policy.policies import (
    A0,
    ADMINISTRATION,
    DEFAULT,
    IMAGE,
    PCR,
    TPM,
    compares,
    parsed,
    statement,
    text,
)
from tests.paths import ROOT as ROOT_FOLDER

if TYPE_CHECKING:
    from parent.policy.evaluate import Request, Step
    from parent.policy.language import Statement


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
    "debug", "data-keys", "key", "service",
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


def test_the_work_does_not_grow_with_the_cube_of_the_statements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it did: a policy within KMS's quota took minutes."""
    count = 0

    def counted(found: Statement, request: Request) -> Step:
        nonlocal count
        count += 1
        return step(found, request)

    monkeypatch.setattr(reach, "step", counted)
    policy = parsed(
        *(
            statement(
                Sid=f"{effect}{n}",
                Effect=effect,
                Principal="*",
                Action="kms:*",
                Condition={"StringNotEquals": {IMAGE: A0}},
            )
            for n in range(30)
            for effect in ("Allow", "Deny")
        )
    )
    lint(policy)
    assert 0 < count < 10_000  # more than 100,000 before
