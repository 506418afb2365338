"""The listeners of the program's network, on the relay's loop in a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Final

from enclave.errors import AgentError
from enclave.network import hosts
from vsock_proxy.net.addresses import Address, TcpAddress
from vsock_proxy.proxy.allowlist import Allowlist
from vsock_proxy.proxy.daemon import Daemon
from vsock_proxy.proxy.forward import Egress, Forward
from vsock_proxy.service.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from enclave.network.options import NetworkOptions
    from vsock_proxy.proxy.counters import Snapshot

log = logging.getLogger(__name__)

SPARE_DESCRIPTORS: Final = 1024
"""For the endpoint, its clients, and KMS."""

DRAIN: Final = 5.0
"""Seconds in which what the program sent before it ended may still be delivered."""

_END: Final = 10.0
"""Seconds for the thread to end, once connections are drained."""


class Network:
    """Running listeners.

    Attributes:
        proxy: where the program finds the egress proxy; None if there is none.
        names: hosts that have a loopback address of their own.
    """

    def __init__(self, daemon: Daemon, *, egress: bool, names: frozenset[str]) -> None:
        self._daemon = daemon
        self.names = names
        self.proxy: TcpAddress | None = None
        if egress:
            address = daemon.addresses[0]
            assert isinstance(address, TcpAddress)  # noqa: S101 (`NetworkOptions.listen`)
            self.proxy = address

    @property
    def addresses(self) -> list[Address]:
        """What is listened on: egress, then targets, then ingress."""
        return self._daemon.addresses

    def snapshot(self) -> Snapshot:
        """Return the numbers of this moment. From any thread.

        Raises:
            AgentError: the loop does not respond.
        """
        return self._daemon.snapshot()


@contextlib.contextmanager
def network(options: NetworkOptions) -> Iterator[Network]:
    """Run the listeners for the length of a ``with`` block.

    Raises:
        ConfigurationError: two are on one address, or /etc/hosts cannot be written.
        ListenError: an address cannot be listened on.
        AgentError: the system has no more threads.
    """
    with contextlib.ExitStack() as held:
        names = [target.host for target in options.targets if target.listen is None]
        addresses = held.enter_context(hosts.named(names)) if names else {}
        daemon = Daemon(
            _forwards(options, addresses),
            drain_timeout=DRAIN,
            notify=lambda _: None,
            spare_descriptors=SPARE_DESCRIPTORS,
        )
        thread = threading.Thread(target=daemon.run, name="network", daemon=True)
        try:
            start_thread(thread)
        except AgentError:
            daemon.discard()
            raise
        held.callback(_stop, daemon, thread)
        yield Network(daemon, egress=options.listen is not None, names=frozenset(addresses))


def _stop(daemon: Daemon, thread: threading.Thread) -> None:
    daemon.stop()
    thread.join(DRAIN + _END)


def _forwards(options: NetworkOptions, addresses: Mapping[str, str]) -> list[Forward]:
    """Return the forwards: egress first, if there is one."""
    forwards = []
    if options.listen is not None:
        egress = Egress(options.proxy, "image")
        forwards.append(
            Forward(options.listen, egress, name="egress", allowlist=Allowlist(options.allowed))
        )
    for target in options.targets:
        listen = target.listen or TcpAddress(addresses[target.host.lower()], target.port)
        forwards.append(Forward(listen, options.proxy.to(target.host, target.port)))
    forwards += [Forward(listen, target) for listen, target in options.ingress]
    return forwards
