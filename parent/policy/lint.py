"""Mistakes in policies of keys for enclaves that others have made before. Pure.

Sources: those of `parent.policy.language` and `parent.policy.generate`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parent.policy.generate import GUARDED_ACTIONS
from parent.policy.language import IMAGE_KEY, OPERATORS, PREFIX, Condition, pcr_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from parent.policy.language import Statement

_KNOWN_KEYS = {IMAGE_KEY.lower(), *(pcr_key(index).lower() for index in range(32))}

_WHOLE_IMAGES = (
    {IMAGE_KEY.lower()},
    {pcr_key(0).lower()},
    {pcr_key(1).lower(), pcr_key(2).lower()},  # Either alone leaves kernel or program to choose.
    {pcr_key(8).lower()},  # Whatever the signer signs.
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake.

    Attributes:
        rule: its name.
        statement: where it is.
        message: what is wrong.
        is_error: secrets may leave, or the enclave is kept out; otherwise it is only doubtful.
    """

    rule: str
    statement: str
    message: str
    is_error: bool = True

    def __str__(self) -> str:
        return f"{'error' if self.is_error else 'warning'}: {self.statement}: {self.message}"


def lint(statements: Sequence[Statement]) -> list[Finding]:
    """Return the mistakes in a policy, of a key or of IAM's."""
    findings = [*_without_attestation(statements), *_grants(statements)]
    for statement in statements:
        for condition in statement.conditions:
            findings += _condition(statement, condition)
        findings += _contradiction(statement)
    if all(statement.principals is not None for statement in statements):
        findings += _nobody_administers(statements)
    return findings


def _without_attestation(statements: Sequence[Statement]) -> Iterator[Finding]:
    needs_document, needs_image = _guarded(statements)
    for statement in statements:
        demanding = [c for c in statement.conditions if _needs_document(c)]
        if not statement.allows or _pins_image(demanding):
            continue
        covered = [action for action in GUARDED_ACTIONS if statement.covers(action)]
        if not demanding:
            undocumented = [action for action in covered if action not in needs_document]
            if undocumented:
                yield Finding(
                    "unattested",
                    statement.name,
                    f"{_who(statement)} may do {', '.join(undocumented)} without an attestation "
                    "document",
                )
                continue
        # ReEncrypt cannot have a document, so what needs one is as good as denied.
        covered = [a for a in covered if a not in needs_image and a != "kms:ReEncryptFrom"]
        if covered:
            yield Finding(
                "any-image",
                statement.name,
                f"{_who(statement)} may do {', '.join(covered)} from an enclave of another image",
            )


def _guarded(statements: Sequence[Statement]) -> tuple[set[str], set[str]]:
    """Return what is denied to all without a document, and without the right image's."""
    needs_document: set[str] = set()
    needs_image: set[str] = set()
    for statement in statements:
        if _is_guard(statement):
            covered = {action for action in GUARDED_ACTIONS if statement.covers(action)}
            needs_document |= covered
            compares = all(condition.is_negated for condition in statement.conditions)
            if not statement.conditions or (compares and _pins_image(statement.conditions)):
                needs_image |= covered
    return needs_document, needs_image


def _is_guard(statement: Statement) -> bool:
    """Whether it denies everybody what has no document, or not the right one, or anything."""
    return (
        not statement.allows
        and statement.principals in (None, ("*",))
        and len(statement.conditions) <= 1
        and all(c.holds({}) is True and not c.if_exists for c in statement.conditions)
    )


def _needs_document(condition: Condition) -> bool:
    """Whether a request without a document never meets it."""
    return condition.key.lower() in _KNOWN_KEYS and condition.holds({}) is False


def _pins_image(conditions: Sequence[Condition]) -> bool:
    """Whether conditions compare all of an image: not only who runs it, or a part of it."""
    compared = {c.key.lower() for c in conditions if c.operator in OPERATORS}
    return any(whole <= compared for whole in _WHOLE_IMAGES)


def _who(statement: Statement) -> str:
    if statement.principals is None:
        return "who has this policy"
    if "*" in statement.principals:
        return "anybody"
    if any(name.endswith(":root") or name.isdigit() for name in statement.principals):
        return "whoever an IAM policy of the account lets"
    return ", ".join(statement.principals)


def _grants(statements: Sequence[Statement]) -> Iterator[Finding]:
    if any(map(_is_guard, statements)):
        return  # A grant does not get past a Deny.
    for statement in statements:
        if statement.allows and statement.covers("kms:CreateGrant") and not statement.conditions:
            yield Finding(
                "grant",
                statement.name,
                f"{_who(statement)} may create grants, which let others use the key without an "
                "attestation document",
                is_error=False,
            )


def _nobody_administers(statements: Sequence[Statement]) -> Iterator[Finding]:
    if not any(s.allows and s.covers("kms:PutKeyPolicy") for s in statements):
        yield Finding("locked", "the policy", "nobody may change it (kms:PutKeyPolicy) ever again")


def _condition(statement: Statement, condition: Condition) -> Iterator[Finding]:
    for rule, message, is_error in _doubts(condition, is_allowing=statement.allows):
        yield Finding(rule, statement.name, f"{condition}: {message}", is_error)


def _doubts(condition: Condition, *, is_allowing: bool) -> Iterator[tuple[str, str, bool]]:
    """Yield rule, message, and whether it is an error."""
    key = condition.key.lower()
    if key not in _KNOWN_KEYS:
        if key.startswith(f"{PREFIX}NitroTPMPCR".lower()):
            yield "key", "is about NitroTPM, not about enclaves", False
        elif re.search(r"recipient|imagesha|pcr", key):
            yield "key", f"no such key; there are {IMAGE_KEY} and {PREFIX}PCR0 to PCR31", True
    elif condition.operator == "Null":
        pass
    elif condition.operator not in OPERATORS:
        yield "operator", "does not compare text", True
    elif condition.is_negated:
        if is_allowing:
            yield "negated", "met by anything else, a request without a document too", True
    else:
        if condition.if_exists:
            yield "if-exists", "met by a request without a document", True
        if condition.quantifier == "ForAllValues":
            yield "quantifier", "met by a request without a document", True
        elif condition.quantifier:
            yield "quantifier", "the key has one value: leave the quantifier out", False
        for value in condition.values:
            yield from _doubts_of_value(condition.operator, value)


def _doubts_of_value(operator: str, value: str) -> Iterator[tuple[str, str, bool]]:
    if operator == "StringLike" and re.search(r"[*?]", value):
        yield "wildcard", f"{value!r} fits more than one image", True
    elif not re.fullmatch(r"[0-9a-fA-F]{96}", value):
        yield "length", f"{value!r:.120} is not 96 hexadecimal digits: never met", True
    elif not int(value, 16):
        yield "debug", "zero is what every enclave in debug mode has, whatever runs in it", True
    elif operator != "StringEqualsIgnoreCase" and value != value.lower():
        yield "case", "KMS writes lower case: never met; use StringEqualsIgnoreCase", True


def _contradiction(statement: Statement) -> Iterator[Finding]:
    by_key: dict[str, set[str]] = {}
    for condition in statement.conditions:
        if condition.operator in OPERATORS and not condition.is_negated:
            values = {value.lower() for value in condition.values}
            by_key.setdefault(condition.key.lower(), values).intersection_update(values)
    image, pcr0 = by_key.get(IMAGE_KEY.lower()), by_key.get(pcr_key(0).lower())
    if image is not None and pcr0 is not None and not image & pcr0:
        yield Finding(
            "contradiction",
            statement.name,
            "ImageSha384 and PCR0 are the same, and what is asked of them differs: never met",
        )
