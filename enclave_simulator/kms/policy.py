"""IAM's policy language, as far as key policies and callers' policies need it. No I/O.

Sources: IAM User Guide, "IAM JSON policy elements reference" and "Policy evaluation logic";
KMS Developer Guide, "Condition keys for attested platforms". As in IAM, a condition key that the
simulator does not know is absent from the request; an unknown operator is rejected.
"""

from __future__ import annotations

import enum
import functools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.operators import OPERATORS, like
from enclave_simulator.kms.variables import expand
from vsock_proxy.service.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Access:
    """One access that a policy allows or denies.

    Attributes:
        principal: the caller's ARN.
        action: for example ``kms:Decrypt``.
        resource: the key's ARN; ``*`` if no key is involved.
        context: values of the condition keys, whose names are in lower case.
        named: KMS's message names the resource; it does not for a key that is yet to be created.
    """

    principal: str
    action: str
    resource: str
    context: Mapping[str, tuple[str, ...]]
    named: bool = True


class Verdict(enum.IntEnum):
    """The result of a policy or a statement. Of several statements, the greatest holds."""

    SILENT = 0
    DELEGATED = 1
    """A key policy that allows the account: IAM policies decide."""
    ALLOWED = 2
    DENIED = 3


@dataclass(frozen=True, slots=True)
class Denial:
    """Why an access is denied.

    Attributes:
        text: KMS's message.
        explicit: a Deny statement applies, so that no grant can allow it.
        by_key: the key policy is the reason, not the caller's.
    """

    text: str
    explicit: bool
    by_key: bool


def refusal(access: Access, key_policy: Policy | None, caller_policy: Policy | None) -> str | None:
    """Return KMS's text if access is denied, or None; see `decide`."""
    denial = decide(access, key_policy, caller_policy)
    return None if denial is None else denial.text


def decide(
    access: Access, key_policy: Policy | None, caller_policy: Policy | None
) -> Denial | None:
    """Return why an access is denied, or None.

    Args:
        access: the access.
        key_policy: None if no key is involved: the caller's policy alone decides.
        caller_policy: the caller's IAM policy; None allows everything.
    """
    by_key = key_policy.verdict(access) if key_policy else Verdict.DELEGATED
    by_caller = caller_policy.verdict(access) if caller_policy else Verdict.ALLOWED
    if by_key is Verdict.DENIED:
        reason = "with an explicit deny in a resource-based policy"
    elif by_caller is Verdict.DENIED:
        reason = "with an explicit deny in an identity-based policy"
    elif by_key is Verdict.SILENT:
        reason = f"because no resource-based policy allows the {access.action} action"
    elif by_key is Verdict.DELEGATED and by_caller is not Verdict.ALLOWED:
        reason = f"because no identity-based policy allows the {access.action} action"
    else:
        return None
    resource = f"on resource: {access.resource} " if access.named else ""
    return Denial(
        f"User: {access.principal} is not authorized to perform: {access.action} "
        f"{resource}{reason}",
        explicit=Verdict.DENIED in (by_key, by_caller),
        by_key=by_key in (Verdict.DENIED, Verdict.SILENT),
    )


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed policy.

    Attributes:
        text: as given.
        statements: in its order.
    """

    text: str
    statements: tuple[Statement, ...]

    def verdict(self, access: Access) -> Verdict:
        """Return the policy's result for an access."""
        return max(statement.verdict(access) for statement in self.statements)


