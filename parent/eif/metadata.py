"""The metadata section: what the builder says about an image. It is not measured. No I/O.

Source: aws-nitro-enclaves-image-format, ``EifIdentityInfo``. JSON of five entries, of which the
last two may be anything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NoReturn

from parent.eif.errors import EifError

_MISSING = object()

MAX_DEPTH = 127
"""Levels of nested objects and lists: the limit of serde_json, which AWS's tools read with."""

BUILD_FIELDS = ("BuildTime", "BuildTool", "BuildToolVersion", "OperatingSystem", "KernelVersion")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the section says.

    Attributes:
        name: of the image.
        version: of the image.
        build: text by `BUILD_FIELDS`.
        docker: the output of ``docker inspect``, or None.
        custom: the user's own entries, or None.
    """

    name: str
    version: str
    build: dict[str, str] = field(hash=False)
    docker: Any = field(default=None, hash=False)
    custom: Any = field(default=None, hash=False)

    def encode(self) -> bytes:
        """Return the payload of a metadata section, byte for byte as AWS's builder would."""
        document = {
            "ImageName": self.name,
            "ImageVersion": self.version,
            "BuildMetadata": {name: self.build[name] for name in BUILD_FIELDS},
            "DockerInfo": in_order(self.docker),
            "CustomMetadata": in_order(self.custom),
        }
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def decode(data: bytes, *, offset: int) -> Metadata | None:
    """Read the payload of a metadata section; ``null`` in it is None.

    Args:
        data: the payload.
        offset: of the payload in the file.

    Raises:
        EifError: it is not a metadata section.
    """
    try:
        document = parse_json(data)
        if document is None:
            return None
        build = _take(document, "BuildMetadata", dict)
        return Metadata(
            _take(document, "ImageName", str),
            _take(document, "ImageVersion", str),
            {name: _take(build, name, str) for name in BUILD_FIELDS},
            in_order(_take(document, "DockerInfo", object)),
            in_order(_take(document, "CustomMetadata", object)),
        )
    except ValueError as e:
        raise EifError(f"the metadata section: {e}", offset=offset) from None


def parse_json(data: bytes) -> Any:
    """Parse JSON as AWS's tools would: strictly.

    Raises:
        ValueError: it is not JSON, is nested deeper than `MAX_DEPTH`, holds NaN or an infinite
            number, or text that is not Unicode.
    """
    try:
        value = json.loads(data.decode(), parse_constant=_refuse_constant)
        # A lone surrogate can be written in JSON and nowhere else; 1e999 is read as infinite.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    except ValueError:
        raise ValueError("not JSON in UTF-8") from None
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    """Check that no recursion over the value, ours or the library's, comes to its limit."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for each in level for inner in _inside(each) if _inside(inner) is not _NONE]
    if level:
        raise ValueError("JSON nested too deeply")


_NONE: tuple[Any, ...] = ()


def _inside(value: Any) -> Any:
    """Return what is in an object or a list; `_NONE` for other values."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else _NONE


def in_order(value: Any) -> Any:
    """Sort the names of objects at every level, as AWS's tools do to what they do not know."""
    if isinstance(value, dict):
        return {name: in_order(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        return [in_order(item) for item in value]
    return value


def _take(document: Any, name: str, kind: type) -> Any:
    value = document.get(name, _MISSING) if isinstance(document, dict) else _MISSING
    if value is _MISSING or not isinstance(value, kind):
        raise ValueError(f"{name} is missing or of the wrong type")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
