"""What a policy makes of a request, where not all of the request may be known. No I/O.

All of ``key-policy`` stands on this one evaluation. Its answers are yes, no, and None for "not
known": a None becomes a yes or a no only if every value that the request may have gives the same.

Sources: IAM User Guide, "Policy evaluation logic" and "Condition operators"; KMS Developer Guide,
"Key policies in AWS KMS".
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from parent.policy.actions import SERVICE_KEYS, VIA_SERVICE, Action, like, means_attestation
from parent.policy.measured import Measured
from parent.policy.principals import Named, named_as

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from parent.policy.language import Condition, Policy, Statement

Truth = bool | None
"""None: not known."""


class Document(enum.Enum):
    """What is known of the request's attestation document, if not its measurements."""

    NONE = "none"
    """The request has none."""
    UNKNOWN = "unknown"
    """Nothing is known: it may have none, or any."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to KMS, as far as it is known.

    Attributes:
        action: what is asked for.
        principal: ARN of the caller; None: unknown.
        key: ARN of the key; None: unknown.
        document: the measurements in the attestation document.
        context: values of further condition keys, by name in lower case.
    """

    action: Action
    principal: str | None = None
    key: str | None = None
    document: Measured | Document = Document.NONE
    context: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_enclaves_own(self) -> bool:
        """Whether an enclave, and no other AWS service for it, asks: it sends its document."""
        return isinstance(self.document, Measured) and self.action.takes_recipient

    def value(self, key: str) -> tuple[str, ...] | None:
        """Return the values of a condition key: none if the key is absent, None if not known."""
        name = key.lower()
        if self.action.knows(name) is False:
            return ()
        if name in self.context:
            return self.context[name]
        if means_attestation(name):
            if isinstance(self.document, Measured):
                return self.document.value(name)
            return () if self.document is Document.NONE else None
        if self.is_enclaves_own and name in SERVICE_KEYS:
            return ()
        if self.is_enclaves_own and name == VIA_SERVICE:
            return ("false",)
        if self.principal:
            parts = self.principal.split(":")
            if name in ("aws:principalaccount", "kms:calleraccount") and len(parts) > 4:
                return (parts[4],)
            if name == "aws:principalarn" and parts[2:3] == ["iam"]:
                return (self.principal,)
        return None


