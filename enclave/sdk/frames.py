"""Messages between an agent and its worker: JSON behind four bytes of length. No I/O."""

from __future__ import annotations

import json
from typing import Any

from enclave.errors import DecodingError
from vsock_proxy.service.json_text import parse_json

HEAD = 4

MAX_FRAME = 49_152
"""Bytes of one frame. Less than a pipe holds (pipe(7): 65536), so writing a frame never blocks if
the worker has read the one before."""

_FORMAT = "worker's frame"


def encode(message: dict[str, Any]) -> bytes:
    """Return a message of JSON types as a frame.

    Raises:
        DecodingError: the frame is longer than `MAX_FRAME`.
    """
    body = json.dumps(message, separators=(",", ":")).encode()
    return _checked(len(body)).to_bytes(HEAD, "big") + body


def body_length(head: bytes) -> int:
    """Return how many bytes follow the four of `head`.

    Raises:
        DecodingError: more than `MAX_FRAME`.
    """
    return _checked(int.from_bytes(head, "big"))


def decode(body: bytes) -> dict[str, Any]:
    """Return the message in a frame's body.

    Raises:
        DecodingError: the body is not a JSON object.
    """
    try:
        message = parse_json(body)
    except ValueError as e:
        raise DecodingError(_FORMAT, "not JSON") from e
    if not isinstance(message, dict):
        raise DecodingError(_FORMAT, "not a JSON object")
    return message


def _checked(length: int) -> int:
    if length > MAX_FRAME:
        raise DecodingError(_FORMAT, f"{length} bytes, more than {MAX_FRAME}")
    return length
