"""Serves one forward: accepts clients, enforces its limits, relays, counts."""

from __future__ import annotations

import collections
import functools
import logging
from typing import TYPE_CHECKING

from vsock_proxy.net.addresses import TcpAddress
from vsock_proxy.net.dialing import reason_of
from vsock_proxy.net.listening import local_address
from vsock_proxy.net.peers import cid_allowed
from vsock_proxy.proxy.counters import (
    DOWN,
    NOT_ALLOWED,
    OVER_CID_LIMIT,
    OVER_CID_RATE,
    OVER_LIMIT,
    UP,
    WRONG_CID,
    Counters,
    ForwardSnapshot,
    Gauges,
    kind_of,
)
from vsock_proxy.proxy.forward import Egress, Forward
from vsock_proxy.relay.accepting import Acceptor
from vsock_proxy.relay.admission import Admission
from vsock_proxy.relay.connecting import Opening
from vsock_proxy.relay.connection import RelayedConnection, reset
from vsock_proxy.relay.resolver import AddressPolicy, Resolver, resolver_for
from vsock_proxy.service.budget import Budget, BudgetsByCid
from vsock_proxy.service.throttle import Throttle

if TYPE_CHECKING:
    import socket

    from vsock_proxy.net.sockets import Stream
    from vsock_proxy.relay.loop import Loop

log = logging.getLogger(__name__)

_TURNED_AWAY_PER_SECOND = 500
"""Clients of enclaves that open too many a second, closed at 0.02 ms each; further ones wait in the
kernel's backlog, those of other enclaves on this listener too."""


