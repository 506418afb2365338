"""Why and when `serve` ends: signals, an error, the parent's request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING, Any

from vsock_proxy.service.child import exit_code

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from enclave.errors import AgentError

log = logging.getLogger(__name__)


class Stop:
    """Signals: the program gets them while it runs; otherwise the first stops, the next hurries.

    Attributes:
        requested: set by the first signal.
        hurry: set by the next.
        process: the program, once it runs.
        failure: why it stops without a signal, if it does.
    """

    def __init__(self) -> None:
        self.requested, self.hurry = asyncio.Event(), asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None
        self.failure: AgentError | None = None
        self._signals = 0
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)

    def fail(self, error: AgentError) -> None:
        """Stop because of an error; the program is told to end."""
        log.warning("stopping: %s", error)
        self.failure = self.failure or error
        self.requested.set()
        if self.process is not None and self.process.returncode is None:
            _send(self.process, signal.SIGTERM)

    async def end(self, seconds: float) -> int | None:
        """End the program by SIGTERM, after `seconds` by SIGKILL; return its exit code.

        None if no program runs: then all of this process ends.
        """
        process = self.process
        if process is None or process.returncode is not None:
            self.requested.set()
            return None
        _send(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(seconds):
                code = await process.wait()
        except TimeoutError:
            log.warning("the program did not end within %g s and is killed", seconds)
            _send(process, signal.SIGKILL)
            code = await process.wait()
        return exit_code(code)

    def _signalled(self, number: int) -> None:
        self._signals += 1
        if self.process is not None and self.process.returncode is None:
            # The program decides when it ends; the keyboard's interrupt has reached it already.
            if self._signals > 1:
                _send(self.process, signal.SIGKILL)
            elif number == signal.SIGTERM:
                _send(self.process, signal.SIGTERM)
        elif self._signals == 1 and not self.requested.is_set():
            self.requested.set()
        else:
            self.hurry.set()


def _send(process: asyncio.subprocess.Process, number: int) -> None:
    """Send a signal, without the methods of `process`: these look first whether it has ended.

    If it just has, they take its exit status away from asyncio, which then reports 255.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)


async def either(work: Coroutine[Any, Any, None], event: asyncio.Event) -> None:
    """Work until it is done or the event has happened."""
    task, happened = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    await asyncio.wait((task, happened), return_when=asyncio.FIRST_COMPLETED)
    happened.cancel()
    if task.done():
        task.result()
    task.cancel()
