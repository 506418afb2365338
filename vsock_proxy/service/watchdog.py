"""Telling systemd that the relay still turns (sd_watchdog_enabled(3), WatchdogSec=).

A process that hangs is not one that ended: nobody would start it anew.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import threading
from typing import TYPE_CHECKING

from vsock_proxy.service.notify import notify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_USEC = re.compile(r"[1-9][0-9]{0,15}")


def watchdog_interval(environment: Mapping[str, str], pid: int) -> float | None:
    """Seconds after which whoever started this process wants to have heard of it; None: never.

    Args:
        environment: with ``WATCHDOG_USEC``, and ``WATCHDOG_PID`` where it is one process's only.
        pid: this process.
    """
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    usec = environment.get("WATCHDOG_USEC", "")
    return int(usec) / 1e6 if _USEC.fullmatch(usec) else None


class Watchdog:
    """Tells from a thread of its own, twice in each interval, as long as something moves.

    Does nothing where nobody asked for it.
    """

    def __init__(
        self,
        turns: Callable[[], int],
        *,
        tell: Callable[[str], object] = notify,
        interval: float | None = None,
    ) -> None:
        """Make one.

        Args:
            turns: a number that grows from 0 while all is well, at least once a second.
            tell: is told ``WATCHDOG=1``.
            interval: seconds; otherwise what this process's environment says.
        """
        self._turns = turns
        self._tell = tell
        self._seen = 0
        self._over = threading.Event()
        interval = interval or watchdog_interval(os.environ, os.getpid())
        self._period = None if interval is None else interval / 2

    def start(self) -> None:
        """Begin."""
        if self._period is not None:
            with contextlib.suppress(RuntimeError):  # Without stderr.
                faulthandler.enable()  # What systemd aborts says where it hung.
            threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def look(self) -> None:
        """Tell, if there were turns since the last look."""
        turns = self._turns()
        if turns != self._seen:
            self._seen = turns
            self._tell("WATCHDOG=1")

    def _run(self) -> None:
        while not self._over.wait(self._period):
            self.look()