class Outcome(enum.Enum):
    """What a policy makes of a request."""

    ALLOWED = "allowed by this policy"
    DENIED = "denied by this policy"
    NOT_ALLOWED = "not allowed by any statement of this policy"
    DELEGATED = "left to the account's IAM policies"
    NOT_GOVERNED = "governed by IAM policies: no key policy counts for it"
    UNKNOWN = "cannot be told from what is given"


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of a statement, for one request.

    Attributes:
        condition: which.
        actual: the values in the request; none if the key is absent; None if not known.
        is_met: None if not known.
    """

    condition: Condition
    actual: tuple[str, ...] | None
    is_met: Truth


@dataclass(frozen=True, slots=True)
class Step:
    """One statement about the request's action.

    Attributes:
        statement: which.
        named: how it names the caller.
        is_resource: whether it is about the key; None if not known.
        checks: its conditions.
        applies: None if not known.
    """

    statement: Statement
    named: Named
    is_resource: Truth
    checks: tuple[Check, ...]
    applies: Truth


def steps(policy: Policy, request: Request) -> tuple[Step, ...]:
    """Return what each statement about the action makes of the request."""
    return tuple(
        step(statement, request)
        for statement in policy.statements
        if statement.covers(request.action)
    )


def outcome(policy: Policy, request: Request) -> Outcome:
    """Return what a policy makes of a request."""
    return combine(policy, request, steps(policy, request))


def combine(policy: Policy, request: Request, found: Iterable[Step]) -> Outcome:
    """Return what the statements together make of a request.

    IAM User Guide, "Policy evaluation logic": a Deny beats an Allow, an Allow beats nothing.
    """
    if policy.is_of_key and not request.action.is_on_key:
        return Outcome.NOT_GOVERNED
    found = tuple(found)
    denies = [s.applies for s in found if not s.statement.allows]
    allows = [s.applies for s in found if s.statement.allows]
    directly = any(s.applies for s in found if s.statement.allows and s.named is not Named.ACCOUNT)
    if True in denies:
        return Outcome.DENIED
    if not any(applies is not False for applies in allows):
        return Outcome.NOT_ALLOWED
    if None in denies or (None in allows and not directly):
        return Outcome.UNKNOWN
    if policy.is_of_key:
        if not directly or request.action.is_on_alias or _is_foreign(request):
            return Outcome.DELEGATED
        return Outcome.UNKNOWN if _depends_on_caller(request, found) else Outcome.ALLOWED
    # An IAM policy alone does not give access to a key: the key's own policy must allow it too.
    return Outcome.UNKNOWN if request.action.is_on_key else Outcome.ALLOWED


def _depends_on_caller(request: Request, found: tuple[Step, ...]) -> bool:
    """Return whether an unknown caller may be one whom only statements that fail name."""
    if request.principal is not None:
        return False
    named = {True: set[str](), False: set[str]()}
    for each in found:
        if each.statement.allows:
            named[each.applies is True].update(each.statement.principals or ())
    return "*" not in named[True] and not named[False] <= named[True]


def _is_foreign(request: Request) -> bool:
    """Return whether the caller is of another account than the key: its own must allow, too."""
    accounts = [(arn or "").split(":")[4:5] for arn in (request.key, request.principal)]
    return all(accounts) and accounts[0] != accounts[1]


def step(statement: Statement, request: Request) -> Step:
    """Return what a statement makes of a request, given that it is about the action."""
    named = named_as(statement, request.principal)
    is_resource = _is_resource(statement, request)
    checks = tuple(check(condition, request) for condition in statement.conditions)
    parts: list[Truth] = [
        {Named.NO: False, Named.UNKNOWN: None}.get(named, True),
        is_resource,
        *(c.is_met for c in checks),
    ]
    applies = all_of(parts)
    if not statement.allows and applies is not True:
        # What KMS does not know makes it refuse the policy: nothing can be said of a Deny with it.
        doubtful = [c for c in statement.conditions if not c.is_known or not c.values]
        others = all_of([*parts[:2], *(c.is_met for c in checks if c.condition not in doubtful)])
        if doubtful and others is not False:
            applies = None
    return Step(statement, named, is_resource, checks, applies)


def _is_resource(statement: Statement, request: Request) -> Truth:
    """Return whether a statement is about the key; without the element it is about none.

    KMS Developer Guide, "Key policies in AWS KMS": a statement without Resource has no effect.
    """
    if statement.resources is None:
        return False
    actual = request.key if request.action.is_on_key else "*"
    found: list[Truth] = []
    for pattern in statement.resources:
        if pattern == "*":
            found.append(True)
        elif actual is None:
            is_alias = re.fullmatch(r"[^*?]*:alias/.*", pattern)
            found.append(False if is_alias or not pattern else None)
        else:
            found.append(like(actual, pattern))
    matches = any_of(found)
    return not_(matches) if statement.is_resource_negated else matches


def check(condition: Condition, request: Request) -> Check:
    """Return whether a request meets a condition."""
    values = request.value(condition.key)
    return Check(condition, values, _is_met(condition, values))


def _is_met(condition: Condition, values: tuple[str, ...] | None) -> Truth:
    if not condition.is_known:
        return False
    if condition.operator == "Null":
        wanted = {value.lower() for value in condition.values} & {"true", "false"}
        if values is None:
            return True if len(wanted) == 2 else None if wanted else False
        return str(not values).lower() in wanted
    # ForAnyValue is not met by an absent key, IfExists is; AWS documents neither's precedence.
    absent: Truth = (
        None
        if condition.if_exists and condition.quantifier == "ForAnyValue"
        else condition.if_exists
        or condition.quantifier == "ForAllValues"
        or (condition.is_negated and condition.quantifier != "ForAnyValue")
    )
    if values == ():
        return absent
    if not condition.values:
        # Nothing matches no value; whether that meets a negated operator is not documented.
        return False if absent is False else None
    if values is None:
        return None
    compare = _COMPARISONS.get(condition.operator)
    every = all_of if condition.quantifier == "ForAllValues" else any_of
    results = []
    for value in values:
        matches = any_of(
            compare(value, expected) if compare else None for expected in condition.values
        )
        results.append(not_(matches) if condition.is_negated else matches)
    return every(results)


def all_of(parts: Iterable[Truth]) -> Truth:
    """Return the conjunction."""
    found = set(parts)
    return False if False in found else None if None in found else True


def any_of(parts: Iterable[Truth]) -> Truth:
    """Return the disjunction."""
    found = set(parts)
    return True if True in found else None if None in found else False


def not_(part: Truth) -> Truth:
    """Return the negation."""
    return None if part is None else not part


def _equal(value: str, expected: str) -> Truth:
    return None if "${" in expected else value == expected


def _equal_ignoring_case(value: str, expected: str) -> Truth:
    return None if "${" in expected else value.lower() == expected.lower()


def _like(value: str, expected: str) -> Truth:
    return None if "${" in expected else like(value, expected)


def _arn_like(value: str, expected: str) -> Truth:
    """Compare part by part: a wildcard ends at a colon."""
    if "${" in expected:
        return None
    actual, patterns = value.split(":", 5), expected.split(":", 5)
    if len(actual) != 6 or len(patterns) != 6:
        return False
    return all(map(like, actual, patterns))


_COMPARISONS: dict[str, Callable[[str, str], Truth]] = {
    # The others compare numbers, dates, bytes and networks: not evaluated here.
    "StringEquals": _equal,
    "StringNotEquals": _equal,
    "StringEqualsIgnoreCase": _equal_ignoring_case,
    "StringNotEqualsIgnoreCase": _equal_ignoring_case,
    "StringLike": _like,
    "StringNotLike": _like,
    "ArnEquals": _arn_like,
    "ArnNotEquals": _arn_like,
    "ArnLike": _arn_like,
    "ArnNotLike": _arn_like,
    "Bool": _equal_ignoring_case,
}
