"""What the checks of a parent instance look at. Tests bring their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from parent.credentials.model import Credentials
    from parent.daemon.configuration import Configuration
    from vsock_proxy.net.addresses import Address

MAX_FILE = 65_536
"""Bytes that are read of a file of the kernel's."""

MAX_OUTPUT = 4096
"""Characters of a command's output."""

_TIMEOUT = 10.0
_SOURCE_TIMEOUT = 18.0  # Less than a check has: the process is ended, and its error told.


class Machine(Protocol):
    """Everything that the checks look at."""

    def configuration(self) -> Configuration:
        """Read the daemon's configuration."""
        ...

    def now(self) -> datetime:
        """Return the system clock's time."""
        ...

    def read(self, path: str) -> str:
        """Return the text of a small file."""
        ...

    def names(self, path: str) -> list[str]:
        """Return the names in a folder."""
        ...

    def image_size(self, path: Path) -> int:
        """Return how many bytes an enclave image has; its headers are read, not its content."""
        ...

    def may_use(self, path: str) -> bool:
        """Return whether this user may read and write a file, which exists."""
        ...

    def vsock(self) -> None:
        """Make a socket of AF_VSOCK."""
        ...

    def command(self, *words: str) -> tuple[int, str] | None:
        """Run a command; return its exit code and output, None if there is no such command."""
        ...

    def credentials(self, profile: str | None) -> Credentials:
        """Return what botocore's chain finds."""
        ...

    def daemon(self, address: Address) -> dict[str, Any]:
        """Return the state of the running daemon."""
        ...


class ThisMachine:
    """See `Machine`.

    Args:
        path: of the daemon's configuration.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: Configuration | None = None

    def configuration(self) -> Configuration:
        """See `Machine.configuration`."""
        from parent.daemon.configuration import load_configuration  # noqa: PLC0415 (PyYAML)

        if self._read is None:
            self._read = load_configuration(self._path, hint="name the file with --config")
        return self._read

    def now(self) -> datetime:
        """See `Machine.now`."""
        return datetime.now(UTC)

    def read(self, path: str) -> str:
        """See `Machine.read`."""
        with Path(path).open("rb") as f:
            return f.read(MAX_FILE).decode("utf-8", "replace")

    def names(self, path: str) -> list[str]:
        """See `Machine.names`."""
        return sorted(os.listdir(path))  # noqa: PTH208 (names, not paths)

    def image_size(self, path: Path) -> int:
        """See `Machine.image_size`."""
        from parent.eif.image import read  # noqa: PLC0415 (not for --help)

        with path.open("rb") as f:
            read(f)
            return os.fstat(f.fileno()).st_size

    def may_use(self, path: str) -> bool:
        """See `Machine.may_use`."""
        os.stat(path)  # noqa: PTH116 (one that does not exist is another error)
        return os.access(path, os.R_OK | os.W_OK)

    def vsock(self) -> None:
        """See `Machine.vsock`."""
        socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()

    def command(self, *words: str) -> tuple[int, str] | None:
        """See `Machine.command`."""
        return run_command(words)

    def credentials(self, profile: str | None) -> Credentials:
        """See `Machine.credentials`."""
        # As the daemon does it: without a terminal, on which botocore would ask for an MFA code.
        from parent.credentials.source_process import SourceProcess  # noqa: PLC0415 (not for --help)

        return SourceProcess(_SOURCE_TIMEOUT).load(profile, now=self.now())

    def daemon(self, address: Address) -> dict[str, Any]:
        """See `Machine.daemon`."""
        from parent.daemon.status_command import ask  # noqa: PLC0415 (not for --help)

        return ask(address)


def run_command(words: Sequence[str], *, timeout: float = _TIMEOUT) -> tuple[int, str] | None:
    """Run a command without input, for at most `timeout` seconds.

    Raises:
        OSError: it did not end in time, or cannot be executed.
    """
    program = shutil.which(words[0])
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 (words of our own, no shell)
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError(0, f"{words[0]} had not ended after {timeout:g} s") from None
    output = done.stdout.strip() or done.stderr.strip()
    return done.returncode, output[:MAX_OUTPUT].decode("utf-8", "replace")


def pool_size(text: str) -> int:
    """Return how many CPUs a list such as ``1,5-7`` has (Linux, "cpulists").

    Raises:
        ValueError: it is not such a list.
    """
    count = 0
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        if part:
            count += int(last if dash else first) - int(first) + 1
    return count


def in_pool(text: str, cpu: int) -> bool:
    """Return whether a CPU is in a list that `pool_size` takes."""
    for part in filter(None, text.strip().split(",")):
        first, dash, last = part.partition("-")
        if int(first) <= cpu <= int(last if dash else first):
            return True
    return False


def integer(text: str) -> int:
    """Return the number in a file of the kernel's; 0 if there is none."""
    with contextlib.suppress(ValueError):
        return int(text)
    return 0
