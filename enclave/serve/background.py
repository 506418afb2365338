"""Work that blocks, for an event loop: in a thread of its own, at most one at a time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from vsock_proxy.service.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Background(Generic[T]):
    """Does the work when its result is wanted; what is wanted meanwhile is the same result.

    Args:
        work: blocks, ends by itself, and raises nothing.
        name: of the thread.
        done: is given each result, on the loop's thread.
    """

    def __init__(
        self, work: Callable[[], T], name: str, done: Callable[[T], object] = lambda _: None
    ) -> None:
        self._work = work
        self._name = name
        self._done = done
        self._running: asyncio.Future[T] | None = None

    async def result(self, patience: float) -> T:
        """Return the result.

        Raises:
            TimeoutError: it is not there after so many seconds; the work goes on.
            AgentError: the system has no more threads.
        """
        if self._running is None:
            loop = asyncio.get_running_loop()
            # A daemon: the process does not wait for it. The loop's own threads would.
            thread = threading.Thread(target=self._run, args=(loop,), name=self._name, daemon=True)
            start_thread(thread)
            self._running = loop.create_future()
        return await asyncio.wait_for(asyncio.shield(self._running), patience)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        result = self._work()
        with contextlib.suppress(RuntimeError):  # The loop has ended before the work.
            loop.call_soon_threadsafe(self._settle, result)

    def _settle(self, result: T) -> None:
        running, self._running = self._running, None
        self._done(result)
        if running is not None:
            running.set_result(result)
