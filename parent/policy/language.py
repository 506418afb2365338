"""IAM's policy language, as far as the policies of keys for enclaves speak it. Pure.

Sources: IAM User Guide, "IAM JSON policy elements reference" and "Condition operators"; KMS
Developer Guide, "Condition keys for Nitro Enclaves" (conditions-nitro-enclave.html).
"""

from __future__ import annotations

import fnmatch
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vsock_proxy.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_POLICY = 32 * 1024
"""Bytes in a key policy, as KMS has it (PutKeyPolicy)."""

PREFIX = "kms:RecipientAttestation:"
"""What condition keys about the attestation document start with."""

IMAGE_KEY = f"{PREFIX}ImageSha384"
"""Is PCR0 under another name."""


class PolicyError(AgentError):
    """What was given is no policy, no measurement, or not enough to write a policy of."""


def pcr_key(index: int) -> str:
    """Return the condition key of a PCR."""
    return f"{PREFIX}PCR{index}"


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator applied to one condition key.

    Attributes:
        operator: without prefix and suffix, for example ``StringEquals``.
        quantifier: ``ForAnyValue``, ``ForAllValues`` or empty.
        if_exists: an absent key is as good as a match.
        key: as written; case makes no difference.
        values: any of which will do.
    """

    operator: str
    quantifier: str
    if_exists: bool
    key: str
    values: tuple[str, ...]

    @property
    def is_attestation(self) -> bool:
        """Whether it is about the attestation document."""
        return self.key.lower().startswith(PREFIX.lower())

    @property
    def is_negated(self) -> bool:
        """Whether a value that matches is what is not wanted, as in ``StringNotEquals``."""
        return self.operator in OPERATORS and OPERATORS[self.operator][1]

    def __str__(self) -> str:
        quantifier = f"{self.quantifier}:" if self.quantifier else ""
        return f"{quantifier}{self.operator}{'IfExists' if self.if_exists else ''} {self.key}"

    def holds(self, context: Mapping[str, str]) -> bool | None:
        """Return whether it is met; None where that cannot be told.

        Args:
            context: values of condition keys about the attestation document, by name in lower
                case. Of other keys nothing is known.
        """
        if not self.is_attestation:
            return None
        actual = context.get(self.key.lower())
        if self.operator == "Null":
            return str(actual is None).lower() in self.values
        if self.operator not in OPERATORS:
            return None
        matches, is_negated = OPERATORS[self.operator]
        if actual is None:
            is_empty_set = self.quantifier == "ForAllValues"
            return self.if_exists or is_empty_set or (is_negated and not self.quantifier)
        return any(matches(actual, value) for value in self.values) != is_negated


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a policy. Its Resource is not looked at: a key policy is about its key.

    Attributes:
        name: its Sid, or which one it is.
        allows: or else it denies.
        principals: patterns; None in a policy of IAM's, which is attached to whom it means.
        actions: patterns.
        is_action_negated: it is about all other actions (``NotAction``).
        conditions: all of which must be met.
    """

    name: str
    allows: bool
    principals: tuple[str, ...] | None
    actions: tuple[str, ...]
    is_action_negated: bool
    conditions: tuple[Condition, ...] = field(repr=False)

    def covers(self, action: str) -> bool:
        """Return whether it is about an action, for example ``kms:Decrypt``."""
        named = any(like(action.lower(), pattern.lower()) for pattern in self.actions)
        return named != self.is_action_negated

    def names(self, principal: str) -> bool:
        """Return whether it is about a caller: by name, by the role it assumed, or its account."""
        return self.principals is None or any(
            _is_named(pattern, principal) for pattern in self.principals
        )


def like(value: str, pattern: str) -> bool:
    """Match as ``StringLike`` does: ``*`` and ``?`` are wildcards, brackets are themselves."""
    return fnmatch.fnmatchcase(value, pattern.replace("[", "[[]"))


def _equal(value: str, expected: str) -> bool:
    return value == expected


def _equal_ignoring_case(value: str, expected: str) -> bool:
    return value.lower() == expected.lower()


