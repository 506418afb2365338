"""The AWS CLI's shorthand for structures: ``Key=value,Other=[a,b],Nested={Key=value}``.

AWS CLI User Guide, "Using shorthand syntax". ``Key@=file://...`` reads a value from a file.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from enclave.cli import files
from enclave.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DEPTH = 16

_SPACE = re.compile(r"[ \t\n\r\x0b\x0c]*")
_KEY = re.compile(r"[A-Za-z0-9\-_.#/:]*")
_QUOTED = re.compile(r"""'((?:\\'|[^'])*)'|"((?:\\"|[^"])*)\"""")
# A bare value starts with none of the syntax's own characters. What may follow depends on where
# it stands: the first one may hold "=", a later one in a list without brackets may not, since
# "=" then makes it the next key.
_START = r"""(?:\\,|[^\x00-\x20"',=\[{])"""
_FIRST = re.compile(_START + r"""(?:\\,|[^\x00-\x08\x0e-\x1b"',\]}])*""")
_LATER = re.compile(_START + r"""(?:\\,|[^\x00-\x08\x0e-\x1b"',=])*""")


class _SyntaxError(Exception):
    """The text does not go on as it should."""


def parse(text: str) -> dict[str, Any]:
    """Read shorthand: dictionaries, lists and strings (bytes from ``fileb://``).

    Raises:
        ConfigurationError: it is not shorthand.
    """
    reader = _Reader(text)
    try:
        return reader.pairs()
    except _SyntaxError as e:
        raise ConfigurationError(
            f"not shorthand: {e} at character {reader.at + 1}",
            hint="write Key=value,Other=value, or JSON",
        ) from e


class _Reader:
    def __init__(self, text: str) -> None:
        self.at = 0
        self._text = text
        self._depth = 0
        self._loads_files = False

    def pairs(self) -> dict[str, Any]:
        """Everything: ``Key=value,Key=value``."""
        found: dict[str, Any] = {}
        while True:
            self._pair(found, self._values)
            if self._is_over():
                return found
            self._expect(",")

    def _pair(self, found: dict[str, Any], value: Callable[[], Any]) -> None:
        key = self._match(_KEY) or ""
        self._skip_space()
        self._loads_files = self._take("@")
        self._expect("=")
        if key in found:
            raise _SyntaxError(f"a second {key!r}")
        found[key] = value()

    def _values(self) -> Any:
        """Read what follows ``Key=``: a value, a list with or without brackets, or a structure."""
        if self._is_over():
            return ""
        if self._next() in "[{":
            return self._value()
        first = self._value()
        values = [first]
        self._skip_space()
        while not self._is_over():
            comma = self.at
            self._expect(",")
            later = self._scalar(_LATER)
            self._skip_space()
            if later is None or self._next() not in ("", ","):
                if self._is_over():
                    raise _SyntaxError("a value expected")
                self.at = comma  # it was the next key
                break
            values.append(later)
        return first if len(values) == 1 else values

    def _value(self) -> Any:
        """One value, as it may stand in brackets."""
        if self._take("["):
            return self._bracketed("]", [])
        if self._take("{"):
            return self._bracketed("}", {})
        value = self._scalar(_FIRST)
        return "" if value is None else value

    def _bracketed(self, closing: str, found: Any) -> Any:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _SyntaxError(f"more than {MAX_DEPTH} brackets deep")
        self._skip_space()
        while not self._take(closing):
            if isinstance(found, dict):
                self._pair(found, self._value)
            else:
                found.append(self._value())
            self._skip_space()
            if self._next() != closing:
                self._expect(",")
        self._depth -= 1
        return found

    def _scalar(self, bare: re.Pattern[str]) -> str | bytes | None:
        if self._next() in ("'", '"'):
            quote = self._next()
            quoted = self._match(_QUOTED)
            if quoted is None:
                raise _SyntaxError("a quotation mark without its partner")
            text = quoted[1:-1].replace(f"\\{quote}", quote).replace("\\\\", "\\")
        else:
            found = self._match(bare)
            if found is None:
                return None
            text = found.replace("\\,", ",").rstrip()
        return files.loaded(text) if self._loads_files else text

    def _match(self, pattern: re.Pattern[str]) -> str | None:
        match = pattern.match(self._text, self.at)
        if match is None:
            return None
        self.at = match.end()
        return match[0]

    def _take(self, character: str) -> bool:
        if self._next() != character:
            return False
        self.at += 1
        return True

    def _expect(self, character: str) -> None:
        self._skip_space()
        if not self._take(character):
            raise _SyntaxError(f"{character!r} expected, {self._next() or 'the end'!r} found")
        self._skip_space()

    def _skip_space(self) -> None:
        self._match(_SPACE)

    def _next(self) -> str:
        return self._text[self.at : self.at + 1]

    def _is_over(self) -> bool:
        return self.at >= len(self._text)
