"""The event loop of the relay: one thread, one epoll instance, edge-triggered."""

from __future__ import annotations

import collections
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Callable

BUFFER_SIZE = 128 * 1024
"""Bytes moved by one read. Measured: larger falls out of the cache, smaller costs calls."""

SCARCE_BUFFER_SIZE = 4 * 1024
MAX_HELD = 64 * 1024 * 1024
"""Bytes that all connections together may hold for slow readers before reads are made small. A peer
that never reads costs one buffer, and a hostile enclave can have a thousand such peers."""

MAX_EVENTS = 1024

EDGES = select.EPOLLIN | select.EPOLLPRI | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
"""Everything a stream can report, registered once: nothing has to be re-registered later."""


class Handler(Protocol):
    """Handles the events of file descriptors."""

    def ready(self, fd: int, events: int) -> None:
        """Handle `events` (an epoll mask) of `fd`. May close descriptors, but not open any."""
        ...


class Resumable(Protocol):
    """Work that was stopped by its budget."""

    def resume(self) -> None:
        """Continue; no event will come."""
        ...


class Loop:
    """Dispatches readiness, in turns.

    A turn handles the events; then work that was stopped by its budget in the turn before; then
    the functions passed to `later`, the only ones that may open descriptors. The order matters: a
    descriptor that is closed and opened again between two events of one turn would get the events
    of its predecessor.

    Args:
        tick: seconds between two calls of the functions passed to `every_tick`.
        monotonic: clock; production code leaves it out.

    Attributes:
        buffer: the one buffer that everything is read into.
        now: monotonic time in seconds at the start of this turn's work.
        turns: turns so far; an idle loop takes one a tick.
        moves: whether the loop moves the bytes of joined descriptors itself.
    """

    moves = False

    def __init__(
        self, *, tick: float = 1.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._monotonic = monotonic
        self._tick = tick
        self._tickers: list[Callable[[], None]] = []
        self._handlers: dict[int, Handler] = {}
        self._unfinished: dict[Resumable, None] = {}
        self._later: collections.deque[Callable[[], None]] = collections.deque()
        self._epoll = select.epoll()
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waker_open = True
        # Reentrant: a signal handler may interrupt a thread that holds it.
        self._waker_lock = threading.RLock()
        self.add(self._waker, self, select.EPOLLIN)
        self._whole_buffer = memoryview(bytearray(BUFFER_SIZE))
        self._held = 0
        self.buffer = self._whole_buffer
        self.now = monotonic()
        self._next_tick = self.now + tick
        self.turns = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the loop's own descriptors, not those it watches."""
        self._epoll.close()
        with self._waker_lock:
            self._waker_open = False
            os.close(self._waker)

    def add(self, fd: int, handler: Handler, events: int = EDGES) -> None:
        """Watch `fd`. Raises OSError if the kernel refuses."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def modify(self, fd: int, events: int) -> None:
        """Watch `fd` for other events."""
        self._epoll.modify(fd, events)

    def hand_over(self, fd: int, handler: Handler) -> None:
        """Send the events of a watched `fd` to another handler."""
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """Stop watching `fd`, which is closed next (which removes it from the kernel's set)."""
        self._handlers.pop(fd, None)

    def remove(self, fd: int) -> None:
        """Stop watching `fd`, which stays open, here or in a process that shares it."""
        self._epoll.unregister(fd)
        self._handlers.pop(fd, None)

    # For a loop that moves bytes itself (`native`): here every event is a handler's.

    def join(self, one: int, other: int) -> None:
        """Let the loop move plain bytes between two watched descriptors."""

    def block(self, one: int, other: int, *, blocked: bool) -> None:
        """Leave all events of two joined descriptors to their handler, or no longer."""

    def moved(self, fd: int) -> int:
        """Return the number of bytes that the loop moved from a joined descriptor."""
        del fd
        return 0

    def part(self, one: int, other: int) -> None:
        """Leave all events of two descriptors to their handler for good; `moved` becomes 0."""

    def resume_soon(self, stopped: Resumable) -> None:
        """Continue `stopped` in the next turn, once, however often this is called."""
        self._unfinished[stopped] = None

    def later(self, call: Callable[[], None]) -> None:
        """Call at the end of this turn."""
        self._later.append(call)

    def call_from_thread(self, call: Callable[[], None]) -> None:
        """Call on the loop, soon. Safe from other threads and from signal handlers. Ignored
        once the loop is closed.
        """
        self._later.append(call)
        with self._waker_lock:
            if self._waker_open:
                os.eventfd_write(self._waker, 1)

    def every_tick(self, call: Callable[[], None]) -> None:
        """Call once a tick, to check all timeouts.

        One pass a second over 10,000 connections costs a millisecond; a timer for each would
        cost memory for each, and work on every event.
        """
        self._tickers.append(call)

    def no_more_ticks(self, call: Callable[[], None]) -> None:
        """Undo `every_tick`."""
        self._tickers.remove(call)

    def hold(self, change: int) -> None:
        """Count bytes held for slow readers: `change` more of them, or fewer."""
        self._held += change
        if self._held > MAX_HELD:
            self.buffer = self._whole_buffer[:SCARCE_BUFFER_SIZE]
        else:
            self.buffer = self._whole_buffer

    def ready(self, fd: int, _events: int) -> None:
        """Another thread woke the loop; its call is in the queue already."""
        os.eventfd_read(fd)

    def turn(self) -> None:
        """Wait for events, calls or the tick, and handle them."""
        if self._unfinished or self._later:
            timeout = 0.0
        else:
            timeout = max(0.0, self._next_tick - self._monotonic())
        unfinished, self._unfinished = self._unfinished, {}
        self.turns += 1
        self._handle_events(timeout)
        for stopped in unfinished:
            stopped.resume()
        if self.now >= self._next_tick:
            self._next_tick = self.now + self._tick
            for call in list(self._tickers):
                call()
        # Calls added by these calls run in the next turn: a turn always ends.
        for _ in range(len(self._later)):
            self._later.popleft()()

    def _handle_events(self, timeout: float) -> None:
        """Wait for events, at most `timeout` seconds, and handle them."""
        events = self._epoll.poll(timeout, MAX_EVENTS)
        self.now = self._monotonic()
        handlers = self._handlers
        for fd, mask in events:
            handler = handlers.get(fd)
            if handler is not None:
                handler.ready(fd, mask)
