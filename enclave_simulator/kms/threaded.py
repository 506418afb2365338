"""The server in a thread of its own, for tests."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Self

from enclave_simulator.kms.server import IDLE_TIMEOUT, KmsServer
from enclave_simulator.kms.tls import CertificateAuthority

if TYPE_CHECKING:
    from enclave_simulator.kms.service import KmsService

_TIMEOUT = 10.0


class KmsSimulator:
    """A `KmsServer` in a thread of its own, on 127.0.0.1. A context manager.

    Attributes:
        service: the service, for example for its counters.
        faults: the faults to come.
        port: TCP port on 127.0.0.1.
        ca_pem: the CA certificate that clients must trust.
    """

    def __init__(self, service: KmsService, *, idle_timeout: float = IDLE_TIMEOUT) -> None:
        self.service = service
        self.faults = service.faults
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = listener.getsockname()[1]
        authority = CertificateAuthority(service.faults)
        self.ca_pem = authority.certificate_pem
        self._server = KmsServer(service, authority, listener, idle_timeout=idle_timeout)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="simulated KMS", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(timeout=_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def endpoint_url(self) -> str:
        """Return ``https://127.0.0.1:PORT``."""
        return f"https://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stop, and wait for the thread to end."""
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(timeout=_TIMEOUT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=_TIMEOUT)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()
