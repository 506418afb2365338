"""The log sink as a component of the daemon."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from parent.component import ComponentStatus
from parent.logs.intake import KEPT_LINES
from parent.logs.server import LogServer
from parent.logs.sinks import open_sink
from vsock_proxy.errors import AgentError
from vsock_proxy.net.listening import listening, local_address
from vsock_proxy.service.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from parent.component import JSON
    from parent.logs.settings import LogSettings
    from parent.logs.sinks import Sink
    from vsock_proxy.net.addresses import Address

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LastLines:
    """The last lines of one enclave.

    Attributes:
        name: the enclave's, as in the log.
        cid: its CID; None behind a UNIX socket.
        lines: oldest first: seconds since each arrived, and its text, neutralised and shortened.
    """

    name: str
    cid: int | None
    lines: tuple[tuple[float, str], ...]


class LogSink:
    """Receives lines from enclaves and passes them on; loses some rather than wait for the sink.

    Status values: ``connections``, ``rejected`` (connections), ``lost`` (lines that could not be
    written), and ``sources``: for each, ``name``, ``cid``, ``lines``, ``dropped`` (lines) and
    ``truncated`` (bytes).

    Attributes:
        address: what it listens on; with the real port, once started.
    """

    name = "logs"

    def __init__(
        self,
        settings: LogSettings,
        *,
        names: Mapping[int, str] | None = None,
        sink: Sink | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make one.

        Args:
            settings: where it listens and writes, and for whom.
            names: of enclaves, by CID.
            sink: instead of the one in the settings.
            monotonic: the clock.
        """
        self.address: Address = settings.listen
        self._settings = settings
        self._names = names or {}
        self._sink = sink
        self._monotonic = monotonic
        self._stopping = False
        self._server: LogServer | None = None
        self._thread = threading.Thread(target=self._serve, name=self.name, daemon=True)
        self._opened = contextlib.ExitStack()

    def start(self) -> None:
        """Listen, and read in the background.

        Raises:
            AgentError: the address cannot be listened on, the sink cannot be written to, or the
                system has no more threads.
        """
        with contextlib.ExitStack() as stack:
            sink = self._sink or open_sink(self._settings.to)
            stack.callback(sink.close)
            listener = stack.enter_context(listening(self._settings.listen))
            self.address = local_address(listener)
            self._server = LogServer(
                listener, sink, self._settings, names=self._names, monotonic=self._monotonic
            )
            stack.callback(self._server.close)
            self._opened = stack.pop_all()
        try:
            start_thread(self._thread)
        except AgentError:
            self._opened.close()
            raise
        log.info("logs: listening on %s", self.address)

    def reconfigure(self, settings: LogSettings, names: Mapping[int, str]) -> list[str]:
        """Change settings and names of enclaves; return the keys that need a restart."""
        before = self._settings
        self._settings = replace(settings, listen=before.listen, to=before.to)
        self._names = names
        if self._server:
            self._server.reconfigure(self._settings, names)
        return [key for key in ("listen", "to") if getattr(settings, key) != getattr(before, key)]

    def stop(self, timeout: float) -> None:
        """Read what has arrived, then stop."""
        self._stopping = True
        if self._server and self._thread.is_alive():
            self._server.wake()
            self._thread.join(timeout)

    def status(self) -> ComponentStatus:
        """See `Component.status`."""
        server = self._server
        if server is None or not self._thread.is_alive():
            return ComponentStatus(healthy=False, detail="not running")
        values: dict[str, JSON] = {
            "connections": server.connections,
            "rejected": server.rejected,
            "lost": server.lost,
            "sources": [
                {
                    "name": source.name,
                    "cid": source.cid,
                    "lines": source.lines,
                    "dropped": source.dropped,
                    "truncated": source.truncated,
                }
                for source in list(server.sources.values())
            ],
        }
        lost = f"lines are lost: {server.failing}" if server.failing else ""
        return ComponentStatus(not lost, lost or f"listening on {self.address}", values)

    def last_lines(self, most: int = KEPT_LINES) -> list[LastLines]:
        """Return the last lines of each enclave that has logged; from any thread."""
        server = self._server
        if server is None or most <= 0:
            return []
        now = self._monotonic()
        return [
            LastLines(
                source.name,
                source.cid,
                tuple((max(0.0, now - at), line) for at, line in source.last[-most:]),
            )
            for source in list(server.sources.values())
        ]

    def _serve(self) -> None:
        server = self._server
        with self._opened:
            while server and not self._stopping:
                server.turn()
            if server:
                server.drain()
