"""Files that somebody names: opened without waiting for anybody, or refused by name."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import IO, TYPE_CHECKING

from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading.

    Raises:
        ConfigurationError: it is not a regular file that can be read.
    """
    with named(path, "read"):
        stream = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 (only it has one)
    with stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise ConfigurationError(f"{path} is not a file")
        yield stream


@contextlib.contextmanager
def named(path: Path, what: str) -> Iterator[None]:
    """Name the file in the system's errors; `what` was to be done with it.

    Raises:
        ConfigurationError: in the place of an OSError.
    """
    try:
        yield
    except OSError as e:
        raise ConfigurationError(f"cannot {what} {path}: {e.strerror or e}") from e


def _without_waiting(path: str, flags: int) -> int:
    """Open; a FIFO that nobody writes to, too."""
    return os.open(path, flags | os.O_NONBLOCK)
