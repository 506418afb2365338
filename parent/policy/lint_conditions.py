"""Mistakes in the conditions of one statement. No I/O."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from parent.policy.actions import (
    ATTESTATION_KEYS,
    ENCLAVE_KEYS,
    IMAGE_KEY,
    PREFIX,
    SERVICE_KEYS,
    TPM_KEYS,
    VIA_SERVICE,
    Platform,
    is_condition_key,
    pcr_key,
    tpm_pcr_key,
)
from parent.policy.findings import Severity, at
from parent.policy.language import TEXT_OPERATORS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from parent.policy.findings import Finding
    from parent.policy.language import Condition, Statement

_ZERO_IS_RIGHT = TPM_KEYS.keys() - {tpm_pcr_key(index).lower() for index in (4, 7)}
"""A NitroTPM's PCR is zero if nothing was added, as PCR12 without a kernel command line; the
workaround of GHSA-xrv8-2pf5-f3q7 compares it with zero."""

_PLACEHOLDER = re.compile(
    r"[<>{}$%]|\.\.\.|example|pcr|hash|value|measure|replace|your|todo", re.IGNORECASE
)
"""In no measurement, which is hexadecimal."""

_RIGHT_OPERATOR = "write StringEqualsIgnoreCase, or StringEquals with lower-case digits"


def check(statement: Statement, platform: Platform | None) -> Iterator[Finding]:
    """Yield the mistakes in a statement's conditions."""
    for condition in statement.conditions:
        yield from _check(statement, condition)
    yield from _contradictions(statement)
    yield from _through_a_service(statement)
    yield from _all_differ(statement)
    yield from _other_actions(statement)
    yield from _other_platform(statement, platform)


def _check(statement: Statement, condition: Condition) -> Iterator[Finding]:
    key = condition.key.lower()
    if not condition.is_known:
        close = condition.correction()
        yield at(
            statement, "operator",
            f"{condition}: KMS has no such operator (the case counts): the statement has no effect",
            f"write {close}" if close else "write an operator of IAM's",
        )  # fmt: skip
        return
    if condition.is_attestation and key not in ATTESTATION_KEYS:
        yield _no_such_key(statement, condition)
        return
    if not is_condition_key(key):
        yield at(
            statement, "key",
            f"{condition}: AWS's service authorization reference has no such condition key",
            "compare its spelling with the reference's", Severity.WARNING,
        )  # fmt: skip
        return
    if not condition.values:
        yield at(
            statement, "no-value",
            f"{condition}: no value is listed: none is ever met",
            "list a value; nitro-cli describe-eif prints the image's",
        )  # fmt: skip
        return
    if key not in ATTESTATION_KEYS:
        if re.search(r"recipientattestation|imagesha384", key):
            yield at(
                statement, "key", f"{condition}: not a condition key of KMS",
                f"the keys are {IMAGE_KEY} and {PREFIX}PCR0 to PCR31",
            )  # fmt: skip
        yield from _check_literals(statement, condition)
        return
    if condition.operator == "Null":
        if not {value.lower() for value in condition.values} <= {"true", "false"}:
            yield at(
                statement, "null", f"{condition}: neither true nor false",
                'write "true": no document; "false": any document',
            )  # fmt: skip
        return
    if condition.operator not in TEXT_OPERATORS:
        yield at(
            statement, "operator",
            f"{condition}: the value is text, which this operator does not compare",
            _RIGHT_OPERATOR,
        )  # fmt: skip
        return
    yield from _check_comparison(statement, condition)


_WITHOUT_WILDCARD = re.compile(
    r"kms:(calleraccount|viaservice)"
    r"|aws:(principal(account|arn|orgid|orgpaths)|userid|source(account|arn|orgid|vpc|vpce))"
)
"""Condition keys of which no value has a `*` or a `?`."""


def _check_literals(statement: Statement, condition: Condition) -> Iterator[Finding]:
    """Find wildcards where they stand for themselves."""
    if "Equals" not in condition.operator or condition.operator not in TEXT_OPERATORS:
        return
    if not _WITHOUT_WILDCARD.fullmatch(condition.key.lower()):
        return
    for value in condition.values:
        if re.search(r"[*?]", value) and "${" not in value:
            yield at(
                statement, "wildcard",
                f"{condition}: {value!r:.120} is compared as it is, and no caller has a wildcard "
                f"there: {'always' if condition.is_negated else 'never'} met",
                f"write {'StringNotLike' if condition.is_negated else 'StringLike'}",
            )  # fmt: skip


