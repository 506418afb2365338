"""What an agent and its worker say to each other: JSON behind four bytes of length. Pure."""

from __future__ import annotations

import json
from typing import Any

from enclave.errors import DecodingError

HEAD = 4

MAX_FRAME = 49_152
"""Bytes of one frame. Less than a pipe holds (pipe(7): 65536), so that writing a frame to a worker
that has read the one before never waits."""

_FORMAT = "worker's frame"


def encode(message: dict[str, Any]) -> bytes:
    """A message of JSON types as a frame.

    Raises:
        DecodingError: it is over `MAX_FRAME`.
    """
    body = json.dumps(message, separators=(",", ":")).encode()
    return _checked(len(body)).to_bytes(HEAD, "big") + body


def body_length(head: bytes) -> int:
    """Bytes that follow the four of `head`.

    Raises:
        DecodingError: more than `MAX_FRAME`.
    """
    return _checked(int.from_bytes(head, "big"))


def decode(body: bytes) -> dict[str, Any]:
    """A frame's body as a message.

    Raises:
        DecodingError: it is not a JSON object.
    """
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as e:
        raise DecodingError(_FORMAT, "not JSON") from e
    if not isinstance(message, dict):
        raise DecodingError(_FORMAT, "not a JSON object")
    return message


def _checked(length: int) -> int:
    if length > MAX_FRAME:
        raise DecodingError(_FORMAT, f"{length} bytes, more than {MAX_FRAME}")
    return length
