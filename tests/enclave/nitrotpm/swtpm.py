"""A TPM 2.0 that others wrote: swtpm, on a UNIX socket. It is not a NitroTPM."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, Self

import pytest

from tests.waiting import TEST_TIMEOUT, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Swtpm:
    """A `TpmDevice` that is swtpm."""

    path = "swtpm"

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    @contextlib.contextmanager
    def open(self, *, timeout: float) -> Iterator[Self]:
        self._connection.settimeout(timeout)
        yield self

    def exchange(self, command: bytes, *, timeout: float = TEST_TIMEOUT) -> bytes:
        self._connection.settimeout(timeout)
        self._connection.sendall(command)
        return self._connection.recv(4096)


@contextlib.contextmanager
def swtpm(folder: Path) -> Iterator[Swtpm]:
    """Start swtpm with its state in a folder, as after a boot."""
    program = shutil.which("swtpm")
    if program is None:
        pytest.skip("there is no swtpm (Debian: apt-get install swtpm)")
    server = folder / "tpm"
    command = [
        program, "socket", "--tpm2", "--tpmstate", f"dir={folder}",
        "--server", f"type=unixio,path={server}", "--ctrl", f"type=unixio,path={folder / 'ctrl'}",
        "--flags", "not-need-init,startup-clear",
    ]  # fmt: skip
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        try:
            # Its socket is there a moment before it listens.
            eventually(lambda: connection.connect_ex(str(server)) == 0)
            yield Swtpm(connection)
        finally:
            process.kill()
