"""Serves HTTP CONNECT: each client names the host that it is relayed to.

Once the head is parsed and the host is connected, the client gets 200 and is a relayed connection
like any other: what follows the head, smuggled requests included, is bytes of the tunnel.
"""

from __future__ import annotations

import collections
import functools
import logging
import socket
from typing import TYPE_CHECKING

from vsock_proxy.net.addresses import TcpAddress
from vsock_proxy.net.dialing import reason_of
from vsock_proxy.net.http_connect import (
    ESTABLISHED,
    RequestError,
    TunnelRefusedError,
    authority_of,
    printable,
    rejection,
)
from vsock_proxy.net.resolving import look_up as system_look_up
from vsock_proxy.proxy.allowlist import Allowlist
from vsock_proxy.proxy.counters import (
    BAD_REQUEST,
    DOWN,
    NOT_ALLOWED,
    OTHER_HOSTS,
    UP,
    WRONG_CID,
    HostCounters,
    kind_of,
)
from vsock_proxy.proxy.egress_client import EgressOpening, RejectedClient
from vsock_proxy.proxy.forward import Egress, Forward, allow_line
from vsock_proxy.proxy.forwarder import Forwarder, Peer
from vsock_proxy.relay.resolver import (
    AddressPolicy,
    HostResolver,
    LookUp,
    LookUpThreads,
    Resolver,
    resolver_for,
)

if TYPE_CHECKING:
    from vsock_proxy.net.sockets import Stream
    from vsock_proxy.proxy.counters import ForwardSnapshot
    from vsock_proxy.relay.connecting import Opening
    from vsock_proxy.relay.connection import RelayedConnection
    from vsock_proxy.relay.loop import Loop

log = logging.getLogger(__name__)

MAX_HOSTS = 256
"""Entries of the allowlist that are counted one by one."""

MAX_ROUTES = 512
"""Allowed hosts that are remembered, with their addresses."""

_NOBODY = Allowlist(frozenset())


