"""JSON whose values know their lines. No I/O."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from parent.policy.actions import PolicyError
from vsock_proxy.service.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator


class DuplicateError(ValueError):
    """An object has a name twice."""


@dataclass(frozen=True, slots=True)
class Place:
    """A JSON value, and where in which text it begins."""

    text: str
    start: int
    value: Any

    def decoded(self, origin: str, hint: str = "") -> Place:
        """Decode the whole text.

        Raises:
            PolicyError: it is not JSON.
        """
        try:
            value = parse_json(self.text, decode_unique)
        except json.JSONDecodeError as e:
            raise PolicyError(
                f"{origin}:{e.lineno}:{e.colno}: not JSON: {e.msg}", hint=hint
            ) from None
        except DuplicateError as e:
            raise PolicyError(f"{origin}: {e}") from None
        except ValueError:
            raise PolicyError(f"{origin}: not JSON: nested too deeply, or a huge number") from None
        return Place(self.text, _skip(self.text, 0), value)

    def line(self, index: int) -> int:
        """Return the line of a position."""
        return self.text.count("\n", 0, index) + 1

    def members(self) -> Iterator[tuple[str, int]]:
        """Yield the names in an object, and where their values begin."""
        index = _skip(self.text, self.start + 1)
        while self.text[index] != "}":
            name, index = _DECODER.raw_decode(self.text, index)
            index = _skip(self.text, _skip(self.text, index) + 1)
            yield name, index
            index = self._after(index)

    def elements(self) -> Iterator[tuple[int, Any]]:
        """Yield where the elements of a list begin, and the elements."""
        index = _skip(self.text, self.start + 1)
        for value in self.value:
            yield index, value
            index = self._after(index)

    def _after(self, index: int) -> int:
        _, index = _DECODER.raw_decode(self.text, index)
        index = _skip(self.text, index)
        return _skip(self.text, index + 1) if self.text[index] == "," else index


_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


def _skip(text: str, index: int) -> int:
    found = _SPACE.match(text, index)
    return found.end() if found else index


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON, as `json.loads` has its ``object_pairs_hook`` do.

    Raises:
        DuplicateError: a name stands there twice; readers of JSON disagree which one counts.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        # In one pass: a hostile policy has thousands of names.
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise DuplicateError(f"an object has the name {twice!a:.80} twice")
    return found


decode_unique: Final = json.JSONDecoder(object_pairs_hook=_unique_names).decode
"""For `parse_json`: JSON in which no name stands twice; otherwise a `DuplicateError`."""


def decode(data: str | bytes, origin: str) -> str:
    """Return the text of a JSON file, without its byte order mark.

    Raises:
        PolicyError: it is not text.
    """
    if isinstance(data, str):
        return data.removeprefix("\ufeff")
    try:
        # UTF-16 is what PowerShell's > writes.
        return data.decode(json.detect_encoding(data)).removeprefix("\ufeff")
    except UnicodeDecodeError as e:
        raise PolicyError(f"{origin}: not text (at byte {e.start})") from None
