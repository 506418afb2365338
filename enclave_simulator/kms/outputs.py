"""The files and lines that ``enclave-simulator kms`` writes: its state, events, refusals."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Self

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.console import hint, warn

_PROGRAM = "enclave-simulator"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, for its owner alone: there is key material in it.

    Raises:
        OSError: it cannot be written; a file that was there before is unchanged.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class EventFile:
    """Appends events to a file, one line of JSON each."""

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Raises:
            ConfigurationError: it cannot be written.
        """
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as e:
            raise ConfigurationError(f"cannot write {path}: {e.strerror}") from e

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, event: dict[str, Any]) -> None:
        """Append an event. If that fails, the event is lost and the response is not."""
        try:
            self._file.write(json.dumps(event).encode() + b"\n")
        except OSError as e:
            warn(_PROGRAM, f"event lost: {e.strerror}")


def report_refusal(message: str, reasons: tuple[str, ...]) -> None:
    """Print a refusal, and its reasons as hints, on standard error."""
    warn(_PROGRAM, f"refused: {message}")
    for reason in reasons:
        hint(_PROGRAM, reason)


def report_lost_change(path: Path, error: OSError) -> None:
    """Print that the state could not be written."""
    warn(_PROGRAM, f"cannot write {path}: {error.strerror}; the change is lost at the next start")
