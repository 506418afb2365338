"""The values of SOPS files, for those who write them and those who read them: types and texts.

No I/O. Source: getsops/sops, ``sops.go`` (ToBytes), and go-yaml v3, ``resolve.go``, by which SOPS
reads YAML. PyYAML, of YAML 1.1, takes ``yes`` for a truth value and ``1e3`` for a text.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS: Final = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_SPECIAL_FLOATS: Final = {
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
}
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_INT: Final = re.compile(
    r"(?P<sign>[-+]?)(0[xX](?P<hex>[0-9a-fA-F]+)|0[bB](?P<bin>[01]+)|0[oO]?(?P<oct>[0-7]+)"
    r"|(?P<dec>0|[1-9][0-9]*))",
    re.ASCII,
)
_BASES: Final = {"hex": 16, "bin": 2, "oct": 8, "dec": 10}
_MAX_DIGITS: Final = 4096
"""More are no 64-bit number, and `int` takes at most 4,300 decimal ones."""

_TIME: Final = re.compile(
    r"\d{4}-\d\d?-\d\d?([Tt ]\s*\d\d?:\d\d?:\d\d?(\.\d*)?\s*(Z|[-+]\d\d?(:?\d\d)?)?)?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Timestamp:
    """A point in time, as the text that stands for it."""

    text: str


Scalar = str | int | float | bool | Timestamp | None
"""A text may hold bytes that are not UTF-8, each as a surrogate (PEP 383)."""


def mac_bytes(value: Scalar) -> bytes:
    """Return the bytes by which a value enters the MAC."""
    match value:
        case None:
            return b""
        case bool():
            return b"True" if value else b"False"
        case str():
            return value.encode("utf-8", "surrogateescape")
        case Timestamp():
            return value.text.encode()
        case float():
            return float_text(value).encode()
        case int():
            return str(value).encode()


def text_of(value: Scalar) -> str:
    """Return a value as the text that a program gets."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case Timestamp():
            return value.text
        case float():
            return float_text(value)
        case str() | int():
            return str(value)


def float_text(value: float) -> str:
    """Return a number as Go's ``strconv.FormatFloat(value, 'f', -1, 64)`` writes it."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    from decimal import Decimal  # noqa: PLC0415 (half a MiB, for numbers alone)

    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def resolved(text: str) -> Scalar:
    """Return a plain scalar with the type that go-yaml v3 gives it (``resolve.go``)."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if text in _SPECIAL_FLOATS:
        return _SPECIAL_FLOATS[text]
    if not text.startswith((*"+-.0123456789",)):
        return text
    if _TIME.fullmatch(text):
        return Timestamp(text)
    digits = text.replace("_", "")
    if (match := _INT.fullmatch(digits)) and len(digits) <= _MAX_DIGITS:
        base = next(name for name in _BASES if match[name])
        number = int(match["sign"] + match[base], _BASES[base])
        if -(2**63) <= number < 2**63:
            return number
    # What is too large for a float is text to Go.
    if _FLOAT.fullmatch(digits) and math.isfinite(value := float(digits)):
        return value
    return text
