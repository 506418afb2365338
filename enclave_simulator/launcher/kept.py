"""Connections that were accepted for a thread that did not get them: the next accept has them.

Meanwhile the listener must show in `poll` that there are some. So a connection of our own, the
marker, stands in its queue, which no program ever gets.
"""

from __future__ import annotations

import collections
import os
import select
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from enclave_simulator.launcher.process import live_unix_sockets

if TYPE_CHECKING:
    from collections.abc import Callable

Accepted = tuple[socket.socket, str | bytes]
"""A connection, and its peer's name."""


@dataclass
class _Queue:
    """What is kept for one listener.

    Attributes:
        accepted: connections, the oldest first; there is one at least between two calls.
        marker: our end of the connection that stands in the listener's own queue, behind all of
            these; None if there is none.
    """

    accepted: collections.deque[Accepted] = field(default_factory=collections.deque)
    marker: socket.socket | None = None

    def close(self) -> None:
        for connection, _ in self.accepted:
            connection.close()
        if self.marker is not None:
            self.marker.close()


class KeptConnections:
    """Connections that are kept, by the inode of their listener."""

    def __init__(self, alive: Callable[[], set[int]] = live_unix_sockets) -> None:
        """Keep nothing yet.

        Args:
            alive: returns the inodes of all sockets that exist.
        """
        self._alive = alive
        self._name = b"\0enclave-kept/" + os.urandom(16).hex().encode()
        self._made = 0
        self._queues: dict[int, _Queue] = {}

    def __bool__(self) -> bool:
        """Return whether any connection is kept."""
        return bool(self._queues)

    def close(self) -> None:
        """Close all that is kept."""
        for queue in self._queues.values():
            queue.close()
        self._queues.clear()

    def release(self) -> None:
        """Close what is kept for listeners that no longer exist, as the kernel does."""
        for inode in self._queues.keys() - self._alive():
            self._queues.pop(inode).close()

    def available(self, inode: int) -> bool:
        """Return whether anything is kept for a listener."""
        return inode in self._queues

    def keep(self, inode: int, listening: socket.socket, accepted: Accepted) -> None:
        """Keep a connection for the next accept on a listener: it is older than the others."""
        queue = self._queues.setdefault(inode, _Queue())
        queue.accepted.appendleft(accepted)
        self._mark(queue, listening)

    def take(self, inode: int, listening: socket.socket) -> Accepted:
        """Accept a connection: one that is kept, or else one in the listener's queue.

        Raises:
            OSError: as `accept` does.
        """
        queue = self._queues.get(inode)
        if queue is None:
            return listening.accept()
        taken = queue.accepted.popleft()
        if not queue.accepted:
            try:
                self._remove_marker(queue, listening)
            except OSError:  # we have no descriptor for what stands before it
                queue.accepted.appendleft(taken)
                raise
        if queue.accepted:
            self._mark(queue, listening)
        else:
            del self._queues[inode]
        return taken

    def _mark(self, queue: _Queue, listening: socket.socket) -> None:
        if queue.marker is not None:
            return
        marker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._made += 1
        try:
            marker.bind(b"%s/%d" % (self._name, self._made))
            # If its queue is full it shows in `poll` anyway.
            marker.connect(listening.getsockname())
        except OSError:
            marker.close()
        else:
            queue.marker = marker

    def _remove_marker(self, queue: _Queue, listening: socket.socket) -> None:
        """Take the marker out of the listener's queue; keep what stands before it.

        Raises:
            OSError: as `accept` does; the marker is where it was.
        """
        while queue.marker is not None and is_readable(listening):
            try:
                connection, name = listening.accept()
            except ConnectionAbortedError:  # a client that is gone already
                continue
            if os.fsencode(name).startswith(self._name):
                connection.close()
                queue.marker.close()
                queue.marker = None
            else:
                queue.accepted.append((connection, name))


def is_readable(listening: socket.socket) -> bool:
    """Return whether accept would return at once: the program's socket may be blocking."""
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    return bool(poll.poll(0))