class Forwarder:
    """Accepts clients on one listening socket and relays each to the target of a forward.

    An error of one connection ends this connection alone, and is logged.

    Args:
        loop: the loop; everything here is called on its thread, the constructor excepted.
        listener: the listening socket; it is closed by `stop_accepting`.
        forward: the settings.
        resolver: finds the target's addresses; production code leaves it out.

    Attributes:
        address: what it listens on, with the real port where the settings have 0.
        forward: the settings of new connections.
        counters: what happened so far; bytes of open connections are not included.
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        forward: Forward,
        *,
        resolver: Resolver | None = None,
    ) -> None:
        self.address = local_address(listener)
        self.counters = Counters()
        self._loop = loop
        self._apply(forward, resolver)
        self._admission: Admission[Opening] = Admission(forward.limits)
        self._by_cid: collections.Counter[int] = collections.Counter()
        self._arrivals = BudgetsByCid(forward.limits.per_cid_per_second)
        self._turned_away = Budget(_TURNED_AWAY_PER_SECOND, burst=1.0)
        self._warnings = Throttle(log, lambda: loop.now)
        self._relayed: set[RelayedConnection] = set()
        self._opening: set[Opening] = set()
        self._acceptor = Acceptor(loop, listener, self)

    def _apply(self, forward: Forward, resolver: Resolver | None = None) -> None:
        self.forward = forward
        self._allowed = forward.allowed
        if isinstance(forward.target, Egress):
            return  # its clients name their targets, see `EgressForwarder`
        policy = AddressPolicy(forward.family, forward.prefer, forward.allowlist)
        self._resolver = resolver or resolver_for(
            forward.target, policy, self._loop.call_from_thread
        )

    def start(self) -> None:
        """Accept clients from now on. Raises OSError if the loop cannot watch the listener."""
        self._acceptor.start()
        self._loop.every_tick(self._check_times)

    def reconfigure(self, forward: Forward) -> None:
        """Use other settings for new connections; those there are go on as they began."""
        self._apply(forward)
        self._admission.limits = forward.limits
        self._arrivals.change(forward.limits.per_cid_per_second)
        self._use_places()

    @property
    def in_use(self) -> int:
        """Connections relayed and connecting: what the connection limit counts."""
        return self._admission.in_use

    @property
    def waiting(self) -> int:
        """Queued clients."""
        return len(self._admission.queue)

    @property
    def open(self) -> int:
        """Clients of every kind."""
        return self.in_use + self.waiting

    def snapshot(self) -> ForwardSnapshot:
        """Return the numbers of this moment."""
        counters = self.counters.copy()
        delivered = [connection.delivered() for connection in self._relayed]
        # Both are there, also if nothing was relayed yet.
        counters.bytes[UP] += sum(up for up, _ in delivered)
        counters.bytes[DOWN] += sum(down for _, down in delivered)
        return ForwardSnapshot(
            name=self.forward.title,
            listen=self.address,
            target=self.forward.target,
            gauges=Gauges(
                connections=len(self._relayed),
                connecting=len(self._opening),
                waiting=self.waiting,
                connection_limit=self.forward.limits.connections,
            ),
            counters=counters,
        )

    def stop_accepting(self) -> None:
        """Close the listener; open connections go on."""
        self._acceptor.close()

    def abort(self) -> None:
        """Close every connection now."""
        for opening in (*self._opening, *self._admission.remove_queued(lambda _: True)):
            opening.cancel()
            self._gone(opening.peer)
            opening.client.close()
        for _ in self._opening:
            self._admission.release()
        self._opening.clear()
        for connection in list(self._relayed):
            connection.close(ConnectionAbortedError("the proxy stops"))

    def close(self) -> None:
        """Leave the loop. For a forwarder that accepts no clients and has none any more."""
        self._loop.no_more_ticks(self._check_times)

    # Accepting

    def has_room(self) -> bool:
        """See `AcceptEvents.has_room`."""
        return self._admission.has_room()

    def accepted(self, client: Stream, peer: object) -> None:
        """See `AcceptEvents.accepted`."""
        self.counters.accepted += 1
        forward = self.forward
        if not self._allowed:
            self._reject(client, peer, NOT_ALLOWED, "the target is not on the allowlist")
        elif forward.cids is not None and not cid_allowed(client, peer, forward.cids):
            self._reject(client, peer, WRONG_CID, "its CID is not allowed")
        elif not self._arrives_in_time(peer):
            self._turn_away(client, peer)
        elif not self._count(peer):
            self._reject(client, peer, OVER_CID_LIMIT, "its enclave has as many as it may")
        else:
            self._admit(client, peer)

    def paused(self, reason: str) -> None:
        """See `AcceptEvents.paused`."""
        self._warnings.warning("%s: accepting is paused: %s", self.forward.title, reason)

    def _arrives_in_time(self, peer: object) -> bool:
        """Return whether its CID may open one more at this moment."""
        cid = _cid_of(peer)
        return cid is None or self._arrivals.take(cid, self._loop.now)

    def _turn_away(self, client: Stream, peer: object) -> None:
        """Close one of too many new clients; after many of them, accept no more for a while."""
        self.counters.rejected[OVER_CID_RATE] += 1
        reason = "its enclave opens too many a second"
        self._close(client, peer, "rejected", reason)
        if not self._turned_away.take(self._loop.now):
            self._acceptor.pause(f"a client is rejected: {reason}")

    def _count(self, peer: object) -> bool:
        """Count one more client of its CID, if it may have one more."""
        cid = _cid_of(peer)
        if cid is not None:
            most = self.forward.limits.per_cid
            if most and self._by_cid[cid] >= most:
                return False
            self._by_cid[cid] += 1
        return True

    def _gone(self, peer: object) -> None:
        """Count one client less of its CID."""
        cid = _cid_of(peer)
        if cid is not None:
            self._by_cid[cid] -= 1
            if not self._by_cid[cid]:
                del self._by_cid[cid]

    def _new_opening(self, client: Stream, peer: object) -> Opening:
        return Opening(
            self._loop,
            client,
            peer,
            resolver=self._resolver,
            events=self,
            timeout=self.forward.limits.connect_timeout,
        )

    def _admit(self, client: Stream, peer: object) -> None:
        opening = self._new_opening(client, peer)
        if self._admission.admit(opening):
            self._opening.add(opening)
            opening.start()
            return
        self.counters.waited += 1
        self._warnings.warning(
            "%s: connection limit reached (%d); new clients are queued",
            self.forward.title,
            self.forward.limits.connections,
        )

    def _use_places(self) -> None:
        """Accept, and start queued clients, if there is room."""
        if not self._turned_away.wait(self._loop.now):
            self._acceptor.resume()
        for opening in self._admission.admit_queued():
            self._opening.add(opening)
            # It opens a descriptor, and this may be in the middle of a turn's events.
            self._loop.later(functools.partial(self._start, opening))

    # Connecting

    def _start(self, opening: Opening) -> None:
        if opening in self._opening:  # It has not timed out meanwhile.
            opening.start()

    def connected(self, opening: Opening, server: Stream, events: int) -> None:
        """See `ConnectEvents.connected`."""
        self._opening.discard(opening)
        connection = RelayedConnection(
            self._loop,
            opening.client,
            server,
            limits=self.forward.limits,
            events=self,
            peer=opening.peer,
        )
        self._relayed.add(connection)
        self._acceptor.pause_reason = ""
        self.counters.relayed += 1
        self.counters.connect_seconds.observe(self._loop.now - opening.since)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s: connected for %s", self.forward.title, Peer(opening.peer))
        self._loop.hand_over(server.fileno(), connection)
        try:
            self._watch(opening, connection)
        except OSError as e:
            connection.close(e)
            return
        connection.begin(events, sent=opening.early, received=opening.early_response)

    def _watch(self, opening: Opening, connection: RelayedConnection) -> None:
        """Have the loop send the events of the client. Raises OSError if it cannot."""
        self._loop.add(opening.client.fileno(), connection)

    def not_connected(self, opening: Opening, error: OSError) -> None:
        """See `ConnectEvents.not_connected`."""
        self.counters.connect_failures[kind_of(error)] += 1
        self._opening.discard(opening)
        self._admission.release()
        self._gone(opening.peer)
        self._close(opening.client, opening.peer, "cannot connect for", reason_of(error))
        self._use_places()

    def starved(self, opening: Opening) -> None:
        """See `ConnectEvents.starved`."""
        self._opening.discard(opening)
        self._admission.requeue(opening)
        self._acceptor.pause("out of file descriptors")

    # Ending

    def closed(self, connection: RelayedConnection, failure: OSError | None) -> None:
        """See `RelayEvents.closed`."""
        self._relayed.discard(connection)
        self._admission.release()
        self._gone(connection.peer)
        self.counters.bytes[UP] += connection.up.delivered
        self.counters.bytes[DOWN] += connection.down.delivered
        if failure is not None:
            self.counters.broken[kind_of(failure)] += 1
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "%s: connection of %s ended after %d bytes up, %d down%s",
                self.forward.title,
                Peer(connection.peer),
                connection.up.delivered,
                connection.down.delivered,
                "" if failure is None else f": {reason_of(failure)}",
            )
        if self._admission.queue or self._acceptor.paused:
            self._use_places()

    def _check_times(self) -> None:
        """End what timed out, and retry what failed for lack of resources. Called once a tick."""
        for connection in list(self._relayed):
            if connection.expired():
                connection.close(TimeoutError("idle for too long"))
            else:
                # Not before: four system calls, which most connections do not live to need.
                connection.keep_alive()
        for opening in list(self._opening):
            opening.check_times()
        now = self._loop.now
        for opening in self._admission.remove_queued(lambda queued: now >= queued.deadline):
            self._gone(opening.peer)
            self._reject(
                opening.client, opening.peer, OVER_LIMIT, "no connection ended in time for it"
            )
        self._use_places()
        self._warnings.catch_up()

    def _reject(self, client: Stream, peer: object, kind: str, reason: str) -> None:
        self.counters.rejected[kind] += 1
        self._close(client, peer, "rejected", reason)

    def _close(self, client: Stream, peer: object, what: str, reason: str) -> None:
        self._warnings.warning("%s: %s %s: %s", self.forward.title, what, Peer(peer), reason)
        reset(client)


def _cid_of(peer: object) -> int | None:
    """Return the CID in a peer's address; None for one of another kind."""
    match peer:
        case (int(cid), int()):
            return cid
        case _:
            return None


class Peer:
    """A peer's address, turned into text only if the log line is written."""

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