@dataclass(frozen=True, slots=True)
class Choice:
    """Action or NotAction, Resource or NotResource; without patterns it applies to nothing."""

    patterns: tuple[str, ...]
    negated: bool

    def applies(self, matches: Callable[[str], bool]) -> bool:
        """Return whether it applies, given whether a single pattern matches."""
        return bool(self.patterns) and any(map(matches, self.patterns)) != self.negated


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement.

    Attributes:
        allows: its Effect is Allow.
        principals: None in a caller's policy.
        actions: Action or NotAction.
        resources: Resource or NotResource.
        conditions: all of which must hold.
        sid: its Sid; empty for none.
        has_variables: Resource may name variables.
    """

    allows: bool
    principals: tuple[str, ...] | None
    actions: Choice
    resources: Choice
    conditions: tuple[Condition, ...]
    sid: str = ""
    has_variables: bool = False

    def verdict(self, access: Access) -> Verdict:
        """Return the statement's result for an access; SILENT if it does not apply."""
        applies = (
            self.is_about(access.action)
            and self.resources.applies(lambda p: self._is_resource(p, access))
            and all(condition.holds(access.context) for condition in self.conditions)
        )
        if not applies:
            return Verdict.SILENT
        of_caller = self.names(access.principal)
        return Verdict.DENIED if of_caller and not self.allows else of_caller

    def _is_resource(self, pattern: str, access: Access) -> bool:
        expanded = expand(pattern, access.context) if self.has_variables else pattern
        return expanded is not None and like(access.resource, expanded)

    def is_about(self, action: str) -> bool:
        """Return whether the statement is about an action."""
        return self.actions.applies(lambda p: like(action.lower(), p.lower()))

    def names(self, principal: str) -> Verdict:
        """Return whether the statement names a principal (ALLOWED), its account (DELEGATED)."""
        if self.principals is None:
            return Verdict.ALLOWED
        return max(
            (named(pattern, principal) for pattern in self.principals), default=Verdict.SILENT
        )


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator applied to one condition key.

    Attributes:
        operator: without prefix and suffix, for example ``StringEquals``.
        quantifier: ``ForAnyValue``, ``ForAllValues`` or empty.
        if_exists: it holds if the key is absent.
        key: in lower case: IAM ignores the case of keys.
        expected: the values, one of which must match.
        written: operator and key as the policy has them.
        has_variables: the values may name variables, as ``${aws:username}``.
    """

    operator: str
    quantifier: str
    if_exists: bool
    key: str
    expected: tuple[str, ...]
    written: str = ""
    has_variables: bool = False

    def holds(self, context: Mapping[str, tuple[str, ...]]) -> bool:
        """Return whether the condition holds."""
        values = context.get(self.key)
        if self.operator == "Null":
            return str(values is None).lower() in map(str.lower, self.expected)
        matches, negated = OPERATORS[self.operator]
        if values is None:
            absent_matches = negated and self.quantifier != "ForAnyValue"
            return self.if_exists or absent_matches or self.quantifier == "ForAllValues"
        wanted = self.expected
        if self.has_variables:
            # One without a value matches nothing.
            expanded = [expand(each, context) for each in wanted]
            wanted = tuple(each for each in expanded if each is not None)
        every = all if self.quantifier == "ForAllValues" else any
        return every(
            any(matches(value, expected) for expected in wanted) != negated for value in values
        )


def named(pattern: str, principal: str) -> Verdict:
    """Return whether a policy's principal is the caller or its role (ALLOWED).

    If it is the caller's account, the result is DELEGATED.
    """
    if pattern in ("*", principal):
        return Verdict.ALLOWED
    role = re.fullmatch(r"arn:([^:]+):sts::(\d+):assumed-role/([^/]+)/.+", principal)
    wanted = re.fullmatch(r"arn:([^:]+):iam::(\d+):role/(?:.+/)?([^/]+)", pattern)
    if role and wanted and role.groups() == wanted.groups():
        return Verdict.ALLOWED
    _, partition, _, _, account, _ = principal.split(":", 5)
    if pattern in (account, f"arn:{partition}:iam::{account}:root"):
        return Verdict.DELEGATED
    return Verdict.SILENT


# Parsing

_PRINCIPAL = re.compile(
    r"\*|\d{12}|arn:aws[a-z-]*:(?:iam::\d{12}:(?:root|(?:role|user)/[\w+=,.@/-]+)"
    r"|sts::\d{12}:(?:assumed-role|federated-user)/[\w+=,.@/-]+)"
)
_ARN = re.compile(r"arn:aws[a-z-]*:(?:iam|sts)::\d{12}:.+")
MAX_SIZE = 32 * 1024
"""Bytes of a policy: the quota of key policies (PutKeyPolicy, Policy)."""

_VERSIONS = ("2012-10-17", "2008-10-17")
_ELEMENTS = {
    "Sid", "Effect", "Principal", "Action", "NotAction", "Resource", "NotResource", "Condition",
}  # fmt: skip


def parse_policy(text: str, *, of_key: bool = True) -> Policy:
    """Parse a policy.

    Args:
        text: JSON.
        of_key: its statements name principals; those of a caller's policy do not.

    Raises:
        KmsError: MalformedPolicyDocumentException, InvalidArnException or
            LimitExceededException.
    """
    if of_key and len(text.encode()) > MAX_SIZE:
        raise KmsError("LimitExceededException", f"The policy has more than {MAX_SIZE} bytes.")
    try:
        document = parse_json(text, _decode)
    except ValueError:
        raise _malformed("it is not JSON, or an object has a name twice") from None
    if not isinstance(document, dict) or not document.keys() <= {"Version", "Id", "Statement"}:
        raise _malformed("it is not an object of Version, Id and Statement")
    if document.get("Version", _VERSIONS[1]) not in _VERSIONS:
        raise _malformed("there is no such Version")
    statements = document.get("Statement")
    if isinstance(statements, dict):
        statements = [statements]
    if not isinstance(statements, list) or not statements:
        raise _malformed("it has no Statement")
    # In the older language, variables are plain text.
    variables = document.get("Version") == _VERSIONS[0]
    return Policy(
        text, tuple(_statement(each, of_key=of_key, variables=variables) for each in statements)
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; KMS accepts no element twice, and readers differ in which counts."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name twice")
    return dict(pairs)


_decode = functools.partial(json.loads, object_pairs_hook=_unique)


def _statement(document: Any, *, of_key: bool, variables: bool) -> Statement:
    if not isinstance(document, dict) or not document.keys() <= _ELEMENTS:
        raise _malformed(f"a statement has other elements than {', '.join(sorted(_ELEMENTS))}")
    if document.get("Effect") not in ("Allow", "Deny"):
        raise _malformed("Effect is neither Allow nor Deny")
    if of_key != ("Principal" in document):
        raise _malformed("key policies name a Principal, policies of callers do not")
    return Statement(
        document["Effect"] == "Allow",
        _principals(document["Principal"]) if of_key else None,
        _choice(document, "Action", needed=not of_key),
        _choice(document, "Resource", needed=not of_key),
        tuple(_conditions(document.get("Condition", {}), variables=variables)),
        str(document.get("Sid", "")),
        variables,
    )


def _choice(document: dict[str, Any], element: str, *, needed: bool) -> Choice:
    opposite = f"Not{element}"
    if not needed and not {element, opposite} & document.keys():
        # KMS takes the statement, which has no effect (PutKeyPolicy, Policy).
        return Choice((), negated=False)
    if (element in document) == (opposite in document):
        raise _malformed(f"a statement has not exactly one of {element} and {opposite}")
    negated = opposite in document
    return Choice(_strings(document[opposite if negated else element]), negated)


def _principals(document: Any) -> tuple[str, ...]:
    by_type = {"AWS": document} if document == "*" else document
    if not isinstance(by_type, dict) or not by_type:
        raise _malformed("Principal is neither * nor an object")
    # Service, Federated and CanonicalUser never match: no such principal calls the simulator.
    by_kind = {kind: _strings(values) for kind, values in by_type.items()}
    if any(text.startswith("arn:") and not _ARN.fullmatch(text) for text in by_kind.get("AWS", ())):
        raise KmsError("InvalidArnException", "An ARN in the specified key policy is invalid.")
    if not all(map(_PRINCIPAL.fullmatch, by_kind.get("AWS", ()))):
        raise KmsError(
            "MalformedPolicyDocumentException",
            "Policy contains a statement with one or more invalid principals.",
        )
    return by_kind.get("AWS", ())


def _conditions(document: Any, *, variables: bool) -> list[Condition]:
    if not isinstance(document, dict) or not all(
        isinstance(keys, dict) for keys in document.values()
    ):
        raise _malformed("Condition is not an object of objects")
    conditions = []
    for name, keys in document.items():
        quantifier, _, operator = name.rpartition(":")
        plain = operator.removesuffix("IfExists")
        known = plain in OPERATORS or operator == "Null"
        if not known or quantifier not in ("", "ForAnyValue", "ForAllValues"):
            raise _malformed(f"the simulator knows no condition operator {name!r}")
        conditions += [
            Condition(
                plain,
                quantifier,
                operator != plain,
                key.lower(),
                _values(values),
                f"{name} {key}",
                variables and plain.startswith(("Arn", "String")),
            )
            for key, values in keys.items()
        ]
    return conditions


def _values(value: Any) -> tuple[str, ...]:
    """Return a condition's values; IAM accepts unquoted booleans and numbers.

    Source: IAM User Guide, "IAM JSON policy elements: Supported data types".
    """
    values = value if isinstance(value, list) else [value]
    return _strings([json.dumps(v) if isinstance(v, bool | int | float) else v for v in values])


def _strings(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(item, str) for item in values):
        raise _malformed("a value is not text, or there is none")
    return tuple(values)


def _malformed(reason: str) -> KmsError:
    return KmsError("MalformedPolicyDocumentException", f"The policy is not valid: {reason}.")
