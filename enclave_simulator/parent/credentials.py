"""``enclave-simulator credentials``: the parent's credential service, with the simulated KMS's."""

from __future__ import annotations

import json
import os
import signal
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.threaded_server import Handler, Server
from vsock_proxy.net.addresses import VMADDR_CID_PARENT, VsockAddress, parse_address
from vsock_proxy.net.listening import listening, local_address
from vsock_proxy.net.ports import CREDENTIALS_PORT
from vsock_proxy.service.arguments import seconds
from vsock_proxy.service.console import inform
from vsock_proxy.service.notify import notify

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Callable

_LISTEN = VsockAddress(VMADDR_CID_PARENT, CREDENTIALS_PORT)
_LIFETIME = 3600
"""Seconds; a role's credentials last six hours on EC2, and one hour by default from STS."""

_LONGEST = 86400.0 * 365
"""Seconds; a negative lifetime makes expired credentials."""


def simulated_document(lifetime: float = _LIFETIME) -> dict[str, str]:
    """Return credentials that the simulated KMS accepts, valid for `lifetime` seconds from now."""
    expiration = datetime.now(UTC) + timedelta(seconds=lifetime)
    return {
        "AccessKeyId": SIMULATED_CREDENTIALS.access_key_id,
        "SecretAccessKey": SIMULATED_CREDENTIALS.secret_access_key,
        "Token": SIMULATED_CREDENTIALS.session_token or "",
        "Expiration": expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


class CredentialServer(Server):
    """Serves the container-credentials JSON on a listening socket, which it owns."""

    def __init__(
        self,
        listener: socket.socket,
        document: Callable[[], dict[str, Any]] = simulated_document,
    ) -> None:
        super().__init__(listener, _Handler)
        self.document = document


class _Handler(Handler):
    server: CredentialServer

    def do_GET(self) -> None:  # noqa: N802 (the base class calls it so)
        found = self.path == "/"
        content = self.server.document() if found else {"message": "no such path"}
        body = json.dumps(content).encode()
        self.respond(200 if found else 404, body, "application/json")


def add_parser(subparsers: Any) -> None:
    """Add the ``credentials`` command to ``enclave-simulator``."""
    parser = subparsers.add_parser(
        "credentials",
        help="serve credentials as the parent does",
        description="Serve the credentials that the simulated KMS accepts, as the parent does: "
        "container-credentials JSON over HTTP, until SIGTERM.",
    )
    add = parser.add_argument
    add("--listen", metavar="ADDRESS", default=str(_LISTEN),
        help="vsock://CID:PORT, unix:/PATH or tcp://HOST:PORT (default: %(default)s)")  # fmt: skip
    add("--lifetime", metavar="SECONDS", type=seconds(-_LONGEST, _LONGEST), default=_LIFETIME,
        help="how long the credentials of a response last (default: %(default)s)")  # fmt: skip
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: the address is invalid.
        ListenError: it cannot be listened on.
    """
    # Blocked here and so in every thread: they are pending until `sigwait`.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with listening(parse_address(options.listen)) as listener:
        server = CredentialServer(listener, lambda: simulated_document(options.lifetime))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        notify(f"READY=1\nSTATUS=listening on {local_address(listener)}")
        if not os.environ.get("NOTIFY_SOCKET"):
            # Started by a person, who has to learn which port is free.
            inform("enclave-simulator", f"listening on {local_address(listener)}")
        signal.sigwait(ends)
        server.shutdown()
    return 0