class EgressForwarder(Forwarder):
    """A `Forwarder` whose target is `Egress`.

    Args:
        loop: as of `Forwarder`.
        listener: as of `Forwarder`.
        forward: as of `Forwarder`; without an allowlist nothing is allowed.
        look_up: production code leaves it out.
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        forward: Forward,
        *,
        look_up: LookUp | None = None,
    ) -> None:
        self._look_up = look_up or system_look_up
        self._threads = LookUpThreads(loop.call_from_thread)
        self._routes: collections.OrderedDict[tuple[str, int], tuple[str, Resolver]]
        self._hosts: dict[str, HostCounters] = {}
        self._label_of: dict[RelayedConnection, str] = {}
        self._leaving: set[RejectedClient] = set()
        super().__init__(loop, listener, forward)

    def _apply(self, forward: Forward, resolver: Resolver | None = None) -> None:
        super()._apply(forward, resolver)
        assert isinstance(forward.target, Egress)  # noqa: S101 (`forwarder_for`)
        self._egress = forward.target
        self._allowlist = forward.allowlist or _NOBODY
        # They were checked against the list there was.
        self._routes = collections.OrderedDict()

    def snapshot(self) -> ForwardSnapshot:
        """Return the numbers of this moment."""
        hosts = {label: counters.copy() for label, counters in self._hosts.items()}
        for connection, label in self._label_of.items():
            up, down = connection.delivered()
            hosts[label].bytes[UP] += up
            hosts[label].bytes[DOWN] += down
        return super().snapshot().with_hosts(hosts)

    def abort(self) -> None:
        """See `Forwarder.abort`."""
        for client in list(self._leaving):
            client.close()
        super().abort()

    # What a client asks for

    def _new_opening(self, client: Stream, peer: object) -> EgressOpening:
        return EgressOpening(
            self._loop,
            client,
            peer,
            routes=self,
            events=self,
            timeout=self.forward.limits.connect_timeout,
        )

    def resolver_of(self, opening: EgressOpening, host: str, port: int) -> Resolver:
        """See `Routes.resolver_of`."""
        route = self._routes.get((host, port))
        if route is None:
            entry = self._allowlist.entry_for(host, port)
            if entry is None:
                raise RequestError(403, f"{authority_of(host, port)} is not on the {self._list}")
            if len(self._routes) >= MAX_ROUTES:
                self._routes.popitem(last=False)
            label = authority_of(entry, port)
            route = label, self._new_resolver(host, port, label)
            self._routes[host, port] = route
        else:
            self._routes.move_to_end((host, port))
        opening.entry, resolver = route
        return resolver

    def _new_resolver(self, host: str, port: int, label: str) -> Resolver:
        if self._egress.via is not None:
            return resolver_for(
                self._egress.via.to(host, port), AddressPolicy(), self._loop.call_from_thread
            )
        return HostResolver(
            TcpAddress(host, port),
            AddressPolicy(
                self.forward.family,
                self.forward.prefer,
                self._allowlist,
                log_rejected=False,
            ),
            self._loop.call_from_thread,
            look_up=self._look_up,
            run=functools.partial(self._threads.run, group=label),
        )

    @property
    def _list(self) -> str:
        return f"egress allowlist of the {self._egress.side}"

    # How it goes on

    def connected(self, opening: Opening, server: Stream, events: int) -> None:
        """See `ConnectEvents.connected`."""
        assert isinstance(opening, EgressOpening)  # noqa: S101 (made above)
        try:
            sent = opening.client.send(ESTABLISHED, socket.MSG_NOSIGNAL)
        except OSError:
            sent = 0
        if sent != len(ESTABLISHED):  # The client has gone: nothing else was ever sent to it.
            self._loop.forget(server.fileno())
            server.close()
            self._leave(opening, b"")
            return
        super().connected(opening, server, events)

    def _watch(self, opening: Opening, connection: RelayedConnection) -> None:
        assert isinstance(opening, EgressOpening)  # noqa: S101 (made above)
        label = self._label(opening.entry)
        self._hosts[label].relayed += 1
        self._label_of[connection] = label
        opening.watch_for(connection)

    def closed(self, connection: RelayedConnection, failure: OSError | None) -> None:
        """See `RelayEvents.closed`."""
        host = self._hosts[self._label_of.pop(connection)]
        host.bytes[UP] += connection.up.delivered
        host.bytes[DOWN] += connection.down.delivered
        super().closed(connection, failure)

    def rejected(self, opening: EgressOpening, error: RequestError | None) -> None:
        """See `Routes.rejected`."""
        if error is None:  # a client that closed before its head was complete
            self._leave(opening, b"")
            return
        allowed = error.status != 403
        self.counters.rejected[BAD_REQUEST if allowed else NOT_ALLOWED] += 1
        hint = "" if allowed else self._allow_hint(opening)
        self._warn(opening, "rejected", f"{error.reason}{'; ' if hint else ''}{hint}")
        self._leave(opening, rejection(error.status, error.reason, hint))

    def not_connected(self, opening: Opening, error: OSError) -> None:
        """See `ConnectEvents.not_connected`."""
        assert isinstance(opening, EgressOpening)  # noqa: S101 (made above)
        if not opening.entry and isinstance(error, TimeoutError):
            self.rejected(opening, RequestError(408, "no complete head in time"))
            return
        kind = kind_of(error)
        self.counters.connect_failures[kind] += 1
        if not opening.entry:  # the kernel did not let the loop watch it: not the client's fault
            reason = f"cannot read the request: {reason_of(error)}"
            self._warn(opening, "cannot serve", reason)
            self._leave(opening, rejection(503, reason))
            return
        self._hosts[self._label(opening.entry)].connect_failures[kind] += 1
        status, reason = _response_to(error)
        reason = f"{opening.authority}: {reason}"
        self._warn(opening, "cannot connect for", reason)
        self._leave(opening, rejection(status, reason))

    def start_soon(self, opening: EgressOpening) -> None:
        """See `Routes.start_soon`."""
        self._loop.later(functools.partial(self._start, opening))

    def _reject(self, client: Stream, peer: object, kind: str, reason: str) -> None:
        """Reject a client that has no place; see `Forwarder`."""
        self.counters.rejected[kind] += 1
        self._warnings.warning("%s: rejected %s: %s", self.forward.title, Peer(peer), reason)
        status = 403 if kind == WRONG_CID else 503
        RejectedClient(self._loop, client, rejection(status, reason), lambda _: None).part()

    # Ending

    def _leave(self, opening: EgressOpening, response: bytes) -> None:
        """Respond, and close once the client has read it. Its place is free then."""
        self._opening.discard(opening)
        opening.cancel()

        def left(client: RejectedClient) -> None:
            self._leaving.discard(client)
            self._admission.release()
            self._gone(opening.peer)
            self._use_places()

        client = RejectedClient(self._loop, opening.client, response, left)
        self._leaving.add(client)
        client.begin(watched=opening.watched)

    def _check_times(self) -> None:
        for client in list(self._leaving):
            client.check_time()
        self._threads.start_waiting()
        super()._check_times()

    def _label(self, entry: str) -> str:
        """Return the label that an entry is counted under."""
        if entry in self._hosts:
            return entry
        label = entry if len(self._hosts) < MAX_HOSTS else OTHER_HOSTS
        self._hosts.setdefault(label, HostCounters())
        return label

    def _allow_hint(self, opening: EgressOpening) -> str:
        if self._egress.via is not None:
            return f"to allow it, add --egress-allow {opening.authority}"
        return f"to allow it, add there: {allow_line(opening.host, opening.port)}"

    def _warn(self, opening: EgressOpening, what: str, reason: str) -> None:
        self._warnings.warning(
            "%s: %s %s: %s", self.forward.title, what, Peer(opening.peer), printable(reason)
        )


def forwarder_for(loop: Loop, listener: socket.socket, forward: Forward) -> Forwarder:
    """Return what serves a forward."""
    kind = EgressForwarder if isinstance(forward.target, Egress) else Forwarder
    return kind(loop, listener, forward)


def _response_to(error: OSError) -> tuple[int, str]:
    """Return status and reason for a target that cannot be connected to."""
    reason = reason_of(error)
    if isinstance(error, TunnelRefusedError):
        # It is the parent's word: passed on as that.
        known = error.status in (403, 502, 503, 504)
        return (error.status if known else 502), f"the parent: {error.reason or error.status}"
    if isinstance(error, PermissionError):
        return 403, reason
    return (504 if isinstance(error, TimeoutError) else 502), reason
