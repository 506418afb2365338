"""What the checks look at: the machine, the parent's services, and KMS. Tests bring their own."""

from __future__ import annotations

import hashlib
import os
import resource
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from enclave.kms.roots import FINGERPRINTS

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from datetime import datetime

    from enclave.agent import Agent
    from enclave.attester import Attester
    from enclave.credentials import Credentials
    from vsock_proxy.net.addresses import Address, ConnectProxy

MAX_FILE = 65_536
"""Bytes that are read of a file of the kernel's."""


@dataclass(frozen=True, slots=True)
class Tls:
    """A TLS connection to KMS that was made.

    Attributes:
        host: whose certificate it is.
        version: for example ``TLSv1.3``.
        root: the trusted certificate that proved it, DER; None if that cannot be told.
    """

    host: str
    version: str
    root: bytes | None

    def root_name(self) -> str:
        """Return the root's name, or its fingerprint; empty if it cannot be told."""
        if self.root is None:
            return ""
        digest = hashlib.sha256(self.root).hexdigest()
        names = {value: name for name, value in FINGERPRINTS.items()}
        return names.get(digest, f"a root with SHA-256 {digest}")


class Machine(Protocol):
    """Everything that the checks look at."""

    credential_service: Address | None
    """Where credentials are asked for; None: they come from elsewhere."""
    credentials_source: str
    """In words."""

    @property
    def proxy(self) -> Address | ConnectProxy | None:
        """Where vsock-proxy listens; None: connections go to KMS itself."""
        ...

    def attester(self) -> AbstractContextManager[Attester]:
        """Find the NSM or NitroTPM, for a `with` block."""
        ...

    def agent(self) -> Agent:
        """Return the agent, made once."""
        ...

    def now(self) -> datetime:
        """Return the system clock's time."""
        ...

    def read(self, path: str) -> str:
        """Return the text of a file of the kernel's."""
        ...

    def dial(self, address: Address) -> None:
        """Connect to an address, and close."""
        ...

    def loopback(self) -> None:
        """Connect to 127.0.0.1."""
        ...

    def endpoint(self) -> str:
        """Return the URL of KMS's endpoint."""
        ...

    def tls(self) -> Tls:
        """Connect to KMS through the proxy."""
        ...

    def credentials(self) -> Credentials:
        """Return the credentials that calls would be signed with."""
        ...

    def descriptors(self) -> tuple[int, int]:
        """Return how many descriptors this process may have, and has."""
        ...


def read_file(path: str) -> str:
    """Return the beginning of a text file."""
    with Path(path).open("rb") as f:
        return f.read(MAX_FILE).decode("ascii", "replace")


def try_loopback(timeout: float) -> None:
    """Connect to a socket of this process on 127.0.0.1.

    Raises:
        OSError: it is not possible.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout).close()


def count_descriptors() -> tuple[int, int]:
    """Return this process's soft limit of descriptors, and how many it has."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # One of them is of the listing itself.
    return soft, len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 (names, not paths)


def monotonic_deadline(timeout: float) -> float:
    """Return the moment of `time.monotonic` that is `timeout` seconds from now."""
    return time.monotonic() + timeout
