"""``enclave-agent`` without the launcher: ``python -m tests.programs.bench.unlaunched FOLDER ...``.

The launcher answers each file a program opens, hundreds at a start: what it starts is slower to
start than in an enclave. Here the NSM is a UNIX socket, FOLDER/nsm, and vsock port N of the parent
is FOLDER/3_N, the folder being the launcher's own; nothing else differs from production.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enclave.cli import main
from enclave.cli.environment import Environment
from vsock_proxy.net.addresses import Address, UnixAddress, VsockAddress
from vsock_proxy.net.dialing import SocketDialer

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_MESSAGE = 0x4000


class SocketNsm:
    """The NSM, asked over a socket that keeps messages apart."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def exchange(self, request: bytes) -> bytes:
        """See `enclave.nsm.NsmDevice`."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(self._path)
            connection.send(request)
            return connection.recv(MAX_MESSAGE)


class FolderDialer:
    """vsock as the launcher has it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def dial(self, address: Address, timeout: float) -> socket.socket:
        """See `Dialer.dial`."""
        if isinstance(address, VsockAddress):
            address = UnixAddress(f"{self._folder}/{address.cid}_{address.port}")
        return SocketDialer().dial(address, timeout)


def environment(folder: Path) -> Environment:
    """What the command line takes from outside."""
    nsm = SocketNsm(folder / "nsm")

    def agent(**settings: Any) -> Any:
        from enclave.agent import Agent  # noqa: PLC0415 (as the command line has it)

        return Agent(device=nsm, dialer=FolderDialer(folder), **settings)

    @contextlib.contextmanager
    def device() -> Iterator[SocketNsm]:
        yield nsm

    return Environment(agent=agent, device=device)


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:], environment=environment(Path(sys.argv[1]))))
