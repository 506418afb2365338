"""Numbers in text: whole ones, and those with a unit (``10 s``, ``512 MiB``). No I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SECONDS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
BYTES: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]+)")


def whole_number(text: str, least: int, most: int) -> int | None:
    """Return a whole number in ASCII digits; None if it is not one, or not in ``least..most``.

    However many digits there are: Python's `int` raises ValueError above 4300 of them.
    """
    if not text.isascii() or not text.isdigit():
        return None
    digits = text.lstrip("0") or "0"
    if len(digits) > len(str(most)) or not least <= int(digits) <= most:
        return None
    return int(digits)


def quantity(text: str, units: Mapping[str, float]) -> float | None:
    """Return a number in the unit of size 1; None if it is not one with a unit of `units`."""
    match = _QUANTITY.fullmatch(text)
    if not match or match[2] not in units:
        return None
    return float(match[1]) * units[match[2]]


def in_units(value: float, units: Mapping[str, float]) -> str:
    """Write a bound: seconds as they are, bytes in the largest unit in which they are whole."""
    if "s" in units:
        return f"{value:g} s"
    whole = [unit for unit, size in units.items() if value >= size and value % size == 0]
    unit = whole[-1] if whole else "B"
    return f"{value / units[unit]:.0f} {unit}"
