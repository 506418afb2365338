"""Reloads the configuration on request, in a thread."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import TYPE_CHECKING

from vsock_proxy.errors import AgentError
from vsock_proxy.service.notify import notify
from vsock_proxy.service.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


class Reloader:
    """Reloads in a thread, because reading files and opening listeners takes time.

    A reload that fails is logged, and has no other effect.

    Args:
        reload: reloads; raises AgentError if it failed and has changed nothing.
    """

    def __init__(self, reload: Callable[[], None]) -> None:
        self._reload = reload
        self._requests: queue.SimpleQueue[None] = queue.SimpleQueue()
        # A daemon thread: it waits for requests forever.
        start_thread(threading.Thread(target=self._run, name="reload", daemon=True))

    def request(self) -> None:
        """Reload soon. For any thread, and for signal handlers."""
        self._requests.put(None)

    def _run(self) -> None:
        while True:
            self._requests.get()
            # systemd's Type=notify-reload waits for READY=1 (sd_notify(3)).
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                self._reload()
            except AgentError as e:
                log.error("not reloaded, the old settings stay: %s", e)  # noqa: TRY400
                for each in getattr(e, "errors", (e,)):
                    if each.hint:
                        log.error("hint: %s", each.hint)  # noqa: TRY400
            except Exception:
                log.exception("not reloaded, internal error")
            else:
                log.info("reloaded")
            notify("READY=1")
