"""The proxy as a daemon: listeners opened, connections relayed, and an end that is clean."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from typing import TYPE_CHECKING

from vsock_proxy.errors import ListenError
from vsock_proxy.net.addresses import Address
from vsock_proxy.net.dialing import reason_of
from vsock_proxy.net.listening import listening, local_address
from vsock_proxy.proxy.counters import Snapshot
from vsock_proxy.proxy.forward import Forward, check_distinct
from vsock_proxy.proxy.forwarder import Forwarder
from vsock_proxy.relay.connection import Limits
from vsock_proxy.relay.loop import Loop
from vsock_proxy.relay.loop_calls import Calls
from vsock_proxy.relay.targets import Target, target_for
from vsock_proxy.service.notify import notify

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

DRAIN_TIMEOUT = 5.0
"""Seconds that open connections get to end by themselves once the daemon is told to stop."""


class Daemon:
    """Relays what comes in on some listeners, until it is told to stop.

    The listeners are open, and hold what comes in, from the constructor on.

    Args:
        forwards: no two listen on the same address, or have the same name.
        limits: of those forwards that say none.
        drain_timeout: seconds that open connections get to end once it is told to stop.
        tick: seconds between two looks at the clock.
        tell: is told ``READY=1`` and ``STOPPING=1``: whoever started this process, unless that
            runs more than this daemon.

    Raises:
        ConfigurationError: two forwards are not distinct.
        ListenError: an address cannot be listened on.
    """

    def __init__(
        self,
        forwards: Sequence[Forward],
        *,
        limits: Limits | None = None,
        drain_timeout: float = DRAIN_TIMEOUT,
        tick: float = 1.0,
        tell: Callable[[str], object] = notify,
    ) -> None:
        self._tell = tell
        self._limits = limits or Limits()
        self._routes: dict[_Key, _Route] = {}
        self._leaving: list[Forwarder] = []
        self._drain_timeout = drain_timeout
        self._stops = 0
        self._reloads = 0
        self._reloading = threading.Lock()
        self._loop = Loop(tick=tick)
        self._calls = Calls(self._loop.call_from_thread)
        self._loop.every_tick(self._look_over)
        with contextlib.ExitStack() as undo:
            undo.callback(self._loop.close)
            self._take(forwards)
            undo.pop_all()

    @property
    def forwarders(self) -> list[Forwarder]:
        """One for each forward, in order."""
        return [route.forwarder for route in self._routes.values()]

    @property
    def addresses(self) -> list[Address]:
        """What each forward listens on, in order, with the real port where 0 was asked for."""
        return [route.address for route in self._routes.values()]

    @property
    def turns(self) -> int:
        """Turns of the loop so far; an idle one takes one a tick. From any thread."""
        return self._loop.turns

    def run(self) -> None:
        """Serve until `stop`, then let connections end, then cut what is left. Only once."""
        self._calls.begin()
        try:
            self._tell("READY=1")
            while not self._stops:
                self._loop.turn()
            self._tell("STOPPING=1")
            self._drain()
        finally:
            self._calls.end()
            self._close_listeners()
            for forwarder in (*self.forwarders, *self._leaving):
                forwarder.cut()
            self._loop.close()

    def stop(self) -> None:
        """Stop cleanly; a second call stops at once. For signal handlers and other threads."""
        self._stops += 1
        self._loop.call_from_thread(lambda: None)

    def reload(self, forwards: Sequence[Forward]) -> None:
        """Have these forwards from now on, and no others. From any thread, but no signal handler.

        New listeners are opened, those that are gone are closed. A forward that listens where
        one did before keeps its listener and its counters, and treats new connections as it
        says now. Open connections go on, whatever became of their forward.

        Raises:
            ConfigurationError: two forwards are not distinct.
            ListenError: an address cannot be listened on.
            AgentError: the loop does not answer. Whatever is raised, nothing has changed.
        """
        with self._reloading:
            if not self._stops:
                self._take(forwards)
                self._reloads += 1

    def snapshot(self) -> Snapshot:
        """Return the numbers of this moment. From any thread.

        Raises:
            AgentError: the loop does not answer.
        """
        return self._calls.call(
            lambda: Snapshot(
                forwards=tuple(
                    route.forwarder.snapshot(route.address, route.forward.to)
                    for route in self._routes.values()
                ),
                leaving=sum(f.in_use + f.waiting for f in self._leaving),
                turns=self._loop.turns,
                reloads=self._reloads,
            )
        )

    # Forwards

    def _take(self, forwards: Sequence[Forward]) -> None:
        check_distinct(forwards)
        with contextlib.ExitStack() as undo:
            opened: dict[_Key, tuple[socket.socket, contextlib.ExitStack]] = {}
            wanted = dict(zip(_keys(forwards), forwards, strict=True))
            for key, forward in wanted.items():
                if key not in self._routes:
                    closing = undo.enter_context(contextlib.ExitStack())
                    listener = closing.enter_context(listening(forward.listen))
                    opened[key] = (listener, closing)
            self._calls.call(lambda: self._exchange(wanted, opened))
            undo.pop_all()

    def _exchange(
        self,
        wanted: dict[_Key, Forward],
        opened: dict[_Key, tuple[socket.socket, contextlib.ExitStack]],
    ) -> None:
        """Take the forwards. What can fail comes first."""
        new: dict[_Key, _Route] = {}
        for key, (listener, closing) in opened.items():
            try:
                new[key] = self._route(wanted[key], listener, closing)
            except OSError as e:
                for route in new.values():
                    route.forwarder.stop_accepting()
                    route.forwarder.retire()
                raise ListenError(str(wanted[key].listen), reason_of(e)) from e
        old, self._routes = self._routes, {}
        for key, forward in wanted.items():
            route = self._routes[key] = new.get(key) or old.pop(key)
            if key in new:
                log.info("listening on %s, forwarding to %s", route.address, forward.target)
            elif forward != route.forward:
                self._change(route, forward)
            if not forward.allowed:
                log.warning("%s is not on the allowlist: nobody gets there", forward.target)
        for route in old.values():
            log.info("no longer listening on %s", route.address)
            route.forwarder.stop_accepting()
            route.closing.close()
            self._leaving.append(route.forwarder)

    def _route(
        self, forward: Forward, listener: socket.socket, closing: contextlib.ExitStack
    ) -> _Route:
        forwarder = Forwarder(
            self._loop,
            listener,
            self._target(forward),
            name=forward.title,
            limits=forward.limits or self._limits,
            cids=forward.cids,
            allowed=forward.allowed,
        )
        return _Route(forward, forwarder, local_address(listener), closing)

    def _change(self, route: _Route, forward: Forward) -> None:
        route.forward = forward
        route.forwarder.reconfigure(
            self._target(forward),
            name=forward.title,
            limits=forward.limits or self._limits,
            cids=forward.cids,
            allowed=forward.allowed,
        )
        log.info("still listening on %s, forwarding to %s", route.address, forward.target)

    def _target(self, forward: Forward) -> Target:
        return target_for(
            forward.to,
            self._loop.call_from_thread,
            family=forward.family,
            prefer=forward.prefer,
            allowlist=forward.allowlist,
        )

    # Ending

    def _look_over(self) -> None:
        """Forget the forwards that were removed and have no connection any more."""
        for forwarder in list(self._leaving):
            if not forwarder.in_use and not forwarder.waiting:
                forwarder.retire()
                self._leaving.remove(forwarder)

    def _close_listeners(self) -> None:
        for route in self._routes.values():
            route.forwarder.stop_accepting()
            route.closing.close()

    def _drain(self) -> None:
        # Now, not at the end: by then a successor may be listening on the same path.
        self._close_listeners()
        deadline = self._loop.now + self._drain_timeout
        if self._open_connections():
            log.info(
                "stopping; %d connections get %g s to end",
                self._open_connections(),
                self._drain_timeout,
            )
        while self._open_connections() and self._loop.now < deadline and self._stops == 1:
            self._loop.turn()
        if self._open_connections():
            log.warning("cutting %d connections that are still open", self._open_connections())

    def _open_connections(self) -> int:
        return sum(f.in_use + f.waiting for f in (*self.forwarders, *self._leaving))


_Key = tuple[Address, int]


def _keys(forwards: Sequence[Forward]) -> list[_Key]:
    """Number those that listen on the same address, which is on a port of the system's choice."""
    seen: Counter[Address] = Counter()
    keys = []
    for forward in forwards:
        keys.append((forward.listen, seen[forward.listen]))
        seen[forward.listen] += 1
    return keys


class _Route:
    """A forward, what serves it, and how its listener is closed."""

    __slots__ = ("address", "closing", "forward", "forwarder")

    def __init__(
        self,
        forward: Forward,
        forwarder: Forwarder,
        address: Address,
        closing: contextlib.ExitStack,
    ) -> None:
        self.forward = forward
        self.forwarder = forwarder
        self.address = address
        self.closing = closing
