"""Reading the configuration again when told to, without stopping for it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import TYPE_CHECKING

from vsock_proxy.errors import AgentError
from vsock_proxy.service.notify import notify

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


class Reloader:
    """Reloads in a thread of its own: reading a file, or opening a listener, takes its time.

    A reload that fails is a line in the log and nothing else.
    """

    def __init__(self, reload: Callable[[], None]) -> None:
        """Take what to do; it raises AgentError where it has changed nothing."""
        self._reload = reload
        self._requests: queue.SimpleQueue[None] = queue.SimpleQueue()
        # A daemon: it waits for requests for ever.
        threading.Thread(target=self._run, name="reload", daemon=True).start()

    def request(self) -> None:
        """Reload soon. From any thread and from signal handlers."""
        self._requests.put(None)

    def _run(self) -> None:
        while True:
            self._requests.get()
            # systemd's Type=notify-reload waits for READY=1 (sd_notify(3)).
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                self._reload()
            except AgentError as e:
                log.error("not reloaded, everything stays as it was: %s", e)  # noqa: TRY400
            except Exception:
                log.exception("not reloaded")
            else:
                log.info("reloaded")
            notify("READY=1")
