"""The proxy as a daemon: listeners opened, connections relayed, and an end that is clean."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import resource
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vsock_proxy.forwarding import Forwarder
from vsock_proxy.listening import listening, local_address
from vsock_proxy.loop import Loop
from vsock_proxy.notify import notify
from vsock_proxy.relay import Limits
from vsock_proxy.targets import target_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vsock_proxy.addresses import Address

log = logging.getLogger(__name__)

DRAIN_TIMEOUT = 5.0
"""Seconds that open connections get to end by themselves once the daemon is told to stop."""

_SPARE_DESCRIPTORS = 64


@dataclass(frozen=True, slots=True)
class Forward:
    """One listener and where its connections go.

    Attributes:
        listen: accepted on this address.
        to: connected to this one; the caller has checked that it is allowed.
        family: AF_INET or AF_INET6 where only such addresses of `to` will do.
    """

    listen: Address
    to: Address
    family: socket.AddressFamily = socket.AF_UNSPEC


class Daemon:
    """Relays what comes in on some listeners, until it is told to stop.

    The listeners are open, and hold what comes in, from the constructor on.

    Attributes:
        forwarders: one for each forward, in order.
        addresses: what they listen on, with the real port where 0 was asked for.

    Raises:
        ListenError: an address cannot be listened on.
    """

    def __init__(
        self,
        forwards: Sequence[Forward],
        *,
        limits: Limits | None = None,
        drain_timeout: float = DRAIN_TIMEOUT,
        tick: float = 1.0,
    ) -> None:
        limits = limits or Limits()
        self.forwarders: list[Forwarder] = []
        self.addresses: list[Address] = []
        self._drain_timeout = drain_timeout
        self._stops = 0
        self._loop = Loop(tick=tick)
        self._listeners = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            undo.callback(self._loop.close)
            undo.enter_context(self._listeners)
            for forward in forwards:
                self._open(forward, limits)
            undo.pop_all()

    def _open(self, forward: Forward, limits: Limits) -> None:
        listener = self._listeners.enter_context(listening(forward.listen))
        target = target_for(forward.to, self._loop.call_from_thread, family=forward.family)
        name = str(forward.to).removeprefix("tcp://")
        self.forwarders.append(Forwarder(self._loop, listener, target, name=name, limits=limits))
        self.addresses.append(local_address(listener))
        log.info("listening on %s, forwarding to %s", self.addresses[-1], name)

    def run(self) -> None:
        """Serve until `stop`, then let connections end, then cut what is left. Only once."""
        try:
            notify()
            while not self._stops:
                self._loop.turn()
            notify("STOPPING=1")
            self._drain()
        finally:
            self._listeners.close()
            for forwarder in self.forwarders:
                forwarder.cut()
            self._loop.close()

    def stop(self) -> None:
        """Stop cleanly; a second call stops at once. For signal handlers and other threads."""
        self._stops += 1
        self._loop.call_from_thread(lambda: None)

    def _drain(self) -> None:
        for forwarder in self.forwarders:
            forwarder.stop_accepting()
        # Now, not at the end: by then a successor may be listening on the same path.
        self._listeners.close()
        deadline = self._loop.now + self._drain_timeout
        if self._open_connections():
            log.info(
                "stopping; %d connections get %g s to end",
                self._open_connections(),
                self._drain_timeout,
            )
        while self._open_connections() and self._loop.now < deadline and self._stops == 1:
            self._loop.turn()
        if self._open_connections():
            log.warning("cutting %d connections that are still open", self._open_connections())

    def _open_connections(self) -> int:
        return sum(f.in_use + f.waiting for f in self.forwarders)


def within_descriptors(limits: Limits) -> Limits:
    """Let this process have the descriptors that `limits` need; returns those it can keep.

    Systems start processes with 1024 of them for the sake of programs that use select(2); the
    hard limit is what is really allowed. Where that is too low, fewer connections are better
    than many that were accepted and find no descriptor for their other half.
    """
    wanted = 2 * limits.connections + limits.waiting + _SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return limits
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == wanted:
        return limits
    waiting = max(1, min(limits.waiting, (allowed - _SPARE_DESCRIPTORS) // 4))
    connections = max(1, (allowed - _SPARE_DESCRIPTORS - waiting) // 2)
    log.warning(
        "%d file descriptors (ulimit -Hn) are enough for %d connections, not for %d",
        allowed,
        connections,
        limits.connections,
    )
    return dataclasses.replace(limits, connections=connections, waiting=waiting)