def _check_comparison(statement: Statement, condition: Condition) -> Iterator[Finding]:
    """Check a comparison of a measurement."""
    if condition.is_negated and statement.allows:
        yield at(
            statement, "negated",
            f"{condition}: met by every other document, and by a request without one",
            _RIGHT_OPERATOR,
        )  # fmt: skip
        return
    weak = condition.if_exists or condition.quantifier == "ForAllValues"
    if not condition.is_negated and not statement.allows:
        also = "" if weak else ", and a request without a document,"
        yield at(
            statement, "deny-equal",
            f"{condition}: denies only this image; any other{also} is not denied",
            "to deny what is not this image, write StringNotEqualsIgnoreCase",
            Severity.WARNING,
        )  # fmt: skip
    if weak and statement.allows:
        yield at(
            statement, "if-exists" if condition.if_exists else "quantifier",
            f"{condition}: met by a request without a document",
            f"write {condition.operator}",
        )  # fmt: skip
    elif condition.quantifier:
        also = (
            "" if statement.allows or not condition.quantifier.startswith("ForAny")
            else ": with ForAnyValue, a request without a document is not denied"
        )  # fmt: skip
        yield at(
            statement, "quantifier", f"{condition}: the key has one value{also}",
            f"write {condition.operator}",
            Severity.ERROR if also else Severity.WARNING,
        )  # fmt: skip
    for value in condition.values:
        yield from _check_value(statement, condition, value)


def _check_value(statement: Statement, condition: Condition, value: str) -> Iterator[Finding]:
    never = "never met" if not condition.is_negated else "always met"
    if re.search(r"\$\{[a-z0-9-]+:", value, re.IGNORECASE):
        yield at(
            statement, "variable",
            f"{condition}: {value!r:.60} is a policy variable: tags and names of the caller choose "
            "the image, or with a Version before 2012-10-17, none is met",
            "put the measurement there: nitro-cli describe-eif prints it",
        )  # fmt: skip
    elif _PLACEHOLDER.search(value):
        yield at(
            statement, "placeholder", f"{condition}: {value!r:.60} is a placeholder: {never}",
            "put the measurement there: nitro-cli describe-eif prints it",
        )  # fmt: skip
    elif "Like" in condition.operator and re.search(r"[*?]", value):
        yield at(
            statement, "wildcard", f"{condition}: {value!r:.120} fits more than one image",
            "list the values of the images",
        )  # fmt: skip
    elif not re.fullmatch(r"[0-9a-fA-F]{96}", value):
        yield at(
            statement, "length",
            f"{condition}: {value!r:.120} is not 96 hexadecimal digits: {never}",
            "put the whole measurement there: nitro-cli describe-eif prints it",
        )  # fmt: skip
    elif not int(value, 16) and condition.key.lower() not in _ZERO_IS_RIGHT:
        message, severity = _zero(condition.key)
        yield at(statement, "debug", f"{condition}: {message}", _ZERO_CHANGE, severity)
    elif "IgnoreCase" not in condition.operator and value != value.lower():
        yield at(
            statement, "case", f"{condition}: KMS writes lower case: {never}",
            f"write {condition.operator.replace('Like', 'Equals')}IgnoreCase",
        )  # fmt: skip


_ZERO_CHANGE = "take the measurements of the image, and run it without debug mode"


def _zero(key: str) -> tuple[str, Severity]:
    index = ENCLAVE_KEYS.get(key.lower())
    if index is not None and index < 3:
        return "every enclave in debug mode has zero here, for any image", Severity.ERROR
    if index == 8:
        return "zero is what every unsigned image has", Severity.ERROR
    return "zero says that nothing was measured: any image may have it", Severity.WARNING


def _no_such_key(statement: Statement, condition: Condition) -> Finding:
    absent = condition.if_exists or condition.is_negated or condition.quantifier == "ForAllValues"
    values = {value.lower() for value in condition.values}
    is_met = "true" in values if condition.operator == "Null" else absent
    result = "always" if is_met else "never"
    effect = {
        ("always", True): "the condition restricts nothing",
        ("always", False): "the statement denies always",
        ("never", True): "the statement has no effect",
        ("never", False): "the statement has no effect",
    }[result, statement.allows]
    is_other_pcr = re.search(r"pcr\d+$", condition.key.lower())
    close = difflib.get_close_matches(condition.key, [IMAGE_KEY], n=1, cutoff=0.6)
    which = (
        f"the keys are {IMAGE_KEY}, {PREFIX}PCR0 to PCR31, and for instances {PREFIX}NitroTPMPCR0 "
        "to NitroTPMPCR23"
    )
    return at(
        statement, "key",
        f"{condition}: KMS has no such condition key, so no request has it: {result} met; {effect}",
        f"write {close[0]}; {which}" if close and not is_other_pcr else which,
    )  # fmt: skip


def _contradictions(statement: Statement) -> Iterator[Finding]:
    """Find conditions that no document meets together."""
    allowed: dict[int, set[str]] = {}
    keys: set[str] = set()
    for condition in statement.conditions:
        key = condition.key.lower()
        positive = condition.operator in TEXT_OPERATORS and not condition.is_negated
        is_absence_met = condition.if_exists or condition.quantifier == "ForAllValues"
        if not positive or is_absence_met or "Like" in condition.operator:
            continue
        keys.add(key)
        if key in ENCLAVE_KEYS:
            values = {value.lower() for value in condition.values}
            index = ENCLAVE_KEYS[key]
            allowed[index] = allowed.get(index, values) & values
    for index, values in allowed.items():
        if not values and any(c.values for c in statement.conditions):
            name = "ImageSha384 and PCR0 are one measurement" if index == 0 else f"PCR{index}"
            yield at(
                statement, "contradiction",
                f"{name}: the conditions have no value in common: the statement has no effect",
                "give the same value, or use only one of the conditions",
            )  # fmt: skip
            break
    if keys & ENCLAVE_KEYS.keys() and keys & TPM_KEYS.keys():
        yield at(
            statement, "contradiction",
            "no document has PCRs of an enclave and of a NitroTPM: the statement has no effect",
            "write a statement for each",
        )  # fmt: skip


