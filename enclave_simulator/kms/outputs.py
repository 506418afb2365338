"""The files and lines that ``enclave-simulator kms`` writes: its state, events, refusals."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator


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
        """Open the file, or create it.

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
        """Append an event. A full disk costs events, not responses; it is said once a line."""
        try:
            self._file.write(json.dumps(event).encode() + b"\n")
        except OSError as e:
            _say(f"event lost: {e.strerror}")


def report_refusal(message: str, reasons: tuple[str, ...]) -> None:
    """Write a refusal and its reasons to standard error."""
    for line in _lines(message, reasons):
        _say(line)


def _lines(message: str, reasons: tuple[str, ...]) -> Iterator[str]:
    yield f"refused: {message}"
    for reason in reasons:
        yield f"  {reason}"


def _say(line: str) -> None:
    # Policies and requests may contain control characters; a terminal must not obey them.
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    with contextlib.suppress(OSError, ValueError):  # nobody reads standard error any more
        print(f"enclave-simulator kms: {shown}", file=sys.stderr, flush=True)  # noqa: T201
