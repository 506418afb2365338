"""Principals of statements: what they are, and whether they name a caller. No I/O.

Sources: IAM User Guide, "AWS JSON policy elements: Principal" and "NotPrincipal".
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING

from parent.policy.actions import like

if TYPE_CHECKING:
    from parent.policy.language import Statement


class Named(enum.Enum):
    """How a statement names a caller."""

    NO = enum.auto()
    YES = enum.auto()
    ACCOUNT = enum.auto()
    """By the account: whether the caller may is left to the account's IAM policies."""
    UNKNOWN = enum.auto()


def named_as(statement: Statement, principal: str | None) -> Named:
    """Return how a statement names a caller; of one who is unknown, those it names."""
    if statement.principals is None:
        return Named.YES
    if principal is None:
        return _unknown_caller(statement)
    found = {_names(pattern, principal) for pattern in statement.principals}
    if not statement.allows and any(
        principal_kind(p) is Kind.WILDCARD and like(principal, p) for p in statement.principals
    ):
        found.add(Named.UNKNOWN)  # KMS does not take such a policy: nothing can be said of it.
    if statement.is_principal_negated:
        # A session is not its role: NotPrincipal must list both (IAM User Guide).
        return Named.YES if found <= {Named.NO} else Named.UNKNOWN
    for named in (Named.YES, Named.UNKNOWN, Named.ACCOUNT):
        if named in found:
            return named
    return Named.NO


def _unknown_caller(statement: Statement) -> Named:
    patterns = statement.principals or ()
    if statement.is_for_everyone:
        return Named.YES
    if not statement.allows or statement.is_principal_negated:
        return Named.UNKNOWN
    kinds = {principal_kind(pattern) for pattern in patterns} & {Kind.ACCOUNT, Kind.IDENTITY}
    if not kinds:
        return Named.NO
    return Named.ACCOUNT if kinds == {Kind.ACCOUNT} else Named.YES


class Kind(enum.Enum):
    """What a pattern in the element Principal is."""

    EVERYONE = enum.auto()
    ACCOUNT = enum.auto()
    IDENTITY = enum.auto()
    DELETED = enum.auto()
    """The unique ID that IAM puts in place of the ARN of a deleted identity."""
    WILDCARD = enum.auto()
    """An ARN with a wildcard, which KMS does not take."""
    INVALID = enum.auto()


_IDENTITY = re.compile(
    r"arn:aws[a-z-]*:(?:iam::\d{12}:(?:role|user)/[\w+=,.@/-]+"
    r"|sts::\d{12}:(?:assumed-role|federated-user)/[\w+=,.@/-]+)"
)
_SERVICE = re.compile(r"[a-z0-9.-]+\.amazonaws\.com(?:\.cn)?")
_UNIQUE_ID = re.compile(r"A[A-Z]{3}[A-Z0-9]{12,}")


def principal_kind(pattern: str) -> Kind:
    """Return what a pattern in the element Principal is."""
    if pattern == "*":
        return Kind.EVERYONE
    if re.fullmatch(r"\d{12}|arn:aws[a-z-]*:iam::\d{12}:root", pattern):
        return Kind.ACCOUNT
    if _IDENTITY.fullmatch(pattern):
        return Kind.IDENTITY
    if _UNIQUE_ID.fullmatch(pattern):
        return Kind.DELETED
    return Kind.WILDCARD if re.search(r"[*?]", pattern) else Kind.INVALID


def is_caller(name: str) -> bool:
    """Return whether a request can have this caller: an identity, an account's root, a service."""
    if name.endswith(":root") and principal_kind(name) is Kind.ACCOUNT:
        return True
    return bool(_IDENTITY.fullmatch(name) or _SERVICE.fullmatch(name))


def _names(pattern: str, principal: str) -> Named:
    kind = principal_kind(pattern)
    if kind is Kind.EVERYONE or pattern == principal:
        return Named.YES
    if kind is Kind.ACCOUNT:
        account = pattern if pattern.isdigit() else pattern.split(":")[4]
        return Named.ACCOUNT if principal.split(":")[4:5] == [account] else Named.NO
    session = re.fullmatch(r"arn:([^:]+):sts::(\d+):assumed-role/([^/]+)/.+", principal)
    role = re.fullmatch(r"arn:([^:]+):iam::(\d+):role/(?:.+/)?([^/]+)", pattern)
    if kind is Kind.IDENTITY and session and role:
        # A session's ARN lacks the role's path; role names are unique within an account.
        return Named.YES if session.groups() == role.groups() else Named.NO
    return Named.NO
