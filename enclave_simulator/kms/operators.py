"""The operators of a policy's conditions. No I/O.

Source: IAM User Guide, "IAM JSON policy elements: Condition operators".
"""

from __future__ import annotations

import fnmatch
import ipaddress
import operator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from enclave_simulator.kms.variables import as_pattern, as_text

if TYPE_CHECKING:
    from collections.abc import Callable

    Compare = Callable[[str, str], bool]
    """Whether one value of the request matches one of the policy."""


def like(value: str, pattern: str) -> bool:
    """Return whether a value matches a pattern with IAM's wildcards, which are * and ? only."""
    return pattern == "*" or fnmatch.fnmatchcase(value, as_pattern(pattern))


def arn_like(value: str, pattern: str) -> bool:
    """Return whether an ARN matches a pattern: each of its six parts, in which wildcards end."""
    parts, patterns = value.split(":", 5), pattern.split(":", 5)
    return len(parts) == len(patterns) == 6 and all(map(like, parts, patterns))


def _equal(value: str, expected: str) -> bool:
    return value == as_text(expected)


def _equal_ignoring_case(value: str, expected: str) -> bool:
    return value.lower() == as_text(expected).lower()


def _date(text: str) -> float:
    """Return a date of ISO 8601, or of seconds since 1970, as the latter.

    Raises:
        ValueError: it is neither.
    """
    try:
        return float(text)
    except ValueError:
        date = datetime.fromisoformat(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _compared(read: Callable[[str], float], compare: Callable[[float, float], bool]) -> Compare:
    """Return the comparison of what two texts mean; one without a meaning matches nothing."""

    def matches(value: str, expected: str) -> bool:
        try:
            return compare(read(value), read(expected))
        except ValueError:
            return False

    return matches


def _in_network(value: str, expected: str) -> bool:
    try:
        network = ipaddress.ip_network(expected, strict=False)
        return ipaddress.ip_address(value) in network
    except ValueError:
        return False


def _ordered(kind: str, read: Callable[[str], float]) -> dict[str, tuple[Compare, bool]]:
    return {
        f"{kind}Equals": (_compared(read, operator.eq), False),
        f"{kind}NotEquals": (_compared(read, operator.eq), True),
        f"{kind}LessThan": (_compared(read, operator.lt), False),
        f"{kind}LessThanEquals": (_compared(read, operator.le), False),
        f"{kind}GreaterThan": (_compared(read, operator.gt), False),
        f"{kind}GreaterThanEquals": (_compared(read, operator.ge), False),
    }


OPERATORS: dict[str, tuple[Compare, bool]] = {
    "StringEquals": (_equal, False),
    "StringNotEquals": (_equal, True),
    "StringEqualsIgnoreCase": (_equal_ignoring_case, False),
    "StringNotEqualsIgnoreCase": (_equal_ignoring_case, True),
    "StringLike": (like, False),
    "StringNotLike": (like, True),
    "ArnEquals": (arn_like, False),
    "ArnLike": (arn_like, False),
    "ArnNotEquals": (arn_like, True),
    "ArnNotLike": (arn_like, True),
    "Bool": (_equal_ignoring_case, False),
    "BinaryEquals": (operator.eq, False),
    "IpAddress": (_in_network, False),
    "NotIpAddress": (_in_network, True),
    **_ordered("Numeric", float),
    **_ordered("Date", _date),
}
"""By name: the comparison of one value, and whether the operator is its negation."""
