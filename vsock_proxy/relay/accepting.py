"""Accepts connections on a listener while there is room for them."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Protocol

from vsock_proxy.net.dialing import reason_of
from vsock_proxy.net.listening import close_listener
from vsock_proxy.net.sockets import INTERNET, accept, set_keepalive, set_tcp_options

if TYPE_CHECKING:
    import socket

    from vsock_proxy.net.sockets import Stream
    from vsock_proxy.relay.loop import Loop

ACCEPTS_PER_TURN = 8
"""Connections one listener may take before the others get their turn. Measured with 64 clients: a
connection takes 8 % more CPU with 64 of them, 15 % more with one (make bench BENCH=relay)."""


class AcceptEvents(Protocol):
    """What an acceptor asks and reports."""

    def has_room(self) -> bool:
        """Return whether one more may be accepted; called before each."""
        ...

    def accepted(self, client: Stream, peer: object) -> None:
        """Take an accepted client with the address `peer`. Descriptors may be opened."""
        ...

    def paused(self, reason: str) -> None:
        """No more are accepted before `Acceptor.resume`. Called once for the same reason."""
        ...


class Acceptor:
    """Accepts on one listening socket, which it closes.

    Attributes:
        paused: whether connections are left in the kernel's backlog.
        pause_reason: why it was paused last; to be set to "" once that is over.
    """

    def __init__(self, loop: Loop, listener: socket.socket, events: AcceptEvents) -> None:
        self.paused = False
        self.pause_reason = ""
        self._loop = loop
        self._events = events
        self._listener: socket.socket | None = listener
        self._family = int(listener.family)
        listener.setblocking(False)  # noqa: FBT003 (the standard library's signature)
        if self._family in INTERNET:
            set_tcp_options(listener)
            set_keepalive(listener)

    def start(self) -> None:
        """Accept from now on. Raises OSError if the loop cannot watch the listener."""
        if self._listener is not None:
            self._loop.add(self._listener.fileno(), self, select.EPOLLIN)

    def close(self) -> None:
        """Close the listener."""
        if self._listener is not None:
            self._loop.forget(self._listener.fileno())
            close_listener(self._listener)
            self._listener = None

    def pause(self, reason: str) -> None:
        """Leave further connections in the kernel's backlog.

        The listener stays readable: if it were watched, the loop would spin.
        """
        if not self.paused and self._listener is not None:
            self.paused = True
            self._loop.modify(self._listener.fileno(), 0)
        if reason != self.pause_reason:
            self.pause_reason = reason
            self._events.paused(reason)

    def resume(self) -> None:
        """Accept again: there is, or may be, room."""
        if self.paused and self._listener is not None:
            self.paused = False
            self._loop.modify(self._listener.fileno(), select.EPOLLIN)

    def ready(self, _fd: int, _events: int) -> None:
        """Accept at the end of this turn: a connection is in the backlog."""
        self._loop.later(self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if self._listener is None:
                return
            if not self._events.has_room():
                self.pause("too many clients are queued")
                return
            try:
                client, peer = accept(self._listener, self._family)
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue  # The client closed it meanwhile.
            except OSError as e:
                self.pause(reason_of(e))
                return
            self._events.accepted(client, peer)
