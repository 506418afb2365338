"""Sends systemd watchdog notifications while the relay's event loop makes progress.

systemd restarts a process that ends, but not one that hangs, without this
(sd_watchdog_enabled(3), WatchdogSec=).
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import threading
from typing import TYPE_CHECKING

from vsock_proxy.service.notify import notify
from vsock_proxy.service.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_USEC = re.compile(r"[1-9][0-9]{0,15}")


def watchdog_interval(environment: Mapping[str, str], pid: int) -> float | None:
    """Return the seconds between notifications that systemd asks for; None if it asks for none.

    Args:
        environment: with ``WATCHDOG_USEC``, and ``WATCHDOG_PID`` if it is meant for one process.
        pid: this process.
    """
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    usec = environment.get("WATCHDOG_USEC", "")
    return int(usec) / 1e6 if _USEC.fullmatch(usec) else None


class Watchdog:
    """Notifies twice per interval, from a thread, while a number grows.

    Args:
        turns: returns a number that grows from 0, at least once a second, while all is well.
        notify: is called with ``WATCHDOG=1``.
        interval: seconds; None for that of this process's environment, if there is one.
    """

    def __init__(
        self,
        turns: Callable[[], int],
        *,
        notify: Callable[[str], object] = notify,
        interval: float | None = None,
    ) -> None:
        self._turns = turns
        self._notify = notify
        self._seen = 0
        self._over = threading.Event()
        interval = interval or watchdog_interval(os.environ, os.getpid())
        self._period = None if interval is None else interval / 2

    def start(self) -> None:
        """Start the thread, if there is an interval."""
        if self._period is not None:
            with contextlib.suppress(RuntimeError):  # Without stderr.
                faulthandler.enable()  # When systemd aborts us, the log has where it hung.
            start_thread(threading.Thread(target=self._run, name="watchdog", daemon=True))

    def check(self) -> None:
        """Notify if there were turns since the last call."""
        turns = self._turns()
        if turns != self._seen:
            self._seen = turns
            self._notify("WATCHDOG=1")

    def _run(self) -> None:
        while not self._over.wait(self._period):
            self.check()
