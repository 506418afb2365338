"""Files named on the command line: ``file://`` for text, ``fileb://`` for bytes."""

from __future__ import annotations

import os
from pathlib import Path

from enclave.errors import ConfigurationError

TEXT, BINARY = "file://", "fileb://"

MAX_FILE = 1_048_576
"""Bytes of a file that are read; no parameter of KMS's or the NSM's is a quarter of it."""


def read(path: str) -> bytes:
    """All of a file, ``~`` and variables in its name expanded.

    Raises:
        ConfigurationError: it cannot be read, or is longer than `MAX_FILE`.
    """
    try:
        with Path(os.path.expandvars(path)).expanduser().open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (OSError, ValueError, RuntimeError) as e:  # a null byte, no home
        reason = getattr(e, "strerror", None) or str(e)
        raise ConfigurationError(
            f"cannot read {path!r}: {reason}", hint="name a file that exists and may be read"
        ) from e
    if len(data) > MAX_FILE:
        raise ConfigurationError(
            f"{path!r} is longer than {MAX_FILE} bytes", hint="no parameter is a quarter as long"
        )
    return data


def write(path: str, data: bytes) -> None:
    """Write a file.

    Raises:
        ConfigurationError: it cannot be written.
    """
    try:
        Path(path).write_bytes(data)
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise ConfigurationError(
            f"cannot write {path!r}: {reason}", hint="name a file in a folder that may be written"
        ) from e


def loaded(value: str) -> str | bytes:
    """Return the text of ``file://PATH``, the bytes of ``fileb://PATH``, or the value itself.

    Raises:
        ConfigurationError: it cannot be read, or is not text where text belongs.
    """
    if value.startswith(BINARY):
        return read(value.removeprefix(BINARY))
    if not value.startswith(TEXT):
        return value
    try:
        return read(value.removeprefix(TEXT)).decode()
    except UnicodeDecodeError as e:
        raise ConfigurationError(
            f"{value!r} is not text in UTF-8", hint=f"read bytes with {BINARY}"
        ) from e
