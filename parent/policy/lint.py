"""Mistakes in policies of keys for enclaves, as others have made them. No I/O.

Sources: those of `parent.policy.actions`, `parent.policy.language` and `parent.policy.evaluate`;
GHSA-xrv8-2pf5-f3q7 for the NitroTPM's PCR12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from parent.policy import lint_conditions, lint_elements, lint_use
from parent.policy.actions import ACTIONS, DECAPSULATE, find
from parent.policy.findings import Finding, Options, Severity, at
from parent.policy.language import MAX_POLICY
from parent.policy.reach import applies_with_any, is_denied_to_all, may, who

if TYPE_CHECKING:
    from collections.abc import Iterator

    from parent.policy.language import Policy

_PUT_POLICY = find("PutKeyPolicy")
_UNATTESTED_BY_DESIGN = {find("ReEncryptFrom"), DECAPSULATE}


def lint(policy: Policy, options: Options | None = None) -> list[Finding]:
    """Return the mistakes in a policy, of a key or of IAM's, in the order of its lines."""
    options = options or Options()
    found: list[Finding] = [*lint_use.use(policy, options), *lint_use.grants(policy, options)]
    for statement in policy.statements:
        found += lint_conditions.check(statement, options.platform)
        found += lint_elements.actions(policy, statement)
        if policy.is_of_key:
            found += lint_elements.principals(statement)
            found += lint_elements.resources(statement)
    if policy.is_of_key:
        found += _always_denied(policy)
        if policy.is_whole:
            found += _administration(policy, options)
            found += _size(policy)
    return sorted(dict.fromkeys(found), key=lambda finding: finding.line)


# The policy as a whole.


def _always_denied(policy: Policy) -> Iterator[Finding]:
    """Find a Deny that refuses every request for what another statement allows.

    A Deny without conditions is meant; one whose conditions every request meets is not. ReEncrypt
    and Decapsulate are denied so on purpose, beside Decrypt.
    """
    for guard in policy.statements:
        if guard.allows or not guard.is_for_everyone or not guard.conditions:
            continue
        denied = [
            action
            for action in guard.covered()
            if action not in _UNATTESTED_BY_DESIGN
            and action.is_on_key
            and applies_with_any(guard, action)
        ]
        wanted = [a for a in denied if any(may(s, a) for s in policy.statements)]
        if not wanted:
            continue
        names = ", ".join(a.name for a in wanted[:4])
        more = f" and {len(wanted) - 4} others" if len(wanted) > 4 else ""
        yield at(
            guard, "always-denied",
            f"every request for {names}{more} meets its conditions: it denies them to everyone, "
            "though other statements allow them",
            "compare a condition key that these requests have; in a Deny on the attestation "
            "document, name only the actions that take one, and kms:ReEncryptFrom",
        )  # fmt: skip


def _administration(policy: Policy, options: Options) -> Iterator[Finding]:
    changing = [s for s in policy.statements if may(s, _PUT_POLICY)]
    if is_denied_to_all(policy, _PUT_POLICY):
        changing = []
    if options.is_immutable:
        for statement in changing:
            yield at(
                statement, "mutable",
                f"{who(statement)} may change the policy (kms:PutKeyPolicy), and with it all it "
                "says",
                "leave kms:PutKeyPolicy out",
            )  # fmt: skip
        replicate = ACTIONS["kms:replicatekey"]
        for statement in policy.statements:
            if may(statement, replicate) and not is_denied_to_all(policy, replicate):
                yield at(
                    statement, "mutable",
                    f"{who(statement)} may replicate the key (kms:ReplicateKey), if it is a "
                    "multi-Region key: a replica has a policy of its own",
                    "leave kms:ReplicateKey out", Severity.WARNING,
                )  # fmt: skip
    elif not changing:
        yield Finding(
            "locked", "the policy", 0,
            "no principal may ever change it (kms:PutKeyPolicy); KMS accepts it only with "
            "--bypass-policy-lockout-safety-check",
            "allow kms:PutKeyPolicy to an administrator; if this is meant, lint with --immutable",
        )  # fmt: skip


def _size(policy: Policy) -> Iterator[Finding]:
    if policy.size <= MAX_POLICY:
        return
    fits = policy.compact_size <= MAX_POLICY
    yield Finding(
        "size", "the policy", 0,
        f"{policy.size} bytes, {policy.compact_size} without white space; KMS's quota is "
        f"{MAX_POLICY}",
        "put it without white space" if fits else "leave out values of images that no longer run",
        Severity.WARNING if fits else Severity.ERROR,
    )  # fmt: skip
