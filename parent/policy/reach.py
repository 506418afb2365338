"""Which callers and requests statements apply to, if parts of a request are unknown. No I/O."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from parent.policy.actions import like
from parent.policy.evaluate import Document, Request, check, step
from parent.policy.principals import Kind, principal_kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from parent.policy.actions import Action
    from parent.policy.language import Condition, Policy, Statement

_CALLER_KEYS = re.compile(
    r"kms:calleraccount|aws:(principal(account|arn|orgid|orgpaths)|userid"
    r"|source(account|arn|orgid|orgpaths|vpc|vpce|ip))"
)
"""Condition keys that tell the callers of one account, organization or network from all others.

Not those that a caller's own account chooses: tags and names of its principals, private addresses
of its networks, the service through which they call."""

_OF_ONE = re.compile(
    r"arn:[^:]*:[^:]*:[^:]*:\d{12}:.*"  # an account's
    r"|o-[a-z0-9]{10,32}/.*"  # paths within an organization
    r"|A[A-Z]{3}[A-Z0-9]{12,}:.*"  # sessions of a role, by its unique ID
)
"""What may have wildcards and is still one account's, organization's or role's."""


def names_anybody(statement: Statement) -> bool:
    """Return whether a statement can be about any caller at all."""
    if statement.principals is None or statement.is_principal_negated:
        return True
    kinds = {principal_kind(pattern) for pattern in statement.principals}
    return bool(kinds & {Kind.EVERYONE, Kind.ACCOUNT, Kind.IDENTITY, Kind.INVALID})


def never_applies(statement: Statement, action: Action) -> bool:
    """Return whether no request for an action meets a statement's conditions."""
    return not may_apply(statement, Request(action, document=Document.UNKNOWN))


def may_apply(statement: Statement, request: Request) -> bool:
    """Return whether a request may be about a statement's key and meet its conditions."""
    return (
        step(statement, request).is_resource is not False
        and all(check(c, request).is_met is not False for c in statement.conditions)
    )  # fmt: skip


def applies_without_document(statement: Statement, action: Action) -> bool:
    """Return whether a request without a document may meet a statement's conditions."""
    request = Request(action, document=Document.NONE)
    return all(check(c, request).is_met is not False for c in statement.conditions)


def guards(
    policy: Policy, action: Action, allowing: Statement | None = None
) -> Iterator[Statement]:
    """Yield the statements that deny an action to everyone, or to all that another one names.

    They are about every key, or about those of the other statement.
    """
    for statement in policy.statements:
        if not statement.allows and statement.covers(action) and _guards(statement, allowing):
            yield statement


def _guards(denying: Statement, allowing: Statement | None) -> bool:
    return _names(denying, allowing) and _is_about_keys_of(denying, allowing)


def _is_about_keys_of(denying: Statement, allowing: Statement | None) -> bool:
    if denying.is_resource_negated or denying.resources is None:
        return False
    if "*" in denying.resources:
        return True
    if allowing is None or allowing.is_resource_negated or not allowing.resources:
        return False
    return all(
        pattern in denying.resources
        or (not re.search(r"[*?]", pattern) and any(like(pattern, d) for d in denying.resources))
        for pattern in allowing.resources
    )


def _names(denying: Statement, allowing: Statement | None) -> bool:
    return denying.is_for_everyone or bool(allowing and _names_all_of(denying, allowing))


def _names_all_of(denying: Statement, allowing: Statement) -> bool:
    if denying.is_principal_negated or allowing.is_principal_negated:
        return False
    denied, allowed = denying.principals or (), allowing.principals or ()
    accounts = {_account(p) for p in denied if principal_kind(p) is Kind.ACCOUNT}
    return bool(allowed) and all(p in denied or _account(p) in accounts for p in allowed)


def _account(pattern: str) -> str:
    return "".join(pattern.split(":")[4:5]) or pattern


def denies_without_document(
    policy: Policy, action: Action, allowing: Statement | None = None
) -> bool:
    """Return whether an action is denied without a document, to everyone or to those named."""
    callers = _callers(allowing)
    return any(
        not guard.allows
        and all(_applies_always(guard, action, caller) for caller in callers)
        and _guards(guard, allowing)
        for guard in policy.statements
    )


def _callers(statement: Statement | None) -> tuple[str | None, ...]:
    """Return the ARNs of those whom a statement names; None stands for one that is not known."""
    names = statement.principals if statement else None
    if statement is None or not names or statement.is_principal_negated:
        return (None,)
    is_one = [principal_kind(name) is Kind.IDENTITY for name in names]
    return names if all(is_one) else (None,)


def met_by_callers(condition: Condition, action: Action, allowing: Statement) -> bool:
    """Return whether all whom a statement names meet a condition, whatever their document."""
    return all(
        check(condition, Request(action, principal=caller, document=Document.UNKNOWN)).is_met
        for caller in _callers(allowing)
    )


# Each statement is asked for each: without this a policy within KMS's quota takes minutes.
_remembered = functools.lru_cache(maxsize=1 << 14)


@_remembered
def _applies_always(guard: Statement, action: Action, caller: str | None) -> bool:
    """Return whether every request of a caller's without a document meets a Deny's conditions."""
    if not guard.covers(action):
        return False
    found = step(guard, Request(action, principal=caller, document=Document.NONE))
    return all(c.is_met for c in found.checks)


def is_denied_to_all(policy: Policy, action: Action) -> bool:
    """Return whether an action is denied to everyone, with any document or none."""
    return any(
        not guard.allows and guard.is_for_everyone and applies_with_any(guard, action)
        for guard in policy.statements
    )


@_remembered
def applies_with_any(guard: Statement, action: Action) -> bool:
    """Return whether a Deny applies to every request of those it names, whatever its document."""
    request = Request(action, document=Document.UNKNOWN)
    return guard.covers(action) and step(guard, request).applies is True


def may(statement: Statement, action: Action) -> bool:
    """Return whether a statement allows an action in some request."""
    return (
        statement.allows
        and statement.covers(action)
        and names_anybody(statement)
        and not never_applies(statement, action)
    )


def who(statement: Statement) -> str:
    """Return whom a statement is about, in words."""
    if statement.principals is None:
        return "the holder of this policy"
    if statement.is_principal_negated:
        return "everyone but those it names"
    if "*" in statement.principals:
        return "anyone" if is_open(statement) else "any caller that meets the conditions"
    if any(principal_kind(name) is Kind.ACCOUNT for name in statement.principals):
        return "any principal that an IAM policy of the account allows"
    return ", ".join(statement.principals)


def is_open(statement: Statement) -> bool:
    """Return whether a statement names everyone of every account."""
    if not statement.allows or "*" not in (statement.principals or ()):
        return False
    return not any(_is_of_few(condition) for condition in statement.conditions)


def _is_of_few(condition: Condition) -> bool:
    """Return whether a condition leaves out callers of most accounts."""
    if condition.is_negated or condition.if_exists or condition.quantifier == "ForAllValues":
        return False
    if condition.operator == "Null" or not _CALLER_KEYS.fullmatch(condition.key.lower()):
        return False
    # Any of the values suffices.
    return all(_is_one(condition.operator, value) for value in condition.values)


def _is_one(operator: str, value: str) -> bool:
    if operator == "IpAddress":
        return not re.search(r"/0+$", value)
    has_wildcard = operator.endswith("Like") or operator.startswith("Arn")
    if not has_wildcard or not re.search(r"[*?]|\$\{", value):
        return True
    return _OF_ONE.fullmatch(value) is not None
