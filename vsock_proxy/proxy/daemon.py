"""The proxy as a daemon: opens listeners, relays connections, reloads, stops cleanly."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vsock_proxy.errors import ListenError
from vsock_proxy.net.addresses import Address
from vsock_proxy.net.dialing import reason_of
from vsock_proxy.net.listening import close_listener, listen
from vsock_proxy.proxy.counters import Snapshot
from vsock_proxy.proxy.egress import forwarder_for
from vsock_proxy.proxy.forward import Forward, check_distinct, descriptors_needed, fit
from vsock_proxy.relay.loop_calls import LoopCalls
from vsock_proxy.relay.native import make_loop
from vsock_proxy.service.descriptors import raise_descriptor_limit
from vsock_proxy.service.notify import notify

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vsock_proxy.proxy.forwarder import Forwarder

log = logging.getLogger(__name__)

DRAIN_TIMEOUT = 5.0
"""Seconds in which open connections may end by themselves once the daemon is told to stop."""

SPARE_DESCRIPTORS = 64
"""File descriptors for everything but connections and listeners."""


class Daemon:
    """Relays what comes in on some listeners until it is told to stop.

    From the constructor on, the listeners are open and the kernel queues clients. The descriptor
    limit of the process is raised to what the forwards' limits need; if the hard limit is too low,
    their limits are scaled down.

    Args:
        forwards: no two listen on the same address or have the same name.
        drain_timeout: seconds in which open connections may end once it is told to stop.
        tick: seconds between two checks of all timeouts.
        notify: is called with ``READY=1`` and ``STOPPING=1``; replaced if the process runs more
            than this daemon.
        spare_descriptors: what the process needs beside the forwards' own.

    Raises:
        ConfigurationError: two forwards are not distinct.
        ListenError: an address cannot be listened on.
    """

    def __init__(
        self,
        forwards: Sequence[Forward],
        *,
        drain_timeout: float = DRAIN_TIMEOUT,
        tick: float = 1.0,
        notify: Callable[[str], object] = notify,
        spare_descriptors: int = SPARE_DESCRIPTORS,
    ) -> None:
        self._notify = notify
        self._spare_descriptors = spare_descriptors
        self._forwarders: dict[_Key, Forwarder] = {}
        self._leaving: list[Forwarder] = []
        self._drain_timeout = drain_timeout
        self._stops = 0
        self._reloads = 0
        self._reloading = threading.Lock()
        self._loop = make_loop(tick=tick, environ=os.environ)
        self._calls = LoopCalls(self._loop.call_from_thread)
        self._loop.every_tick(self._forget_drained)
        with contextlib.ExitStack() as undo:
            undo.callback(self._loop.close)
            self._replace(forwards)
            undo.pop_all()

    @property
    def forwarders(self) -> list[Forwarder]:
        """One for each forward, in order."""
        return list(self._forwarders.values())

    @property
    def addresses(self) -> list[Address]:
        """What each forward listens on, in order, with the real port instead of 0."""
        return [forwarder.address for forwarder in self.forwarders]

    @property
    def turns(self) -> int:
        """Turns of the loop so far; an idle one takes one a tick. From any thread."""
        return self._loop.turns

    def run(self) -> None:
        """Serve until `stop`, drain connections, abort those that are left. Only once."""
        self._calls.begin()
        try:
            self._notify("READY=1")
            while not self._stops:
                self._loop.turn()
            self._notify("STOPPING=1")
            self._drain()
        finally:
            self.discard()

    def discard(self) -> None:
        """Close everything. In place of `run`, if there is no thread for it."""
        self._stops = max(1, self._stops)  # also after an error: `reload` must not come back
        try:
            self._close_listeners()
            for forwarder in (*self.forwarders, *self._leaving):
                forwarder.abort()
        finally:
            # Not before: from here on other threads look at the forwarders themselves.
            self._calls.end()
            self._loop.close()

    def stop(self) -> None:
        """Stop cleanly; a second call stops at once. For signal handlers and other threads."""
        self._stops += 1
        self._loop.call_from_thread(lambda: None)

    def reload(self, forwards: Sequence[Forward]) -> None:
        """Replace the set of forwards. From any thread, but not from a signal handler.

        New listeners are opened, those that are gone are closed. A forward that listens where
        one did before keeps its listener and its counters, and uses its new settings for new
        connections. Open connections go on, even if their forward is removed.

        Raises:
            ConfigurationError: two forwards are not distinct.
            ListenError: an address cannot be listened on.
            AgentError: the loop does not respond. Whatever is raised, nothing has changed.
        """
        with self._reloading:
            if not self._stops and self._replace(forwards):
                self._reloads += 1

    def snapshot(self) -> Snapshot:
        """Return the numbers of this moment. From any thread.

        Raises:
            AgentError: the loop does not respond.
        """
        return self._calls.call(
            lambda: Snapshot(
                forwards=tuple(forwarder.snapshot() for forwarder in self.forwarders),
                leaving=sum(forwarder.open for forwarder in self._leaving),
                turns=self._loop.turns,
                reloads=self._reloads,
            )
        )

    # Replacing the forwards

    def _replace(self, forwards: Sequence[Forward]) -> bool:
        """Replace the forwards in two phases; return False if the daemon is stopping.

        Open, on this thread: everything that takes time, or fails because of the settings. While
        it lasts the loop goes on relaying; if it fails the new listeners are closed again.
        Swap, on the loop between two of its turns: a few system calls for each new listener.
        """
        check_distinct(forwards)
        with contextlib.ExitStack() as undo:
            change = self._open(self._fit(forwards), undo)
            if not self._calls.call(lambda: self._swap(change)):
                return False
            undo.pop_all()
        change.log()
        return True

    def _fit(self, forwards: Sequence[Forward]) -> list[Forward]:
        """Raise the descriptor limit for these forwards, or else scale their limits down."""
        needed = descriptors_needed(forwards) + self._spare_descriptors
        allowed = raise_descriptor_limit(needed)
        fitted = fit(forwards, allowed - self._spare_descriptors)
        if allowed < needed:
            log.warning(
                "%d file descriptors (ulimit -Hn) are enough for %d connections, not for %d",
                allowed,
                sum(forward.limits.connections for forward in fitted),
                sum(forward.limits.connections for forward in forwards),
            )
        return fitted

    def _open(self, forwards: Sequence[Forward], undo: contextlib.ExitStack) -> _Change:
        """Open the listeners that are new, and find out what is to be changed and removed."""
        change = _Change()
        wanted = dict(zip(_keys(forwards), forwards, strict=True))
        for key, forward in wanted.items():
            forwarder = self._forwarders.get(key)
            if forwarder is None:
                listener = listen(forward.listen)
                undo.callback(close_listener, listener)
                forwarder = forwarder_for(self._loop, listener, forward)
                change.new.append(forwarder)
            elif forward != forwarder.forward:
                change.changed.append((forwarder, forward))
            change.forwarders[key] = forwarder
        change.removed = [f for key, f in self._forwarders.items() if key not in wanted]
        return change

    def _swap(self, change: _Change) -> bool:
        """Take up a change. On the loop: what can fail comes first."""
        if self._stops:
            return False
        for number, forwarder in enumerate(change.new):
            try:
                forwarder.start()
            except OSError as e:
                for started in change.new[:number]:
                    started.stop_accepting()
                    started.close()
                raise ListenError(str(forwarder.forward.listen), reason_of(e)) from e
        for forwarder, forward in change.changed:
            forwarder.reconfigure(forward)
        for forwarder in change.removed:
            forwarder.stop_accepting()
        self._leaving += change.removed
        self._forwarders = change.forwarders
        return True

    # Ending

    def _forget_drained(self) -> None:
        """Forget the forwards that were removed and have no connection left."""
        for forwarder in [each for each in self._leaving if not each.open]:
            forwarder.close()
            self._leaving.remove(forwarder)

    def _close_listeners(self) -> None:
        for forwarder in self.forwarders:
            forwarder.stop_accepting()

    def _drain(self) -> None:
        # Now, not at the end: by then a successor may be listening on the same path.
        self._close_listeners()
        deadline = self._loop.now + self._drain_timeout
        if self._open_connections():
            log.info(
                "stopping; %d connections may end within %g s",
                self._open_connections(),
                self._drain_timeout,
            )
        while self._open_connections() and self._loop.now < deadline and self._stops == 1:
            self._loop.turn()
        if self._open_connections():
            log.warning("aborting %d connections that are still open", self._open_connections())

    def _open_connections(self) -> int:
        return sum(forwarder.open for forwarder in (*self.forwarders, *self._leaving))


_Key = tuple[Address, int]


def _keys(forwards: Sequence[Forward]) -> list[_Key]:
    """Give numbers to forwards that listen on the same address, which is on port 0."""
    seen: Counter[Address] = Counter()
    keys = []
    for forward in forwards:
        keys.append((forward.listen, seen[forward.listen]))
        seen[forward.listen] += 1
    return keys


@dataclass(slots=True)
class _Change:
    """What a reload changes.

    Attributes:
        forwarders: all of them afterwards, in order.
        new: those of them that are not accepting yet.
        changed: those that get other settings, and these settings.
        removed: those there were before.
    """

    forwarders: dict[_Key, Forwarder] = field(default_factory=dict)
    new: list[Forwarder] = field(default_factory=list)
    changed: list[tuple[Forwarder, Forward]] = field(default_factory=list)
    removed: list[Forwarder] = field(default_factory=list)

    def log(self) -> None:
        for each in self.new:
            log.info("listening on %s, forwarding to %s", each.address, each.forward.target_name)
        for each, forward in self.changed:
            log.info("%s now forwards to %s", each.address, forward.target_name)
        for each in self.removed:
            log.info("no longer listening on %s", each.address)
        for each in self.forwarders.values():
            if not each.forward.allowed:
                log.warning(
                    "%s is not on the allowlist: new connections are rejected",
                    each.forward.target_name,
                )
