"""Handles signals in a dedicated thread, so that a blocked main thread does not delay them.

The kernel may deliver a signal to any thread, but Python runs its handler in the main one, which is
not woken up: while it waits, for example for a thread to end, the handler waits too.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

from vsock_proxy.service.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Signals that stop a daemon."""


class Signals:
    """The thread that handles signals. One for a process, made and used in the main thread."""

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int], object]] = {}
        self._reading, writing = os.pipe()
        os.set_blocking(writing, False)
        # CPython's own handler writes each signal's number there, in any thread.
        signal.set_wakeup_fd(writing)
        start_thread(threading.Thread(target=self._run, name="signals", daemon=True))

    def handle(self, number: signal.Signals, handler: Callable[[int], object]) -> None:
        """Call `handler` with the number of a signal whenever it arrives; replaces the last one.

        The thread does nothing else, so a handler may wait for a lock, though not for long.
        Programs started by this process have the signal's default action.
        """
        self._handlers[number] = handler
        signal.signal(number, lambda *_: None)

    def _run(self) -> None:
        while True:
            for number in os.read(self._reading, 64):
                if number in self._handlers:
                    self._handlers[number](number)
