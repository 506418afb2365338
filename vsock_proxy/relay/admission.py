"""Decides which clients of a listener are served now and which wait their turn. No I/O."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vsock_proxy.relay.connection import RelayLimits

T = TypeVar("T")


class Admission(Generic[T]):
    """A connection limit and the queue in front of it, first come, first served.

    Attributes:
        limits: `connections` and `waiting` are used; may be replaced at any time.
        in_use: admitted clients that have not been released.
        queue: clients that wait for one of these to be released.
    """

    __slots__ = ("in_use", "limits", "queue")

    def __init__(self, limits: RelayLimits) -> None:
        self.limits = limits
        self.in_use = 0
        self.queue: collections.deque[T] = collections.deque()

    def has_room(self) -> bool:
        """Return whether one more client may be accepted from the kernel's backlog."""
        return len(self.queue) < self.limits.waiting

    def admit(self, client: T) -> bool:
        """Admit a client, or queue it; return whether it was admitted."""
        if self.in_use < self.limits.connections:
            self.in_use += 1
            return True
        self.queue.append(client)
        return False

    def release(self) -> None:
        """Give back the place of an admitted client."""
        self.in_use -= 1

    def requeue(self, client: T) -> None:
        """Give back the place of an admitted client that could not start: it is next again."""
        self.in_use -= 1
        self.queue.appendleft(client)

    def admit_queued(self) -> Iterator[T]:
        """Admit queued clients, one after another, for as long as there are places."""
        while self.queue and self.in_use < self.limits.connections:
            self.in_use += 1
            yield self.queue.popleft()

    def remove_queued(self, condition: Callable[[T], bool]) -> list[T]:
        """Remove and return the queued clients for which `condition` is true."""
        removed = [client for client in self.queue if condition(client)]
        if removed:
            gone = set(map(id, removed))
            self.queue = collections.deque(c for c in self.queue if id(c) not in gone)
        return removed
