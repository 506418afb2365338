"""Bytes of a hostile writer made lines that a person may look at: bounded, visible, harmless.

Does no I/O.
"""

from __future__ import annotations

import re
import unicodedata

_SUSPECT = re.compile("[^ -~]")

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories that do something to a terminal or a reader instead of showing something:
control codes (C0, DEL, C1), format characters (bidirectional overrides, zero-width ones, tags),
surrogates, what is unassigned or private, and line and paragraph separators."""


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
