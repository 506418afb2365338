"""Variables in a policy's text: ``${aws:username}``. No I/O.

Source: IAM User Guide, "IAM policy elements: Variables and tags".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_VARIABLE = re.compile(r"\$\{([^{}]*)\}")
_DEFAULT = re.compile(r"([^,]*?)\s*,\s*'(.*)'", re.DOTALL)
_LITERALS = ("*", "?", "$")
"""What stands for itself: ``${*}`` is no wildcard."""

_AS_LITERAL = str.maketrans({"*": "\ue000", "?": "\ue001"})
_AS_PATTERN = str.maketrans({"[": "[[]", "\ue000": "[*]", "\ue001": "[?]"})
_AS_TEXT = str.maketrans({"\ue000": "*", "\ue001": "?"})


def expand(text: str, context: Mapping[str, tuple[str, ...]]) -> str | None:
    """Return a text with the values of its variables; None if one has no single value.

    A variable's value is literal: its ``*`` and ``?`` are told from wildcards by `as_pattern`.
    """
    found = {match: _value(match, context) for match in _VARIABLE.findall(text)}
    if None in found.values():
        return None
    return _VARIABLE.sub(lambda m: str(found[m[1]]).translate(_AS_LITERAL), text)


def _value(name: str, context: Mapping[str, tuple[str, ...]]) -> str | None:
    if name in _LITERALS:
        return name
    with_default = _DEFAULT.fullmatch(name)
    key, default = with_default.groups() if with_default else (name, None)
    values = context.get(key.strip().lower(), ())
    return values[0] if len(values) == 1 else default


def as_pattern(text: str) -> str:
    """Return an expanded text as `fnmatch` reads it: only ``*`` and ``?`` are wildcards."""
    return text.translate(_AS_PATTERN)


def as_text(text: str) -> str:
    """Return an expanded text as it reads."""
    return text.translate(_AS_TEXT)
