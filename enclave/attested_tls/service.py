"""Attested TLS as a part of ``serve``: its listeners, its key, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from enclave.attested_tls import memory_files
from enclave.attested_tls.binding import (
    MAX_NONCE,
    MIN_NONCE,
    key_user_data,
    parse_nonce,
)
from enclave.attested_tls.connection import Limits
from enclave.attested_tls.documents import Documents, TooManyRequestsError
from enclave.attested_tls.first_request import MEDIA_TYPE
from enclave.attested_tls.identity import (
    LONG_VALIDITY,
    CurrentIdentity,
    Identity,
    make_identity,
)
from enclave.attested_tls.server import AttestedServer
from enclave.errors import AgentError, ConfigurationError
from vsock_proxy.net.listening import listening, local_address
from vsock_proxy.service.exposition import Family, Sample, single

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable
    from typing import Self

    from enclave.attested_tls.options import IngressTlsOptions
    from enclave.attester import Attester

log = logging.getLogger(__name__)

_PREFIX: Final = "enclave_agent_ingress_tls_"


class IngressTls:
    """Listens from the start, and serves once `start` was called. A context manager.

    Args:
        options: see there.
        attester: signs the documents.
        owner: user and group of the program, for files; None for those of this process.

    Raises:
        ListenError: an address cannot be listened on.
        ConfigurationError: files cannot be written.
    """

    def __init__(
        self,
        options: IngressTlsOptions,
        attester: Attester,
        *,
        owner: tuple[int, int] | None = None,
    ) -> None:
        self._options = options
        self._attester = attester
        self._documents: Documents | None = None
        self._servers: list[AttestedServer] = []
        self._listeners: list[socket.socket] = []
        self._programs: Identity | None = None
        self._held = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            for listen, _ in options.forwards:
                self._listeners.append(stack.enter_context(listening(listen)))
            if options.folder is not None:
                memory_files.check_in_memory(options.folder)
                self._programs = make_identity(
                    options.name, datetime.now(UTC), validity=LONG_VALIDITY
                )
                stack.enter_context(memory_files.written(options.folder, self._programs, owner))
            self._held = stack.pop_all()

    @property
    def descriptors(self) -> int:
        """File descriptors that it may need: two for each client."""
        return (2 * self._options.clients + 1) * len(self._options.forwards)

    async def start(self) -> None:
        """Serve on the running loop from now on.

        Raises:
            ConfigurationError: the TLS key cannot be used.
        """
        self._documents = self._make_documents()
        try:
            identity = CurrentIdentity(
                self._options.name, now=lambda: datetime.now(UTC), monotonic=time.monotonic
            )
        except OSError as e:
            raise ConfigurationError(
                f"--ingress-tls: OpenSSL cannot read the key from memory: {e.strerror}",
                hint="is /proc mounted?",
            ) from e
        limits = Limits(clients=self._options.clients)
        for listener, (_, target) in zip(self._listeners, self._options.forwards, strict=True):
            server = AttestedServer(target, identity, self._documents, limits=limits)
            server.accept_from(listener)
            self._servers.append(server)
            log.info("attested TLS on %s for %s", local_address(listener), target)

    def _make_documents(self) -> Documents:
        return Documents(self._attester, rate=self._options.rate)

    def families(self) -> Iterable[Family]:
        """Return the numbers of clients and documents; see `enclave.serve.metrics.Source`."""
        documents, servers = self._documents, self._servers
        clients = sum(len(server.connections) for server in servers)
        made, refused = (documents.made, documents.rejected) if documents else (0, 0)
        yield single(f"{_PREFIX}clients", "gauge", "Connected at this moment.", clients)
        yield single(f"{_PREFIX}documents_total", "counter", "Attestation documents made.", made)
        limits = {"clients": sum(server.rejected for server in servers), "documents": refused}
        samples = [Sample(number, (("limit", limit),)) for limit, number in limits.items()]
        text = "Clients and documents beyond a limit."
        yield Family(f"{_PREFIX}rejected_total", "counter", text, samples)

    async def drain(self, seconds: float) -> None:
        """Accept no more, and let what is under way end."""
        await asyncio.gather(*(server.drain(seconds) for server in self._servers))

    async def document(self, query: str) -> tuple[int, str, bytes]:
        """Return the document of the program's own key, for a program that ends TLS itself.

        Args:
            query: of the request: ``nonce=HEX``, or nothing.

        Returns:
            HTTP status, media type and body.
        """
        if self._programs is None:
            return 404, "text/plain", b"the agent ends TLS itself, and has documents there\n"
        if self._documents is None:  # a further process of the endpoint (--processes)
            self._documents = self._make_documents()
        user_data = key_user_data(self._programs.public_key)
        try:
            if not query:
                return 200, MEDIA_TYPE, await self._documents.cached(user_data)
            name, _, value = query.partition("=")
            nonce = parse_nonce(value) if name == "nonce" else None
            if nonce is None:
                reason = f"not ?nonce= with {MIN_NONCE} to {MAX_NONCE} bytes in hex\n"
                return 400, "text/plain", reason.encode()
            return 200, MEDIA_TYPE, await self._documents.fresh(user_data, nonce)
        except TooManyRequestsError as e:
            return 429, "text/plain", f"{e}\n".encode()
        except AgentError as e:
            log.warning("attested TLS: no attestation document: %s", e)
            return 503, "text/plain", b"no attestation document\n"

    def close(self) -> None:
        """Abort what is left, and remove files. May be repeated."""
        for server in self._servers:
            server.close()
        if self._documents is not None:
            self._documents.close()
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._held.close()
