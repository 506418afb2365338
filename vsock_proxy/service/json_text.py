"""JSON from outside, with one limit of depth. No I/O.

How deep the standard library reads differs: about 990 levels on Python 3.11, on 3.14 as many as the
thread's stack holds, tens of thousands. What walks the value afterwards (`str`, `json.dumps`, our
own recursion) comes to its end sooner, in a RecursionError that nobody expects.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DEPTH: Final = 127
"""Levels of nested objects and lists: the limit of serde_json, which AWS's tools read with."""


class JsonDepthError(ValueError):
    """JSON is nested deeper than `MAX_DEPTH`."""


def parse_json(text: str | bytes, decode: Callable[[Any], Any] = json.loads) -> Any:
    """Parse JSON.

    Args:
        text: the whole of it.
        decode: what reads it, for other objects, constants or numbers.

    Raises:
        ValueError: it is not JSON (`json.JSONDecodeError`), or nested too deeply
            (`JsonDepthError`).
    """
    try:
        value = decode(text)
    except RecursionError:
        raise JsonDepthError("JSON nested too deeply") from None
    # Counting takes a thousandth of the time of reading; walking the value as long as that.
    one, other = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    opened = text.count(one) + text.count(other)  # type: ignore[arg-type] # of the same type
    if opened > MAX_DEPTH and is_deeper(value, MAX_DEPTH):
        raise JsonDepthError("JSON nested too deeply")
    return value


def is_deeper(value: Any, most: int) -> bool:
    """Tell whether lists and objects are nested more than so many levels."""
    level = [value]
    for _ in range(most):
        level = [inner for each in level for inner in _inside(each) if _inside(inner) is not _NONE]
        if not level:
            return False
    return True


_NONE: tuple[Any, ...] = ()


def _inside(value: Any) -> Any:
    """Return what is in an object or a list; `_NONE` for other values."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else _NONE
