"""Carries connections out of a program's own network to services of this machine.

The trampoline listens inside; accepting and connecting happen here. Threads, for the few
connections of a simulated platform: vsock-proxy's relay is for load. Connections beyond
`MAX_CONNECTIONS` wait in the kernel's queue.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vsock_proxy.net.addresses import TcpAddress

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 128
"""At the same time, to one service. Each takes two threads."""

_CONNECT_TIMEOUT = 10.0
_PAUSE = 0.05
"""Seconds to wait if descriptors or memory are scarce."""

_BUFFER = 65_536


@contextlib.contextmanager
def relaying(listener: socket.socket, target: TcpAddress) -> Iterator[None]:
    """Relay each connection to a listener, which it owns, to a target meanwhile."""
    relay = _Relay(listener, target)
    thread = threading.Thread(target=relay.run, name="simulated network", daemon=True)
    thread.start()
    try:
        yield
    finally:
        relay.stop()
        thread.join()
        relay.join()


class _Relay:
    def __init__(self, listener: socket.socket, target: TcpAddress) -> None:
        self._listener = listener
        self._target = target
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._places = threading.Semaphore(MAX_CONNECTIONS)
        self._stopped = threading.Event()

    def run(self) -> None:
        while self._places.acquire() and not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError as e:
                self._places.release()
                if not isinstance(e, ConnectionAbortedError):  # it left before it was accepted
                    self._stopped.wait(_PAUSE)
                continue
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no more threads
                client.close()
                self._places.release()
                self._stopped.wait(_PAUSE)
                continue
            self._threads = [thread, *(each for each in self._threads if each.is_alive())]

    def stop(self) -> None:
        """Accept no more, and end the connections. `join` waits for their threads."""
        self._stopped.set()
        self._places.release()
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # which ends accept
        self._listener.close()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _serve(self, client: socket.socket) -> None:
        try:
            self._carry(client)
        finally:
            self._places.release()

    def _carry(self, client: socket.socket) -> None:
        with client:
            try:
                server = socket.create_connection(
                    (self._target.host, self._target.port), timeout=_CONNECT_TIMEOUT
                )
            except OSError as e:
                log.warning("cannot connect to the simulated service %s: %s", self._target, e)
                return
            with server:
                server.settimeout(None)
                with self._lock:
                    if self._stopped.is_set():
                        return
                    self._open |= {client, server}
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join()
                with self._lock:
                    self._open -= {client, server}


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Carry bytes until the source ends, and pass the end on."""
    try:
        while data := source.recv(_BUFFER):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
