"""Opens regular files without blocking; errors name the file."""

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
        ConfigurationError: it cannot be read, or is not a regular file.
    """
    with named(path, "read"):
        stream = open(path, "rb", opener=_non_blocking)  # noqa: SIM115 (only it has one)
    with stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise ConfigurationError(f"{path} is not a regular file")
        yield stream


@contextlib.contextmanager
def named(path: Path, what: str) -> Iterator[None]:
    """Replace an OSError by an error that names the file; `what` is the verb in it.

    Raises:
        ConfigurationError: instead of an OSError.
    """
    try:
        yield
    except OSError as e:
        raise ConfigurationError(f"cannot {what} {path}: {e.strerror or e}") from e


def _non_blocking(path: str, flags: int) -> int:
    """Open, without waiting for the other end of a FIFO."""
    # Windows has no FIFOs among its files, nor the flag.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
