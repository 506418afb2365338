"""The proxy as a component: the daemon of vsock_proxy on a thread of its own."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from parent.component import ComponentStatus
from vsock_proxy.errors import AgentError
from vsock_proxy.proxy.daemon import Daemon
from vsock_proxy.service.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from vsock_proxy.proxy.counters import Snapshot
    from vsock_proxy.proxy.section import ProxySettings

_SPARE_DESCRIPTORS = 512
"""For the other services in the process, and their clients."""

_CUT = 1.0
"""Seconds to end in, once connections are cut."""

_STUCK = 15.0
"""Seconds without a turn of the loop, which takes one a second, that are no longer just load."""


class ProxyService:
    """See `parent.component.Component`.

    Values of its status: ``forwards``, and ``turns`` of its loop.
    """

    name = "proxy"

    def __init__(
        self,
        settings: ProxySettings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make one; production code passes the settings only."""
        self.settings = settings
        self._monotonic = monotonic
        self._daemon: Daemon | None = None
        self._thread: threading.Thread | None = None
        self._seen = (-1, 0.0)

    def start(self) -> None:
        """See `Component.start`."""
        daemon = Daemon(
            self.settings.forwards,
            drain_timeout=self.settings.drain_timeout,
            notify=lambda _: None,
            spare_descriptors=_SPARE_DESCRIPTORS,
        )
        thread = threading.Thread(target=daemon.run, name=self.name, daemon=True)
        try:
            start_thread(thread)
        except AgentError:
            daemon.discard()
            raise
        self._daemon, self._thread = daemon, thread

    def stop(self, timeout: float) -> None:
        """See `Component.stop`. Connections drain for the configured time, if that is shorter."""
        for seconds in (timeout, _CUT):
            if self._daemon and self._thread and self._thread.is_alive():
                self._daemon.stop()  # the second time, at once
                self._thread.join(seconds)

    def reconfigure(self, settings: ProxySettings) -> list[str]:
        """Take other settings; returns the keys of those that need a restart.

        Raises:
            AgentError: they cannot be had. Nothing has changed.
        """
        if self._daemon is not None:
            self._daemon.reload(settings.forwards)
        stay = [] if settings.drain_timeout == self.settings.drain_timeout else ["drain_timeout"]
        self.settings = settings
        return stay

    @property
    def turns(self) -> int:
        """Turns of its loop so far; at least one a second. From any thread."""
        return self._daemon.turns if self._daemon else 0

    def snapshot(self) -> Snapshot | None:
        """Return the numbers of this moment; None where it does not run.

        Raises:
            AgentError: the loop does not respond.
        """
        return self._daemon.snapshot() if self._daemon and self._runs() else None

    def status(self) -> ComponentStatus:
        """See `Component.status`."""
        if self._daemon is None or not self._runs():
            return ComponentStatus(healthy=False, detail="not running")
        turns, now = self._daemon.turns, self._monotonic()
        before, since = self._seen
        if turns != before:
            self._seen = before, since = turns, now
        forwards = len(self.settings.forwards)
        stuck = now - since > _STUCK
        return ComponentStatus(
            healthy=not stuck,
            detail="its loop is stuck" if stuck else f"{forwards} forwards",
            values={"forwards": forwards, "turns": turns},
        )

    def _runs(self) -> bool:
        return self._thread is not None and self._thread.is_alive()
