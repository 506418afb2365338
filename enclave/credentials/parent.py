"""Credentials from the parent, over vsock.

The parent is not trusted: wrong credentials can keep KMS from answering, and they decide whose
account answers. A key named by its ARN stays that key, since the exchange compares it; an alias is
a key of whatever account the credentials are of (docs/credentials.md).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from enclave.clock import Clock, SystemClock
from enclave.credentials.document import parse_credentials
from enclave.credentials.renewed import RenewedCredentials
from enclave.credentials.service import fetch
from vsock_proxy.net.addresses import VMADDR_CID_PARENT, Address, VsockAddress
from vsock_proxy.net.dialing import Dialer, SocketDialer
from vsock_proxy.net.ports import CREDENTIALS_PORT

if TYPE_CHECKING:
    from collections.abc import Callable

    from enclave.credentials.model import Credentials

DEFAULT_SERVICE = VsockAddress(VMADDR_CID_PARENT, CREDENTIALS_PORT)
"""Where the parent's credential service listens."""


class ParentCredentials(RenewedCredentials):
    """Credentials of the parent's credential service. Safe for many threads, and over forks.

    Args:
        address: where the service listens.
        dialer: where connections come from; production code leaves it out.
        clock: time; production code leaves it out.
        uniform: random number between two; production code leaves it out.
        timeout: seconds for one request and its response.
    """

    def __init__(
        self,
        address: Address = DEFAULT_SERVICE,
        *,
        dialer: Dialer | None = None,
        clock: Clock | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        timeout: float = 5.0,
    ) -> None:
        dialer = dialer or SocketDialer()
        clock = clock or SystemClock()

        def ask() -> Credentials:
            return parse_credentials(fetch(address, dialer, timeout), now=clock.now())

        super().__init__(
            ask,
            str(address),
            clock=clock,
            uniform=uniform,
            silence_hint="is the parent's credential service running? See its log",
        )