def _all_differ(statement: Statement) -> Iterator[Finding]:
    """Find a Deny of several differences, which must all be there."""
    compared = {
        ENCLAVE_KEYS.get(key, key): condition.key
        for condition in statement.conditions
        if (key := condition.key.lower()) in ATTESTATION_KEYS and condition.is_negated
    }
    if not statement.allows and len(compared) > 1:
        same = next((key for i, key in compared.items() if i != 0), "")
        yield at(
            statement, "all-differ",
            f"denies only what differs in all of {', '.join(compared.values())}: another image "
            f"with the same {same.rpartition(':')[2]} is not denied",
            f"compare {IMAGE_KEY} alone, or write a Deny for each",
        )  # fmt: skip


def _through_a_service(statement: Statement) -> Iterator[Finding]:
    """Find a condition on a service's request beside one on the document.

    A service that calls KMS for a principal has no document of an enclave: kms:ViaService and the
    like are absent from the enclave's own request.
    """
    needed = [each for each in statement.conditions if _needs_presence(each)]
    if not any(each.key.lower() in ATTESTATION_KEYS for each in needed):
        return
    for condition in needed:
        key = condition.key.lower()
        if key in SERVICE_KEYS or (
            key == VIA_SERVICE and {each.lower() for each in condition.values} == {"true"}
        ):
            yield at(
                statement, "through-a-service",
                f"{condition}: met by what another AWS service asks for a caller, and never by an "
                "enclave's own request",
                "leave this condition out; what a service may do is a statement of its own",
            )  # fmt: skip


def _needs_presence(condition: Condition) -> bool:
    """Return whether a condition is met only by a request that has its key."""
    if condition.operator == "Null":
        return {each.lower() for each in condition.values} == {"false"}
    return condition.is_known and not (
        condition.is_negated or condition.if_exists or condition.quantifier == "ForAllValues"
    )


def _other_actions(statement: Statement) -> Iterator[Finding]:
    """Find named actions whose requests never have a condition's key."""
    is_of_iam = statement.principals is None
    groups = [
        [action for action in group if action.is_on_key or is_of_iam]
        for group in statement.groups_of_actions()
    ]
    for condition in statement.conditions:
        if not is_condition_key(condition.key) or not condition.is_known:
            continue
        # A wildcard is meant for what it can have an effect on: kms:GenerateDataKey*, but not
        # kms:ReEncrypt*, whose every request lacks the key.
        without = [
            action
            for group in groups
            if all(action.knows(condition.key) is False for action in group)
            for action in group
        ]
        is_absence_met = (
            condition.operator == "Null" or condition.if_exists or condition.is_negated
            or condition.quantifier == "ForAllValues"
        )  # fmt: skip
        if not without or is_absence_met:
            continue
        names = ", ".join(dict.fromkeys(action.name for action in without))
        if condition.key.lower() in ATTESTATION_KEYS:
            yield at(
                statement, "no-recipient",
                f"{condition}: requests for {names} take no Recipient, so that they never carry a "
                "document: never met for them",
                _FOR_NO_RECIPIENT if statement.allows else "leave these actions out",
            )  # fmt: skip
            return
        yield at(
            statement, "key-of-other-actions",
            f"{condition}: AWS's service authorization reference has no such key for {names}: "
            "never met for them",
            "move these actions to a statement without this condition",
            Severity.WARNING,
        )  # fmt: skip


_FOR_NO_RECIPIENT = (
    "move these actions to a statement without this condition, if its principals may do them "
    "outside an enclave too; only Decrypt, DeriveSharedSecret, GenerateDataKey and "
    "GenerateDataKeyPair can be bound to an image"
)


def foreign_keys(statement: Statement, platform: Platform | None) -> list[str]:
    """Return the keys compared that the platform's documents do not have."""
    if platform is None:
        return []
    foreign = ENCLAVE_KEYS if platform is Platform.INSTANCE else TPM_KEYS
    return sorted(
        {c.key for c in statement.conditions if c.key.lower() in foreign and c.operator != "Null"}
    )


def _other_platform(statement: Statement, platform: Platform | None) -> Iterator[Finding]:
    keys = foreign_keys(statement, platform)
    if keys and platform:
        own = tpm_pcr_key(4) if platform is Platform.INSTANCE else pcr_key(0)
        article = "a" if platform is Platform.SANDBOX else "an"
        yield at(
            statement, "platform",
            f"{', '.join(keys)}: a document of {article} {platform.value} has no such PCR",
            f"use the keys of the platform, such as {own}",
        )  # fmt: skip
