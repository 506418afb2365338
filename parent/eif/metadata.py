"""The metadata section: what the builder says about an image. It is not measured. No I/O.

Source: aws-nitro-enclaves-image-format, ``EifIdentityInfo``. JSON of five entries, of which the
last two may be anything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from parent.eif.errors import EifError
from vsock_proxy.service import json_text

_MISSING = object()

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
        ValueError: it is not JSON, is nested deeper than `json_text.MAX_DEPTH`, holds NaN or an
            infinite number, or text that is not Unicode.
    """
    try:
        value = json_text.parse_json(data.decode(), _decode)
        # A lone surrogate can be written in JSON and nowhere else; 1e999 is read as infinite.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except json_text.JsonDepthError:
        raise
    except ValueError:
        raise ValueError("not JSON in UTF-8") from None
    return value


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


_decode: Final = json.JSONDecoder(parse_constant=_refuse_constant).decode
