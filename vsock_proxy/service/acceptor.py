"""Accepts connections on an asyncio loop: one per turn, with pauses.

asyncio's own server accepts up to its backlog in one turn, and when the process is out of file
descriptors tries as often in every turn, each time with a traceback. Here a turn accepts one
connection, so that a flood of new ones does not hold up those that exist, and so that processes
which share the socket share the connections; and after a failure accepting pauses, with one call of
`accept_failed`. What is not accepted waits in the kernel's backlog.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

FAILURE_PAUSE: Final = 1.0
"""Seconds before the next attempt when the kernel refuses, for want of descriptors or memory."""


class AsyncAcceptEvents(Protocol):
    """Receives the connections; called on the loop's thread."""

    def may_accept(self) -> float:
        """Return 0 if one more connection may be accepted, or how many seconds to pause."""
        ...

    def accepted(self, client: socket.socket, peer: object) -> None:
        """Take a connection, of a peer with this address: serve it, or close it."""
        ...

    def accept_failed(self, error: OSError) -> None:
        """Note that accepting failed and pauses."""
        ...


class AsyncAcceptor:
    """Accepts from a listening socket until `close`. To be made on the loop's thread.

    Args:
        listener: the listening socket.
        events: what takes the connections.
    """

    def __init__(self, listener: socket.socket, events: AsyncAcceptEvents) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._events = events
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        listener.setblocking(False)  # noqa: FBT003 (the standard library's signature)
        self._watch()

    def close(self) -> None:
        """Accept no more; the listener itself stays open."""
        self._closed = True
        if self._timer is None:
            self._loop.remove_reader(self._listener)
        else:
            self._timer.cancel()

    def _watch(self) -> None:
        self._timer = None
        if not self._closed:
            self._loop.add_reader(self._listener, self._ready)

    def _pause(self, seconds: float) -> None:
        # Not watched meanwhile: a listener that stays readable would keep the loop turning.
        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(seconds, self._watch)

    def _ready(self) -> None:
        if pause := self._events.may_accept():
            self._pause(pause)
            return
        try:
            client, peer = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # Another process took it, or it closed before it was accepted.
        except OSError as e:
            self._events.accept_failed(e)
            self._pause(FAILURE_PAUSE)
            return
        self._events.accepted(client, peer)


def serve_accepted(
    client: socket.socket,
    make: Callable[[], asyncio.BaseProtocol],
    failed: Callable[[], None],
    making: dict[asyncio.Task[None], socket.socket],
    tls: ssl.SSLContext | None = None,
) -> None:
    """Connect an accepted socket to a protocol.

    Args:
        client: the socket; closed if that fails.
        make: makes the protocol.
        failed: called if the connection was never made; then `make`'s protocol hears nothing.
        making: holds the task and its socket until the connection is made. Shutting the socket
            down ends a TLS handshake at once.
        tls: the connection is made once its handshake is; None: no TLS.
    """

    async def serve() -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(make, client, ssl=tls)
        except OSError:
            client.close()
            failed()

    task = asyncio.get_running_loop().create_task(serve())
    making[task] = client
    task.add_done_callback(making.pop)