OPERATORS: dict[str, tuple[Callable[[str, str], bool], bool]] = {
    # how a value is compared, and whether a match is what is not wanted
    "StringEquals": (_equal, False),
    "StringNotEquals": (_equal, True),
    "StringEqualsIgnoreCase": (_equal_ignoring_case, False),
    "StringNotEqualsIgnoreCase": (_equal_ignoring_case, True),
    "StringLike": (like, False),
    "StringNotLike": (like, True),
}


def _is_named(pattern: str, principal: str) -> bool:
    if pattern in ("*", principal):
        return True
    session = re.fullmatch(r"arn:([^:]+):sts::(\d+):assumed-role/([^/]+)/.+", principal)
    role = re.fullmatch(r"arn:([^:]+):iam::(\d+):role/(?:.+/)?([^/]+)", pattern)
    if session and role:
        return session.groups() == role.groups()
    account = re.fullmatch(r"(?:arn:[^:]+:iam::)?(\d{12})(?::root)?", pattern)
    return account is not None and principal.split(":")[4:5] == [account[1]]


def parse(text: str | bytes) -> tuple[Statement, ...]:
    """Read a policy.

    Args:
        text: JSON: the policy, or what ``aws kms get-key-policy`` prints.

    Raises:
        PolicyError: it is none.
    """
    if len(text) > MAX_POLICY * 2:
        raise PolicyError(f"a policy of more than {MAX_POLICY} bytes")
    document = _json(text)
    if isinstance(document, dict) and isinstance(document.get("Policy"), str):
        document = _json(document["Policy"])
    statements = document.get("Statement") if isinstance(document, dict) else None
    if isinstance(statements, dict):
        statements = [statements]
    if not isinstance(statements, list) or not statements:
        raise PolicyError("the policy has no Statement")
    return tuple(_statement(item, f"statement {n}") for n, item in enumerate(statements, start=1))


def _json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise PolicyError("the policy is not JSON") from None


def _statement(document: Any, position: str) -> Statement:
    if not isinstance(document, dict) or document.get("Effect") not in ("Allow", "Deny"):
        raise PolicyError(f"{position} has no Effect that is Allow or Deny")
    name = document.get("Sid", position)
    name = name if isinstance(name, str) and name.isprintable() and name else position
    is_negated = "NotAction" in document
    actions = document.get("NotAction" if is_negated else "Action")
    if actions is None:
        raise PolicyError(f"{name} has no Action")
    principals: tuple[str, ...] | None = None
    if "NotPrincipal" in document:
        principals = ("*",)  # Everybody but a few: for what is asked here, everybody.
    elif "Principal" in document:
        principals = _principals(document["Principal"], name)
    return Statement(
        name,
        document["Effect"] == "Allow",
        principals,
        _strings(actions, name),
        is_negated,
        tuple(_conditions(document.get("Condition", {}), name)),
    )


def _principals(document: Any, name: str) -> tuple[str, ...]:
    by_kind = {"AWS": document} if isinstance(document, str) else document
    if not isinstance(by_kind, dict):
        raise PolicyError(f"{name} has a Principal that is neither * nor an object")
    return tuple(value for values in by_kind.values() for value in _strings(values, name))


def _conditions(document: Any, name: str) -> list[Condition]:
    if not isinstance(document, dict):
        raise PolicyError(f"{name} has a Condition that is not an object")
    conditions = []
    for operator, keys in document.items():
        if not isinstance(keys, dict) or not all(map(str.isprintable, [operator, *keys])):
            raise PolicyError(f"{name} has a Condition that is not operators with keys")
        quantifier, _, rest = operator.rpartition(":")
        plain = rest.removesuffix("IfExists")
        conditions += [
            Condition(plain, quantifier, plain != rest, key, _strings(values, name))
            for key, values in keys.items()
        ]
    return conditions


def _strings(value: Any, name: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    # IAM takes unquoted booleans where it takes "true" and "false".
    values = [str(item).lower() if isinstance(item, bool) else item for item in values]
    # Findings quote what stands here, and a terminal obeys what is not printable.
    if not all(isinstance(item, str) and item.isprintable() for item in values):
        raise PolicyError(f"{name} has a value that is not printable text")
    return tuple(values)
