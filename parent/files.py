"""Files that a command is given, and the one that it makes."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import IO, TYPE_CHECKING, Any

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.files import named
from vsock_proxy.service.files import opened as opened  # noqa: PLC0414 (for who reads files with these)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def size(path: Path) -> int:
    """Return how many bytes a file has.

    Raises:
        ConfigurationError: it is not there, or out of reach.
    """
    with named(path, "read"):
        return path.stat().st_size


def read_small(path: Path, limit: int) -> bytes:
    """Return what is in a file of at most `limit` bytes.

    Raises:
        ConfigurationError: it cannot be read, or is larger.
    """
    with opened(path) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise ConfigurationError(f"{path} is larger than {limit} bytes")
    return data


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Make a file that is there whole or not at all.

    What is written goes beside it, and takes its place once the caller is done without an error.

    Raises:
        ConfigurationError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with named(path, "write"):
        try:
            with beside.open("xb+") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


def print_json(document: Any) -> None:
    """Print a document.

    In ASCII: what is printed may come from anywhere, and some characters beyond it do things to
    a terminal.
    """
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how many of `total` bytes are done; elsewhere, nothing.

    Yields:
        What is to be called with the size of each piece.
    """
    done, shown, tty = 0, -1, sys.stderr.isatty()

    def advance(size: int) -> None:
        nonlocal done, shown
        done += size
        percent = min(100, 100 * done // max(total, 1))
        if tty and percent != shown:
            shown = percent
            sys.stderr.write(f"\r{what}: {percent} %")
            sys.stderr.flush()

    try:
        yield advance
    finally:
        if shown >= 0:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
