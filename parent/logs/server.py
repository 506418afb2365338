"""The log sink's event loop: accepts connections, reads them in turn, writes their lines.

One thread does all of it. What an enclave can make it do is bounded: connections, bytes read a
second, lines written a second, and what is kept of an unfinished line.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import selectors
import socket
from typing import TYPE_CHECKING

from parent.logs.intake import READ_SIZE, Intake, Source
from vsock_proxy.net.peers import cid_allowed, peer_cid
from vsock_proxy.service.budget import Budget
from vsock_proxy.service.cids import MAX_CIDS
from vsock_proxy.service.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from parent.logs.settings import LogSettings
    from parent.logs.sinks import Sink

log = logging.getLogger(__name__)

_PAUSE = 1.0
"""Seconds before the next connection is accepted, after a failure: no descriptor is free."""

_REJECTIONS_PER_SECOND = 500
"""Connections of any client, at 0.04 ms each. Beyond that they wait in the kernel's backlog, those
of others too; open connections are read meanwhile."""

_REJECTION_PAUSE = 0.05
"""Seconds before the next connection is accepted once there were so many."""

_TICK = 1.0
"""Seconds after which dropped lines are reported, even if nothing arrives any more."""

_LAST_TURNS = 64
"""For what is still unread when it stops: up to a MiB of each connection."""


class LogServer:
    """Reads from the clients of a listener.

    Attributes:
        sources: the enclaves that have connected so far, by CID.
        connections: open now.
        rejected: connections: of another CID, one too many, or too soon after others.
        lost: lines that the sink could not write.
        failing: why it could not write the last one, or "".
    """

    def __init__(
        self,
        listener: socket.socket,
        sink: Sink,
        settings: LogSettings,
        *,
        names: Mapping[int, str],
        monotonic: Callable[[], float],
    ) -> None:
        self.sources: dict[int | None, Source] = {}
        self.rejected = self.lost = 0
        self.failing = ""
        self._listener = listener
        self._sink = sink
        self._settings = settings
        self._names = names
        self._wanted: tuple[LogSettings, Mapping[int, str]] | None = None
        self._monotonic = monotonic
        self._warnings = Throttle(log, monotonic)
        self._rejections = Budget(_REJECTIONS_PER_SECOND, burst=1.0)
        self._selector = selectors.DefaultSelector()
        self._intakes: dict[socket.socket, Intake] = {}
        self._paused: list[tuple[float, int, socket.socket]] = []
        listener.settimeout(0)
        self._waker, self._woken = socket.socketpair()
        self._woken.settimeout(0)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._selector.register(listener, selectors.EVENT_READ)

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._intakes)

    def wake(self) -> None:
        """Make `turn` return; from any thread, until `close`."""
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def reconfigure(self, settings: LogSettings, names: Mapping[int, str]) -> None:
        """Change limits, CIDs and names soon; from any thread. Open connections go on."""
        self._wanted = settings, names
        self.wake()

    def turn(self, timeout: float = _TICK) -> bool:
        """Wait for events and handle them; return whether there were any."""
        now = self._monotonic()
        while self._paused and self._paused[0][0] <= now:
            _, _, resumed = heapq.heappop(self._paused)
            if resumed is self._listener or resumed in self._intakes:
                self._selector.register(resumed, selectors.EVENT_READ)
        if self._paused:
            timeout = min(timeout, self._paused[0][0] - now)
        ready = self._selector.select(timeout)
        if self._wanted:
            self._take_wanted(*self._wanted)
        for key, _ in ready:
            ready_socket = key.fileobj
            if ready_socket is self._woken:
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(4096)
            elif ready_socket is self._listener:
                self._accept()
            elif isinstance(ready_socket, socket.socket):
                self._read(ready_socket)
        self._report()
        return bool(ready)

    def drain(self) -> None:
        """Accept no more connections; read what has arrived, within limits."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(self._listener)
        for _ in range(_LAST_TURNS):
            if not self.turn(0):
                break
        for connection in list(self._intakes):
            self._end(connection)

    def close(self) -> None:
        """Close everything but the listener and the sink."""
        for connection in list(self._intakes):
            connection.close()
        self._selector.close()
        self._waker.close()
        self._woken.close()

    def _take_wanted(self, settings: LogSettings, names: Mapping[int, str]) -> None:
        self._wanted = None
        self._settings, self._names = settings, names
        for source in self.sources.values():
            source.reconfigure(self._name(source.cid), settings)

    def _accept(self) -> None:
        try:
            connection, peer = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as e:
            self._warnings.warning(
                "logs: cannot accept connections: %s; retrying in a second", e.strerror
            )
            self._pause(self._listener, self._monotonic() + _PAUSE)
            return
        if not cid_allowed(connection, peer, self._settings.cids):
            self._reject(connection, f"from {peer}: its CID may not log")
            return
        cid = peer_cid(connection, peer)
        source = self._source(cid)
        if source.connections >= self._settings.connections:
            self._reject(connection, f"of {source.name}: it has {source.connections} already")
            return
        if not source.arrive(self._monotonic()):
            most = self._settings.connections_per_second
            self._reject(connection, f"of {source.name}: it opens over {most} a second")
            return
        source.connections += 1
        connection.settimeout(0)
        self._intakes[connection] = Intake(source)
        self._selector.register(connection, selectors.EVENT_READ)

    def _reject(self, connection: socket.socket, why: str) -> None:
        connection.close()
        self.rejected += 1
        self._warnings.warning("logs: rejected a connection %s", why)
        now = self._monotonic()
        if not self._rejections.take(now):
            self._pause(self._listener, now + _REJECTION_PAUSE)

    def _source(self, cid: int | None) -> Source:
        if cid not in self.sources:
            if len(self.sources) >= MAX_CIDS:
                # Many CIDs came and went; those with connections keep their counts and limits.
                self.sources = {c: s for c, s in self.sources.items() if s.connections}
            self.sources[cid] = Source(cid, self._name(cid), self._settings)
        return self.sources[cid]

    def _name(self, cid: int | None) -> str:
        return "enclave" if cid is None else self._names.get(cid, f"cid-{cid}")

    def _read(self, connection: socket.socket) -> None:
        source = self._intakes[connection].source
        if resume := source.resume_at(self._monotonic()):
            # Another connection of the same enclave has just used up its rate.
            self._pause(connection, resume)
            return
        try:
            data = connection.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(connection)
            return
        now = self._monotonic()
        intake = self._intakes[connection]
        self._write(intake.source, intake.feed(now, data))
        if resume := intake.source.resume_at(now):
            self._pause(connection, resume)

    def _pause(self, paused: socket.socket, until: float) -> None:
        self._selector.unregister(paused)
        heapq.heappush(self._paused, (until, id(paused), paused))

    def _end(self, connection: socket.socket) -> None:
        intake = self._intakes.pop(connection)
        intake.source.connections -= 1
        self._write(intake.source, intake.feed(self._monotonic(), b""))
        with contextlib.suppress(KeyError):
            self._selector.unregister(connection)
        connection.close()

    def _write(self, source: Source, lines: list[str]) -> None:
        for line in lines:
            try:
                self._sink.write(source.name, source.cid, line)
            except OSError as e:
                self.lost += 1
                self.failing = e.strerror or str(e)
                self._warnings.warning("logs: a line of %s is lost: %s", source.name, self.failing)
            else:
                self.failing = ""

    def _report(self) -> None:
        now = self._monotonic()
        self._warnings.catch_up()
        for source in self.sources.values():
            if dropped := source.report(now):
                log.warning(
                    "logs: %d lines of %s dropped: over %d a second",
                    dropped,
                    source.name,
                    self._settings.lines_per_second,
                )
