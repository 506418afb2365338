"""IAM's policy language, as far as policies of keys for enclaves use it. No I/O.

Sources: IAM User Guide, "IAM JSON policy elements reference" and "Condition operators"; KMS
Developer Guide, "Key policies in AWS KMS".
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from parent.policy.actions import (
    ACTIONS,
    Action,
    PolicyError,
    like,
    matching,
    means_attestation,
)
from parent.policy.located_json import Place, decode
from parent.policy.wrappers import GET_POLICY, unwrap

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_POLICY = 32 * 1024
"""Bytes in a key policy (KMS's quota)."""

MAX_INPUT = 8 * MAX_POLICY
"""Bytes that are read: a response may hold the policy with its line ends and quotes escaped."""

MAX_STATEMENTS = 500
"""More do not fit in `MAX_POLICY`."""

OPERATORS = {
    # operator: whether it is met by a value that does not match
    "StringEquals": False, "StringNotEquals": True,
    "StringEqualsIgnoreCase": False, "StringNotEqualsIgnoreCase": True,
    "StringLike": False, "StringNotLike": True,
    "ArnEquals": False, "ArnNotEquals": True, "ArnLike": False, "ArnNotLike": True,
    "NumericEquals": False, "NumericNotEquals": True, "NumericLessThan": False,
    "NumericLessThanEquals": False, "NumericGreaterThan": False,
    "NumericGreaterThanEquals": False,
    "DateEquals": False, "DateNotEquals": True, "DateLessThan": False,
    "DateLessThanEquals": False, "DateGreaterThan": False, "DateGreaterThanEquals": False,
    "Bool": False, "BinaryEquals": False, "IpAddress": False, "NotIpAddress": True,
    "Null": False,
}  # fmt: skip

TEXT_OPERATORS = frozenset(name for name in OPERATORS if name.startswith("String"))


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator applied to one condition key.

    Attributes:
        operator: without prefix and suffix, for example ``StringEquals``.
        quantifier: ``ForAnyValue``, ``ForAllValues`` or empty.
        if_exists: an absent key meets the condition.
        key: as written; IAM ignores its case.
        values: any of them suffices.
    """

    operator: str
    quantifier: str
    if_exists: bool
    key: str
    values: tuple[str, ...]

    @property
    def is_attestation(self) -> bool:
        """Whether it means the attestation document, by a key that exists or by another."""
        return means_attestation(self.key)

    @property
    def is_known(self) -> bool:
        """Whether KMS has the operator; its case counts."""
        if self.operator == "Null" and (self.if_exists or self.quantifier):
            return False
        return self.operator in OPERATORS and self.quantifier in ("", "ForAnyValue", "ForAllValues")

    @property
    def is_negated(self) -> bool:
        """Whether a value that does not match meets it, as with ``StringNotEquals``."""
        return OPERATORS.get(self.operator, False)

    def __str__(self) -> str:
        quantifier = f"{self.quantifier}:" if self.quantifier else ""
        return f"{quantifier}{self.operator}{'IfExists' if self.if_exists else ''} {self.key}"

    def correction(self) -> str:
        """Return the operator that was probably meant, or an empty text."""
        by_case = {name.lower(): name for name in OPERATORS}
        close = difflib.get_close_matches(self.operator.lower(), by_case, n=1, cutoff=0.7)
        return by_case[close[0]] if close else ""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a policy.

    Attributes:
        name: its Sid, or its position.
        line: the line on which it begins.
        allows: otherwise it denies.
        principals: AWS principals; None in an identity-based policy, which has none.
        other_principals: services and so on, which do not call for an enclave.
        is_principal_negated: all but these (``NotPrincipal``).
        actions: patterns; none if the element is missing.
        is_action_negated: all but these (``NotAction``).
        resources: patterns; None if the element is missing.
        is_resource_negated: all but these (``NotResource``).
        conditions: all of them must be met.
    """

    name: str
    line: int
    allows: bool
    principals: tuple[str, ...] | None
    other_principals: tuple[str, ...]
    is_principal_negated: bool
    actions: tuple[str, ...]
    is_action_negated: bool
    resources: tuple[str, ...] | None
    is_resource_negated: bool
    conditions: tuple[Condition, ...] = field(repr=False)

    @property
    def effect(self) -> str:
        """The element's value."""
        return "Allow" if self.allows else "Deny"

    @property
    def is_for_everyone(self) -> bool:
        """Whether it names every principal; in an identity-based policy, its holder."""
        return self.principals is None or ("*" in self.principals and not self.is_principal_negated)

    def covers(self, action: Action) -> bool:
        """Return whether it is about an action."""
        named = any(like(action.name.lower(), pattern.lower()) for pattern in self.actions)
        return named != self.is_action_negated

    def covered(self) -> tuple[Action, ...]:
        """Return the actions that it is about."""
        return tuple(action for action in ACTIONS.values() if self.covers(action))

    def groups_of_actions(self) -> tuple[tuple[Action, ...], ...]:
        """Return what each of its patterns names; nothing for ``NotAction``."""
        return () if self.is_action_negated else tuple(matching(each) for each in self.actions)

    def named_actions(self) -> tuple[Action, ...]:
        """Return the actions that it names one by one, without a wildcard."""
        if self.is_action_negated:
            return ()
        plain = (pattern for pattern in self.actions if not re.search(r"[*?]", pattern))
        return tuple(action for pattern in plain for action in matching(pattern))


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy.

    Attributes:
        statements: in their order.
        is_of_key: a key policy; otherwise an identity-based policy of IAM.
        is_whole: whether it has all statements: a single statement may be given, too.
        size: bytes of its text.
        compact_size: bytes without white space.
    """

    statements: tuple[Statement, ...]
    is_of_key: bool
    is_whole: bool
    size: int
    compact_size: int


def parse(data: str | bytes, *, origin: str = "policy") -> Policy:
    """Read a policy.

    Args:
        data: JSON of a policy, of one statement or a list of them; or a response that holds the
            policy, such as that of ``aws kms get-key-policy``, or only its ``Policy`` as a string.
        origin: the file's name, for errors.

    Raises:
        PolicyError: it is not a policy.
    """
    if len(data) > MAX_INPUT:
        raise PolicyError(f"{origin}: more than {MAX_INPUT} bytes, which no key policy has")
    place = unwrap(decode(data, origin), origin)
    value = place.value
    is_whole = isinstance(value, dict) and "Statement" in value
    if is_whole:
        _check_elements(value, _POLICY_ELEMENTS, f"{origin}: the policy")
        if value.get("Version", _VERSIONS[0]) not in _VERSIONS:
            raise PolicyError(
                f"{origin}: the policy has a Version that IAM's language does not have",
                hint=f"write {_VERSIONS[0]}: it is the language's version, not the policy's date",
            )
        starts = dict(place.members())
        place = Place(place.text, starts["Statement"], value["Statement"])
    items = (
        list(place.elements()) if isinstance(place.value, list) else [(place.start, place.value)]
    )
    if not items:
        raise PolicyError(f"{origin}: the policy has no statement")
    if len(items) > MAX_STATEMENTS:
        raise PolicyError(f"{origin}: {len(items)} statements, which no key policy has room for")
    statements = tuple(
        _statement(item, number, place.line(index), origin)
        for number, (index, item) in enumerate(items, start=1)
    )
    has_principal = [statement.principals is not None for statement in statements]
    if any(has_principal) and not all(has_principal):
        odd = statements[has_principal.index(False)]
        raise PolicyError(
            f"{origin}:{odd.line}: {odd.name} has no Principal, and other statements have one",
            hint="each statement of a key policy names a Principal; IAM policies have none",
        )
    compact = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return Policy(
        statements,
        all(has_principal),
        is_whole,
        len(place.text.encode(errors="replace")),
        len(compact.encode(errors="replace")),
    )


_VERSIONS = "2012-10-17", "2008-10-17"
_POLICY_ELEMENTS = "Version", "Id", "Statement"
_ELEMENTS = (
    "Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource",
    "Condition",
)  # fmt: skip
"""Of a statement. KMS takes no policy with another; one that is misspelt would restrict nothing."""


def _statement(document: Any, number: int, line: int, origin: str) -> Statement:
    where = f"{origin}:{line}: statement {number}"
    if isinstance(document, dict) and any(name.startswith("Fn::") for name in document):
        raise PolicyError(f"{where} is a function of CloudFormation", hint=GET_POLICY)
    if isinstance(document, dict):
        _check_elements(document, _ELEMENTS, where)
    if not isinstance(document, dict) or document.get("Effect") not in ("Allow", "Deny"):
        raise PolicyError(f"{where} has no Effect that is Allow or Deny")
    sid = document.get("Sid")
    name = sid if isinstance(sid, str) and sid.isprintable() and sid else f"statement {number}"
    is_action_negated, actions = _either(document, "Action", where)
    if actions is None and not document.keys() & {"Principal", "NotPrincipal"}:
        raise PolicyError(f"{where} has no Action")
    is_resource_negated, resources = _either(document, "Resource", where)
    is_principal_negated = "NotPrincipal" in document
    if is_principal_negated and "Principal" in document:
        raise PolicyError(f"{where} has both Principal and NotPrincipal")
    principals: tuple[str, ...] | None = None
    others: tuple[str, ...] = ()
    if is_principal_negated or "Principal" in document:
        given = document["NotPrincipal" if is_principal_negated else "Principal"]
        principals, others = _principals(given, where)
    return Statement(
        name,
        line,
        document["Effect"] == "Allow",
        principals,
        others,
        is_principal_negated,
        # KMS takes a key policy's statement without it, which has no effect (PutKeyPolicy, Policy).
        actions or (),
        is_action_negated,
        resources,
        is_resource_negated,
        tuple(_conditions(document.get("Condition", {}), where)),
    )


def _check_elements(document: dict[str, Any], known: Sequence[str], where: str) -> None:
    for element in document:
        if element not in known:
            close = difflib.get_close_matches(element[:40].title(), known, n=1)
            raise PolicyError(
                f"{where} has an element {element!r:.80}, which KMS does not know",
                hint=f"write {close[0]}; the case counts" if close else "leave it out",
            )


def _either(
    document: dict[str, Any], element: str, where: str
) -> tuple[bool, tuple[str, ...] | None]:
    """Return whether the element is negated, and its patterns."""
    opposite = f"Not{element}"
    if element in document and opposite in document:
        raise PolicyError(f"{where} has both {element} and {opposite}")
    name = opposite if opposite in document else element
    return name == opposite, _strings(document[name], where) if name in document else None


def _principals(document: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return AWS principals, and others."""
    by_kind = {"AWS": document} if document == "*" else document
    if not isinstance(by_kind, dict):
        raise PolicyError(
            f"{where} has a Principal that is neither * nor an object",
            hint='for example {"AWS": "arn:aws:iam::111122223333:role/enclave"}',
        )
    named = {kind: _strings(values, where) for kind, values in by_kind.items()}
    others = tuple(v for kind, values in named.items() if kind != "AWS" for v in values)
    return named.get("AWS", ()), others


def _conditions(document: Any, where: str) -> list[Condition]:
    if not isinstance(document, dict):
        raise PolicyError(f"{where} has a Condition that is not an object")
    conditions = []
    for operator, keys in document.items():
        if not isinstance(keys, dict) or not all(map(str.isprintable, [operator, *keys])):
            raise PolicyError(f"{where} has a Condition that is not operators with keys")
        quantifier, _, rest = operator.rpartition(":")
        plain = rest.removesuffix("IfExists")
        conditions += [
            Condition(plain, quantifier, plain != rest, key, _strings(values, where))
            for key, values in keys.items()
        ]
    return conditions


def _strings(value: Any, where: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    # IAM takes unquoted booleans and numbers.
    values = [json.dumps(v) if isinstance(v, bool | int | float) else v for v in values]
    if any(isinstance(item, dict) for item in values):
        raise PolicyError(
            f"{where} has an object in place of text, such as a function of CloudFormation",
            hint=GET_POLICY,
        )
    # Findings quote what stands here, and a terminal obeys what is not printable.
    if not all(isinstance(item, str) and item.isprintable() for item in values):
        raise PolicyError(f"{where} has a value that is not printable text")
    return tuple(values)
