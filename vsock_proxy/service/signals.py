"""Hearing signals in a thread of its own, so that none is late.

The kernel hands a signal to any thread, and Python runs its handler in the main one, which is not
woken for it: one that waits, for a thread to end for example, may sleep for as long as that takes.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ENDS = (signal.SIGTERM, signal.SIGINT)
"""What ends a daemon."""


class Signals:
    """The thread that hears signals. One for a process, made and told in the main thread."""

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int], object]] = {}
        self._reading, writing = os.pipe()
        os.set_blocking(writing, False)
        # CPython's own handler writes each signal's number there, in whichever thread it runs.
        signal.set_wakeup_fd(writing)
        threading.Thread(target=self._run, name="signals", daemon=True).start()

    def hear(self, number: signal.Signals, handler: Callable[[int], object]) -> None:
        """Have a signal call its handler, with its number, from now on; the latest counts.

        The thread does nothing else, so a handler may wait for locks, and must not for long.
        Programs started from here have the signal's default, as if it had never been heard.
        """
        self._handlers[number] = handler
        signal.signal(number, lambda *_: None)

    def _run(self) -> None:
        while True:
            for number in os.read(self._reading, 64):
                if number in self._handlers:
                    self._handlers[number](number)
