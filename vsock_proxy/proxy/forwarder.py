"""From accepted to relayed: one listener, its connection limit, and what it has seen."""

from __future__ import annotations

import collections
import functools
import logging
from typing import TYPE_CHECKING

from vsock_proxy.net.addresses import Address, TcpAddress
from vsock_proxy.net.dialing import reason_of
from vsock_proxy.net.peers import cid_allowed
from vsock_proxy.proxy.counters import (
    NO_PLACE,
    NOT_ALLOWED,
    WRONG_CID,
    Counters,
    ForwardSnapshot,
    kind_of,
)
from vsock_proxy.relay.accepting import Acceptor
from vsock_proxy.relay.connecting import Opening
from vsock_proxy.relay.connection import Connection, Limits, reset
from vsock_proxy.service.throttle import Throttle

if TYPE_CHECKING:
    import socket
    from collections.abc import Container

    from vsock_proxy.net.sockets import Stream
    from vsock_proxy.relay.loop import Loop
    from vsock_proxy.relay.targets import Target

log = logging.getLogger(__name__)


class Forwarder:
    """Accepts connections on one listening socket and relays each to one target.

    Whatever goes wrong with a connection ends that connection, and no other, with a line in
    the log.
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        target: Target,
        *,
        name: str,
        limits: Limits | None = None,
        cids: Container[int] | None = None,
        allowed: bool = True,
    ) -> None:
        self.counters = Counters()
        self._loop = loop
        self._set(target, name, limits or Limits(), cids, allowed=allowed)
        self._warnings = Throttle(log, lambda: loop.now)
        self._relayed: set[Connection] = set()
        self._opening: set[Opening] = set()
        self._waiting: collections.deque[Opening] = collections.deque()
        self._acceptor = Acceptor(loop, listener, self)
        loop.every_tick(self._look_over)

    def _set(
        self,
        target: Target,
        name: str,
        limits: Limits,
        cids: Container[int] | None,
        *,
        allowed: bool,
    ) -> None:
        self.limits = limits
        self._target = target
        self._name = name
        self._cids = cids
        self._allowed = allowed

    def reconfigure(
        self,
        target: Target,
        *,
        name: str,
        limits: Limits,
        cids: Container[int] | None = None,
        allowed: bool = True,
    ) -> None:
        """Treat new connections otherwise from now on; those there are go on as they began."""
        self._set(target, name, limits, cids, allowed=allowed)
        self._go_on()

    @property
    def in_use(self) -> int:
        """Connections relayed or on the way to it: what the limit counts."""
        return len(self._relayed) + len(self._opening)

    @property
    def waiting(self) -> int:
        """Connections that wait for one of those to end."""
        return len(self._waiting)

    def snapshot(self, listen: Address, to: Address) -> ForwardSnapshot:
        """Return the numbers of this moment. On the loop only."""
        counters = self.counters
        return ForwardSnapshot(
            name=self._name,
            listen=listen,
            to=to,
            connections=len(self._relayed),
            connecting=len(self._opening),
            waiting=len(self._waiting),
            limit=self.limits.connections,
            accepted=counters.accepted,
            relayed=counters.relayed,
            waited=counters.waited,
            refused=dict(counters.refused),
            failed=dict(counters.failed),
            broken=dict(counters.broken),
            bytes_up=counters.bytes_up + sum(c.up.delivered for c in self._relayed),
            bytes_down=counters.bytes_down + sum(c.down.delivered for c in self._relayed),
            connect_seconds=counters.connect_seconds.snapshot(),
        )

    def retire(self) -> None:
        """Be forgotten by the loop, once there is no connection any more."""
        self._loop.no_more_ticks(self._look_over)

    def stop_accepting(self) -> None:
        """Close the listener; the connections there are go on."""
        self._acceptor.close()

    def cut(self) -> None:
        """End every connection at once."""
        for opening in (*self._opening, *self._waiting):
            opening.cancel()
            opening.client.close()
        self._opening.clear()
        self._waiting.clear()
        for connection in list(self._relayed):
            connection.close(ConnectionAbortedError("the proxy stops"))

    # Accepting

    def has_room(self) -> bool:
        """See `accepting.Owner.has_room`."""
        return len(self._waiting) < self.limits.waiting

    def accepted(self, client: Stream, peer: object) -> None:
        """See `accepting.Owner.accepted`."""
        self.counters.accepted += 1
        if not self._allowed:
            self._refuse(client, peer, NOT_ALLOWED, "the target is not on the allowlist")
        elif self._cids is not None and not cid_allowed(client, peer, self._cids):
            self._refuse(client, peer, WRONG_CID, "not one of the CIDs that may come here")
        else:
            self._admit(client, peer)

    def paused(self, reason: str) -> None:
        """See `accepting.Owner.paused`."""
        self._warnings.warning("%s: not accepting for the moment: %s", self._name, reason)

    def _admit(self, client: Stream, peer: object) -> None:
        opening = Opening(
            self._loop,
            client,
            peer,
            target=self._target,
            owner=self,
            timeout=self.limits.connect_timeout,
        )
        if self.in_use < self.limits.connections:
            self._opening.add(opening)
            opening.start()
            return
        self.counters.waited += 1
        self._waiting.append(opening)
        self._warnings.warning(
            "%s: %d connections, which is the limit (-w): a further one waits",
            self._name,
            self.in_use,
        )

    def _go_on(self) -> None:
        """There is, or may be, room again."""
        self._acceptor.resume()
        while self._waiting and self.in_use < self.limits.connections:
            opening = self._waiting.popleft()
            self._opening.add(opening)
            # It opens a descriptor, and this may be in the middle of a turn's events.
            self._loop.later(functools.partial(self._start, opening))

    # Connecting

    def _start(self, opening: Opening) -> None:
        if opening in self._opening:  # It was not given up meanwhile.
            opening.start()

    def connected(self, opening: Opening, server: Stream, events: int) -> None:
        """See `connecting.Owner.connected`."""
        self._opening.discard(opening)
        connection = Connection(
            self._loop,
            opening.client,
            server,
            limits=self.limits,
            owner=self,
            peer=opening.peer,
        )
        self._relayed.add(connection)
        self._acceptor.pause_reason = ""
        self.counters.relayed += 1
        self.counters.connect_seconds.observe(self._loop.now - opening.since)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s: connected for %s", self._name, _Peer(opening.peer))
        self._loop.hand_over(server.fileno(), connection)
        try:
            self._loop.add(opening.client.fileno(), connection)
        except OSError as e:
            connection.close(e)
            return
        connection.begin(events)

    def not_connected(self, opening: Opening, error: OSError) -> None:
        """See `connecting.Owner.not_connected`."""
        self.counters.failed[kind_of(error)] += 1
        self._opening.discard(opening)
        self._turn_away(opening.client, opening.peer, f"cannot connect: {reason_of(error)}")
        self._go_on()

    def starved(self, opening: Opening) -> None:
        """See `connecting.Owner.starved`."""
        self._opening.discard(opening)
        self._waiting.appendleft(opening)
        self._acceptor.pause("out of file descriptors")

    # Ending

    def closed(self, connection: Connection, failure: OSError | None) -> None:
        """See `relay.Owner.closed`."""
        self._relayed.discard(connection)
        self.counters.bytes_up += connection.up.delivered
        self.counters.bytes_down += connection.down.delivered
        if failure is not None:
            self.counters.broken[kind_of(failure)] += 1
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "%s: connection of %s ended after %d bytes up, %d down%s",
                self._name,
                _Peer(connection.peer),
                connection.up.delivered,
                connection.down.delivered,
                "" if failure is None else f": {reason_of(failure)}",
            )
        if self._waiting or self._acceptor.paused:
            self._go_on()

    def _look_over(self) -> None:
        """End what took too long, and try again what could not be done. Called once a tick."""
        for connection in list(self._relayed):
            if connection.expired():
                connection.close(TimeoutError("nothing delivered for too long"))
            else:
                # Not before: four system calls, which most connections do not live to need.
                connection.keep_alive()
        for opening in list(self._opening):
            opening.look_over()
        for opening in list(self._waiting):
            if self._loop.now >= opening.deadline:
                self._waiting.remove(opening)
                self._refuse(opening.client, opening.peer, NO_PLACE, "no place became free in time")
        self._go_on()
        self._warnings.catch_up()

    def _refuse(self, client: Stream, peer: object, kind: str, reason: str) -> None:
        self.counters.refused[kind] += 1
        self._turn_away(client, peer, reason)

    def _turn_away(self, client: Stream, peer: object, reason: str) -> None:
        self._warnings.warning("%s: refused %s: %s", self._name, _Peer(peer), reason)
        reset(client)


class _Peer:
    """A peer's address for the log, written only where the line is."""

    def __init__(self, name: object) -> None:
        self._name = name

    def __str__(self) -> str:
        match self._name:
            case (int(cid), int(port)):
                return f"vsock://{cid}:{port}"
            case (str(host), int(port), *_):
                return str(TcpAddress(host, port))
            case _:
                return "a UNIX peer"
