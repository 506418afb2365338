"""Taking connections from a listener, for as long as there is room for them."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Protocol

from vsock_proxy.net.dialing import reason_of
from vsock_proxy.net.sockets import INTERNET, accept, set_keepalive, set_tcp_options

if TYPE_CHECKING:
    import socket

    from vsock_proxy.net.sockets import Stream
    from vsock_proxy.relay.loop import Loop

ACCEPTS_PER_TURN = 8
"""Connections one listener may take before the others get their turn. Measured with 64 clients: a
connection takes 8 % more CPU with 64 of them, 15 % more with one (make bench BENCH=relay)."""


class Owner(Protocol):
    """Whom the connections are for."""

    def has_room(self) -> bool:
        """Tell whether one more may be taken from the kernel; asked before each."""
        ...

    def accepted(self, client: Stream, peer: object) -> None:
        """Take this one, of a peer with this address. Descriptors may be opened."""
        ...

    def paused(self, reason: str) -> None:
        """No more are taken before `Acceptor.resume`. Told once for the same reason."""
        ...


class Acceptor:
    """Accepts on one listening socket.

    Attributes:
        paused: connections stay in the kernel's backlog.
        pause_reason: why it was paused last; whoever sees that this is over empties it.
    """

    def __init__(self, loop: Loop, listener: socket.socket, owner: Owner) -> None:
        self.paused = False
        self.pause_reason = ""
        self._loop = loop
        self._owner = owner
        self._listener: socket.socket | None = listener
        self._family = int(listener.family)
        listener.setblocking(False)  # noqa: FBT003 (the standard library's signature)
        if self._family in INTERNET:
            set_tcp_options(listener)
            set_keepalive(listener)
        loop.add(listener.fileno(), self, select.EPOLLIN)

    def close(self) -> None:
        """Close the listener."""
        if self._listener is not None:
            self._loop.forget(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def pause(self, reason: str) -> None:
        """Leave further connections in the kernel's backlog.

        Without this the listener, which stays readable, would keep the loop turning.
        """
        if not self.paused and self._listener is not None:
            self.paused = True
            self._loop.modify(self._listener.fileno(), 0)
        if reason != self.pause_reason:
            self.pause_reason = reason
            self._owner.paused(reason)

    def resume(self) -> None:
        """There is, or may be, room again."""
        if self.paused and self._listener is not None:
            self.paused = False
            self._loop.modify(self._listener.fileno(), select.EPOLLIN)

    def ready(self, _fd: int, _events: int) -> None:
        """Somebody is at the listener."""
        self._loop.later(self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if self._listener is None:
                return
            if not self._owner.has_room():
                self.pause("too many connections wait already")
                return
            try:
                client, peer = accept(self._listener, self._family)
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue  # It left before we came.
            except OSError as e:
                self.pause(reason_of(e))
                return
            self._owner.accepted(client, peer)
