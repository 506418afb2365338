"""Reads the files that a command gets, and replaces the one that it writes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import sys
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.console import printable, terminal_width
from vsock_proxy.service.files import named
from vsock_proxy.service.files import opened as opened  # noqa: PLC0414 (exported together with the others)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType


def size(path: Path) -> int:
    """Return how many bytes a file has.

    Raises:
        ConfigurationError: it does not exist, or is not accessible.
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
    """Write a file completely or not at all.

    The data goes to a file beside it, which replaces it if the block ends without an error. A
    symbolic link stays, and what it leads to is replaced; a file keeps its permissions.

    Raises:
        ConfigurationError: it cannot be written, or is there and no regular file: /dev/null would
            be one from then on.
    """
    with named(path, "write"), _ended_by_signals():
        permissions = _permissions(path)
        real = Path(os.path.realpath(path))
        beside = real.with_name(f".{real.name}.{os.getpid()}.tmp")
        try:
            with beside.open("xb+") as stream:
                if permissions is not None:
                    beside.chmod(permissions)
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(real)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


def check_is_none_of(output: Path, inputs: Iterable[tuple[str, Path | None]]) -> None:
    """Check that a file that is to be written is none of those that are read.

    Args:
        output: the file, which may not be there yet.
        inputs: each with the option that names it.

    Raises:
        ConfigurationError: it is one of them.
    """
    for option, path in inputs:
        try:
            same = path is not None and output.samefile(path)
        except OSError:
            continue  # One of them is not there, or cannot be read: that is told elsewhere.
        if same:
            raise ConfigurationError(
                f"{output} is to be written, and {option} names the same file",
                hint="name another file as --output",
            )


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the block as an error does, with exit status 128+N.

    By default they end the process at once, and leave behind what it was writing.
    """
    numbers = [
        number
        for name in ("SIGTERM", "SIGHUP")  # Windows has one of them.
        if (number := getattr(signal, name, None)) and signal.getsignal(number) is signal.SIG_DFL
    ]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # Another thread may not, and handles no signals.
    for number in numbers:
        signal.signal(number, _exit)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _permissions(path: Path) -> int | None:
    """Return the permissions of the file that is to be replaced; None if there is none."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise ConfigurationError(
            f"cannot write {path}: it is {kind}",
            hint="name a regular file, or one that is not there yet",
        )
    return stat.S_IMODE(mode)


def print_json(document: Any) -> None:
    """Print JSON in ASCII: values may come from anywhere, and hold what controls a terminal."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """Show on a terminal, in one line of it, what is being done; otherwise do nothing.

    Yields:
        A function to call with the text.
    """
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    width = terminal_width() - 1
    shown = ""

    def show(text: str) -> None:
        nonlocal shown
        if terminal and text != shown:
            shown = text
            sys.stderr.write(f"\r\x1b[K{printable(text)[:width]}")
            sys.stderr.flush()

    try:
        yield show
    finally:
        if shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@contextlib.contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how many of `total` bytes are done; otherwise do nothing.

    Yields:
        A function to call with the size of each piece.
    """
    done = 0
    with status_line() as show:

        def advance(size: int) -> None:
            nonlocal done
            done += size
            show(f"{what}: {min(100, 100 * done // max(total, 1))} %")

        yield advance
