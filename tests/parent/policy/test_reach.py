"""Whom and which keys a Deny reaches, of those that an Allow lets in; whom a statement names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from parent.policy import reach
from parent.policy.actions import find
from tests.parent.policy.policies import (
    ACCOUNT,
    ADMINISTRATOR,
    KEY,
    ROLE,
    ROOT,
    parsed,
    statement,
)

if TYPE_CHECKING:
    from parent.policy.language import Policy

DECRYPT = find("Decrypt")
EVERYONE = {"AWS": "*"}
OTHER = f"{KEY}-2"


def of_two(allow: dict[str, Any], deny: dict[str, Any]) -> Policy:
    allow = {"Condition": None, **allow}
    deny = {"Effect": "Deny", "Principal": EVERYONE, "Condition": None, **deny}
    return parsed(statement(**allow), statement(**deny))


@pytest.mark.parametrize(
    ("allow", "deny", "guards"),
    [
        ({}, {}, True),
        # Whom it names.
        ({}, {"Principal": {"AWS": ROLE}}, True),
        ({}, {"Principal": ROOT}, True),
        ({}, {"Principal": {"AWS": ACCOUNT}}, True),
        ({}, {"Principal": {"AWS": ADMINISTRATOR}}, False),
        ({}, {"Principal": {"AWS": "arn:aws:iam::444455556666:root"}}, False),
        ({"Principal": {"AWS": [ROLE, ADMINISTRATOR]}}, {"Principal": {"AWS": ROLE}}, False),
        ({"Principal": {"AWS": [ROLE, ADMINISTRATOR]}}, {"Principal": ROOT}, True),
        ({"Principal": {"AWS": ACCOUNT}}, {"Principal": ROOT}, True),
        ({"Principal": EVERYONE}, {"Principal": ROOT}, False),
        ({"Principal": {"AWS": "a:b:c:d"}}, {"Principal": ROOT}, False),
        ({"Principal": {"Service": "logs.amazonaws.com"}}, {"Principal": ROOT}, False),
        # Everyone but those it names: who is meant is not among them, or is among them.
        ({}, {"Principal": None, "NotPrincipal": {"AWS": ROLE}}, False),
        ({"Principal": None, "NotPrincipal": {"AWS": ROLE}}, {"Principal": {"AWS": ROLE}}, False),
        ({"Principal": None, "NotPrincipal": {"AWS": ROLE}}, {}, True),
        # Which keys.
        ({}, {"Resource": KEY}, False),
        ({"Resource": KEY}, {"Resource": KEY}, True),
        ({"Resource": KEY}, {"Resource": f"{KEY[:-1]}*"}, True),
        ({"Resource": [KEY, OTHER]}, {"Resource": KEY}, False),
        ({"Resource": f"{KEY[:-1]}*"}, {"Resource": f"{KEY[:-1]}*"}, True),
        ({"Resource": f"{KEY[:-1]}*"}, {"Resource": f"{KEY}*"}, False),
        ({"Resource": None, "NotResource": KEY}, {"Resource": KEY}, False),
        ({"Resource": KEY}, {"Resource": None, "NotResource": OTHER}, False),
        ({"Resource": KEY}, {"Resource": None}, False),
        # Which actions.
        ({}, {"Action": "kms:Encrypt"}, False),
    ],
)
def test_a_deny_guards_an_allow(allow: dict[str, Any], deny: dict[str, Any], guards: bool) -> None:
    policy = of_two(allow, deny)
    allowing, denying = policy.statements
    expected = [denying] if guards else []
    assert list(reach.guards(policy, DECRYPT, allowing)) == expected
    assert reach.denies_without_document(policy, DECRYPT, allowing) is guards


@pytest.mark.parametrize(
    ("deny", "guards"),
    [
        ({}, True),
        ({"Resource": KEY}, False),
        ({"Principal": {"AWS": ROLE}}, False),
    ],
)
def test_a_deny_guards_what_nothing_allows_yet(deny: dict[str, Any], guards: bool) -> None:
    policy = of_two({}, deny)
    assert bool(list(reach.guards(policy, DECRYPT))) is guards
    assert reach.denies_without_document(policy, DECRYPT) is guards


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"Principal": {"AWS": ROLE}}, ROLE),
        ({"Principal": {"AWS": [ROLE, ADMINISTRATOR]}}, f"{ROLE}, {ADMINISTRATOR}"),
        ({"Principal": ROOT}, "any principal that an IAM policy of the account allows"),
        (
            {"Principal": {"AWS": [ROLE, ACCOUNT]}},
            "any principal that an IAM policy of the account allows",
        ),
        ({"Principal": None, "NotPrincipal": {"AWS": ROLE}}, "everyone but those it names"),
        ({"Principal": EVERYONE}, "anyone"),
        (
            {
                "Principal": EVERYONE,
                "Condition": {"StringEquals": {"kms:CallerAccount": ACCOUNT}},
            },
            "any caller that meets the conditions",
        ),
    ],
)
def test_whom_a_statement_is_about(changes: dict[str, Any], expected: str) -> None:
    [found] = parsed(statement(**{"Condition": None, **changes})).statements
    assert reach.who(found) == expected


def test_an_iam_policy_is_about_its_holder() -> None:
    [found] = parsed(statement(Principal=None)).statements
    assert reach.who(found) == "the holder of this policy"
