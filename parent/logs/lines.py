"""Bytes of a hostile writer made lines that a person may look at: bounded, visible, harmless.

Does no I/O.
"""

from __future__ import annotations

import re
import unicodedata

MAX_LINE = 8192
"""Bytes of a line as it comes; what is beyond is left out and counted."""

_CUT = b"\xe2\x80\xa6"

_SUSPECT = re.compile("[^ -~]")

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories that do something to a terminal or a reader instead of showing something:
control codes (C0, DEL, C1), format characters (bidirectional overrides, zero-width ones, tags),
surrogates, what is unassigned or private, and line and paragraph separators."""


class LineSplitter:
    """A stream cut into lines, none longer than `limit` bytes.

    Attributes:
        cut: bytes left out, of lines that were too long.
    """

    def __init__(self, limit: int = MAX_LINE) -> None:
        self.cut = 0
        self._limit = limit
        self._part = bytearray()
        self._over = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes; return the lines that end in them, without their ends."""
        *ended, rest = data.split(b"\n")
        lines = []
        for piece in ended:
            self._add(piece)
            lines.append(self._take())
        self._add(rest)
        return lines

    def end(self) -> list[bytes]:
        """Return the last line, which nothing ended, if there is one."""
        return [self._take()] if self._part else []

    def _add(self, piece: bytes) -> None:
        room = self._limit - len(self._part)
        if len(piece) > room:
            self.cut += len(piece) - room
            self._over = True
            piece = piece[:room]
        self._part += piece

    def _take(self) -> bytes:
        line = bytes(self._part)
        # Most writers of CR LF mean what LF means.
        line = line + _CUT if self._over else line.removesuffix(b"\r")
        self._part.clear()
        self._over = False
        return line


def neutralise(line: bytes) -> str:
    r"""Make everything visible that is not: ``\x1b``, ``\u202e``, and ``\xff`` for a stray byte.

    A backslash of the writer is doubled where the line holds any escape of ours, so that the two
    can be told apart; other lines stay as they are.
    """
    text = line.decode("utf-8", "surrogateescape")
    if not _SUSPECT.search(text):
        return text
    made = [_visible(character) for character in text]
    if all(len(character) == 1 for character in made):
        return text
    return "".join("\\\\" if character == "\\" else character for character in made)


def _visible(character: str) -> str:
    if character == "\t" or " " <= character <= "~":
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # A byte that is not UTF-8.
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(character) not in _HIDDEN:
        return character
    if code < 0x100:
        # U+0085 would look like the stray byte 0x85.
        return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
