"""Lines of a hostile writer, made safe to display: bounded, visible, harmless. No I/O."""

from __future__ import annotations

import unicodedata

_PLAIN = bytes([0x09, *range(0x20, 0x7F)])
"""Printable ASCII and the tab: bytes that are shown as they are."""

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories that do something to a terminal or a reader instead of showing something:
control codes (C0, DEL, C1), format characters (bidirectional overrides, zero-width ones, tags),
surrogates, what is unassigned or private, and line and paragraph separators."""

MAX_CACHED = 0x4000
"""Characters whose form is kept: a writer may send all 1,114,112, at 200 bytes each."""


class _Table(dict[int, "int | str"]):
    """Maps code points for `str.translate`; filled on demand, since most scripts are never seen."""

    def __missing__(self, code: int) -> int | str:
        form = _form(code)
        if len(self) < MAX_CACHED:
            self[code] = form
        return form


def neutralise(line: bytes) -> str:
    r"""Make hidden characters visible: ``\x1b``, ``\u202e``, and ``\xff`` for an invalid byte.

    Backslashes of the writer are doubled if the line holds any escape of ours, so that the two
    can be told apart; other lines stay as they are.
    """
    if not line.translate(None, _PLAIN):
        return line.decode("ascii")
    text = line.decode("utf-8", "surrogateescape")
    # The usual case of other scripts, without a look at each character. A tab is shown as it is.
    if text.replace("\t", " ").isprintable():
        return text
    shown = text.translate(_SHOWN)
    # An escape is longer than what it stands for.
    escaped = len(shown) > len(text) + text.count("\\")
    return shown if escaped else text


def _form(code: int) -> int | str:
    """Return how a character is shown: by itself, or by its escape."""
    if 0xDC80 <= code <= 0xDCFF:  # A byte that is not UTF-8 (surrogateescape).
        return f"\\x{code - 0xDC00:02x}"
    if code == 0x09 or unicodedata.category(chr(code)) not in _HIDDEN:
        return code
    if code < 0x80:
        return f"\\x{code:02x}"
    # U+0085 as \x85 would look like the invalid byte 0x85.
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_SHOWN = _Table({code: _form(code) for code in range(0x80)} | {0x5C: "\\\\"})
