"""Actions, principals and resources of one statement. No I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from parent.policy.actions import ATTESTATION_KEYS, matching, suggestion
from parent.policy.findings import Severity, at
from parent.policy.principals import Kind, principal_kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from parent.policy.findings import Finding
    from parent.policy.language import Policy, Statement


def actions(policy: Policy, statement: Statement) -> Iterator[Finding]:
    """Yield the mistakes in a statement's actions."""
    if not statement.actions and not statement.is_action_negated:
        yield at(
            statement, "action",
            "no Action: a statement without one has no effect",
            "name the actions, such as kms:Decrypt",
        )  # fmt: skip
    for pattern in statement.actions:
        if pattern in ("*", "kms:*") or matching(pattern):
            continue
        if pattern.lower() == "kms:reencrypt":
            hint = "write kms:ReEncryptFrom, kms:ReEncryptTo, or kms:ReEncrypt* for both"
        else:
            hint = suggestion(pattern) or "see AWS's service authorization reference"
        yield at(
            statement, "action",
            f"{pattern!r:.80} names no action of KMS: it has no effect",
            hint, Severity.WARNING,
        )  # fmt: skip
    if policy.is_of_key and not statement.is_action_negated:
        named = statement.named_actions()
        keyless = [action for action in named if not action.is_on_key]
        if keyless:
            rest = [a for a in statement.covered() if a.is_on_key]
            names = ", ".join(action.name for action in keyless)
            yield at(
                statement, "no-key",
                f"{names}: about no key, so that no key policy governs it; IAM policies do",
                "put it into an IAM policy of the role"
                + (
                    ": enclave-parent key-policy generate --iam writes one for GenerateRandom"
                    if any(a.takes_recipient for a in keyless) else ""
                ),
                Severity.WARNING if rest else Severity.ERROR,
            )  # fmt: skip


def principals(statement: Statement) -> Iterator[Finding]:
    """Yield the mistakes in the principals of a key policy's statement."""
    if statement.is_principal_negated and statement.allows:
        yield at(
            statement, "not-principal",
            "Allow with NotPrincipal allows everyone else, of every account",
            "name in Principal who may",
        )  # fmt: skip
    for pattern in statement.principals or ():
        kind = principal_kind(pattern)
        shown = f"{pattern!r:.120}"
        if kind is Kind.DELETED:
            yield at(
                statement, "deleted-principal",
                f"{shown} is the ID of a role or user that was deleted: a new one of the same "
                "name is not meant",
                "name the role's ARN again",
            )  # fmt: skip
        elif kind is Kind.WILDCARD:
            yield at(
                statement, "principal-wildcard",
                f"{shown}: KMS takes no wildcard within a principal's ARN",
                'name the roles; or "*" with a condition ArnLike on aws:PrincipalArn',
            )  # fmt: skip
        elif kind is Kind.INVALID:
            yield at(
                statement, "principal", f"{shown} is not a principal that KMS accepts",
                "name an account, or the ARN of a role or user",
            )  # fmt: skip
    attested = any(c.key.lower() in ATTESTATION_KEYS for c in statement.conditions)
    if statement.allows and attested and statement.principals == ():
        others = ", ".join(statement.other_principals)[:120]
        yield at(
            statement, "principal",
            f"{others or 'no principal'}: no enclave calls KMS as such a principal",
            "name the role of the parents under AWS",
        )  # fmt: skip


def resources(statement: Statement) -> Iterator[Finding]:
    """Yield the mistakes in the resources of a key policy's statement."""
    if statement.resources is None:
        yield at(
            statement, "resource",
            "no Resource: in a key policy, a statement without one has no effect",
            'add "Resource": "*"',
        )  # fmt: skip
        return
    if statement.is_resource_negated:
        yield at(
            statement, "resource", "NotResource: a key policy is about its own key",
            'write "Resource": "*"', Severity.WARNING,
        )  # fmt: skip
        return
    for pattern in statement.resources:
        if pattern != "*" and not re.match(r"arn:aws[a-z-]*:kms:[^:]*:[^:]*:key/", pattern):
            yield at(
                statement, "resource",
                f"{pattern!r:.120}: not the ARN of a key: the statement has no effect",
                'write "Resource": "*", which in a key policy means its key',
            )  # fmt: skip
        elif pattern != "*" and not statement.allows:
            yield at(
                statement, "resource",
                f"{pattern!r:.120}: if that is not the policy's own key, nothing is denied",
                'write "Resource": "*", which in a key policy means its key',
                Severity.WARNING,
            )  # fmt: skip
