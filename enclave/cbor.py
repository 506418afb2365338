"""CBOR from outside, checked strictly: no other code gives hostile bytes to `cbor2`. No I/O.

`cbor2` is a full decoder: tags become dates, regular expressions, big numbers and shared
references, nesting is hundreds of levels deep, a map key that comes twice is taken, and what
follows the item is ignored. The NSM and attestation documents need none of that, so the bytes
are walked first, head by head (RFC 8949 section 3), and anything outside a small subset is
refused, with its offset. The same holds under every version of `cbor2`; its own limits do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cbor2

from enclave.errors import DecodingError

MAX_DEPTH = 4
"""Containers within containers. The deepest known are three: the list of locked PCRs, in the
fields, in the one-entry map of a DescribeNSM response."""

_BREAK = 0xFF
_FALSE_TRUE_NULL = (20, 21, 22)


def decode(data: bytes, *, format: str, offset: int = 0) -> Any:
    """Decode exactly one item.

    The subset: integers, byte and text strings of known length, arrays and maps of known or
    indefinite length (the NSM has used both for maps), false, true, null. Map keys are unsigned
    integers or text, each once.

    Args:
        data: the bytes; the caller has bounded their number.
        format: what they should be, for the error.
        offset: where `data` starts in what the caller calls `format`; errors count from there.

    Raises:
        DecodingError: the bytes are not one item of the subset, or more bytes follow it.
    """
    try:
        _check(data)
    except _RefusedError as e:
        raise DecodingError(format, e.reason, offset=offset + e.at) from None
    try:
        return cbor2.loads(data)
    except (cbor2.CBORError, ValueError) as e:  # What is left: text that is not UTF-8.
        raise DecodingError(format, "text that is not UTF-8") from e


def first_item(data: bytes, *, format: str) -> bytes:
    """Return the bytes of the first item of the subset, without those that follow it.

    Raises:
        DecodingError: there is none.
    """
    try:
        return data[: _skip(data, 0, MAX_DEPTH)]
    except _RefusedError as e:
        raise DecodingError(format, e.reason, offset=e.at) from None


class _RefusedError(Exception):
    def __init__(self, reason: str, at: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.at = at


def _check(data: bytes) -> None:
    end = _skip(data, 0, MAX_DEPTH)
    if end != len(data):
        raise _RefusedError("bytes follow the end", end)


def _skip(data: bytes, at: int, depth: int) -> int:
    """Walk one item that starts at `at`; return the start of the next one."""
    major, argument, after = _head(data, at)
    if major in (0, 1):
        return after
    if major in (2, 3):
        if argument is None:
            raise _RefusedError("a string of indefinite length", at)
        if argument > len(data) - after:
            raise _RefusedError("cut short within a string", at)
        return after + argument
    if major in (4, 5):
        if depth == 0:
            raise _RefusedError(f"more than {MAX_DEPTH} containers deep", at)
        return _skip_entries(data, after, argument, depth - 1, is_map=major == 5)
    if major == 7 and argument in _FALSE_TRUE_NULL and after == at + 1:
        return after
    what = "a tag" if major == 6 else "a float, a break or an unknown simple value"
    raise _RefusedError(what, at)


def _skip_entries(data: bytes, at: int, count: int | None, depth: int, *, is_map: bool) -> int:
    """Walk the `count` entries of a container, or those up to its break if that is None."""
    # Keys are compared by value: 5 written in one byte and in two is the same key.
    seen: set[tuple[int, int | bytes]] = set()
    while count != 0:
        if count is None:
            if data[at : at + 1] == bytes([_BREAK]):
                return at + 1
        else:
            count -= 1
        if is_map:
            key = _key(data, at)
            if key in seen:
                raise _RefusedError("a map key that comes twice", at)
            seen.add(key)
            at = _skip(data, at, depth)
        at = _skip(data, at, depth)
    return at


def _key(data: bytes, at: int) -> tuple[int, int | bytes]:
    major, argument, after = _head(data, at)
    if major not in (0, 3) or argument is None:
        raise _RefusedError("a map key that is neither a number nor text", at)
    return major, argument if major == 0 else data[after : after + argument]


def _head(data: bytes, at: int) -> tuple[int, int | None, int]:
    """Read a head; return major type, argument (None: indefinite length), and its end."""
    if at >= len(data):
        raise _RefusedError("cut short", at)
    major, info = data[at] >> 5, data[at] & 0x1F
    at += 1
    if info < 24:
        return major, info, at
    if info == 31 and major in (2, 3, 4, 5):
        return major, None, at
    if info > 27:
        raise _RefusedError("a break or a reserved length", at - 1)
    size = 1 << (info - 24)
    if size > len(data) - at:
        raise _RefusedError("cut short", at)
    return major, int.from_bytes(data[at : at + size], "big"), at + size


# What a decoded value must be: a shape hands the value back, or raises ValueError saying what it
# is not.

Shape = Callable[[object], object]


def take(values: Mapping[Any, object], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return the fields of a map, each checked by its shape; a missing one counts as null.

    Fields without a shape are left alone: the NSM may grow one, and no running enclave could be
    upgraded in step.

    Raises:
        ValueError: which field is not what.
    """
    taken = {}
    for name, shape in shapes.items():
        try:
            taken[name] = shape(values.get(name))
        except ValueError as e:
            raise ValueError(f"{name} is not {e}") from None
    return taken


def number(most: int) -> Callable[[object], int]:
    """Return the shape of an integer in 0..`most`."""

    def shape(value: object) -> int:
        if type(value) is int and 0 <= value <= most:  # A bool is an int, too: not here.
            return value
        raise ValueError(f"a number in 0..{most}")

    return shape


def data(least: int, most: int) -> Callable[[object], bytes]:
    """Return the shape of a byte string of `least` to `most` bytes."""

    def shape(value: object) -> bytes:
        if isinstance(value, bytes) and least <= len(value) <= most:
            return value
        raise ValueError(f"{least}..{most} bytes")

    return shape


def flag(value: object) -> bool:
    """Return a Boolean."""
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


def text(value: object) -> str:
    """Return 1 to 256 printable characters, harmless to a log or a terminal."""
    if isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable():
        return value
    raise ValueError("1..256 printable characters")
