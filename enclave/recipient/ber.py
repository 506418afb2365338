"""A strict cursor over BER, as much of it as CMS needs (X.690). No I/O.

It walks forward once, never recurses on input, and never looks ahead further than a header.
Both length forms are taken, definite and indefinite, because KMS uses both in one message.
Tags are single octets: CMS EnvelopedData needs no others.
"""

from __future__ import annotations

from enclave.errors import DecodingError

_INDEFINITE = 0x80
_CONSTRUCTED = 0x20
_END_OF_CONTENTS = b"\0\0"


class BerReader:
    """Reads elements in order. Each call gives the expected tag, and its name for errors."""

    __slots__ = ("_data", "_format", "_open", "_pos")

    def __init__(self, data: bytes, format: str) -> None:
        self._data = data
        self._format = format
        self._pos = 0
        # Entered elements, innermost last: (where the contents must end, closed by an
        # end-of-contents mark?). An indefinite element inherits the end of what encloses it.
        self._open: list[tuple[int, bool]] = [(len(data), False)]

    def enter(self, tag: int, what: str) -> None:
        """Step into a constructed element; `leave` must follow."""
        end = self._header(tag, what)
        self._open.append((self._open[-1][0], True) if end is None else (end, False))

    def leave(self, what: str) -> None:
        """Step out of the element entered last, which must be at its end."""
        end, marked = self._open.pop()
        if marked:
            if self._data[self._pos : min(self._pos + 2, end)] != _END_OF_CONTENTS:
                raise self._error(f"{what} goes on where it should end")
            self._pos += 2
        elif self._pos != end:
            raise self._error(f"{what} goes on where it should end")

    def primitive(self, tag: int, what: str) -> slice:
        """Step over a primitive element; return where its contents are."""
        end = self._header(tag, what)
        if end is None:  # X.690 8.1.3.2: only a constructed element may be indefinite.
            raise self._error(f"{what} has no length")
        start, self._pos = self._pos, end
        return slice(start, end)

    def expect(self, tag: int, value: bytes, what: str) -> None:
        """Read a primitive element that must have this value."""
        start = self._pos
        if self._data[self.primitive(tag, what)] != value:
            self._pos = start
            raise self._error(f"{what} is not the one expected")

    def peek(self) -> int | None:
        """Return the next tag in the element entered last; None at its end."""
        end, marked = self._open[-1]
        if self._pos >= end:
            return None
        if marked and self._data[self._pos : self._pos + 2] == _END_OF_CONTENTS:
            return None
        return self._data[self._pos]

    def finish(self) -> None:
        """Raise `DecodingError` if bytes follow."""
        if self._pos != len(self._data):
            raise self._error("bytes follow its end")

    def _header(self, tag: int, what: str) -> int | None:
        """Step over tag and length; return the end of the contents, None if it is indefinite."""
        limit = self._open[-1][0]
        data, pos = self._data, self._pos
        if pos + 2 > limit:
            raise self._error(f"{what} is missing")
        if data[pos] != tag:
            raise self._error(f"{what} has tag 0x{data[pos]:02x}, not 0x{tag:02x}")
        length = data[pos + 1]
        pos += 2
        if length == _INDEFINITE:
            if not tag & _CONSTRUCTED:
                raise self._error(f"{what} has no length")
            self._pos = pos
            return None
        if length > _INDEFINITE:
            octets = length & 0x7F
            if octets > 4 or pos + octets > limit:
                raise self._error(f"the length of {what} is cut or too long")
            length = int.from_bytes(data[pos : pos + octets], "big")
            pos += octets
        if length > limit - pos:
            raise self._error(f"{what} is longer than what holds it")
        self._pos = pos
        return pos + length

    def _error(self, message: str) -> DecodingError:
        return DecodingError(self._format, message, offset=self._pos)
