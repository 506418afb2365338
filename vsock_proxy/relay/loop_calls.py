"""Runs functions on the event loop's thread and returns their results to other threads."""

from __future__ import annotations

import concurrent.futures
import threading
from collections import deque
from typing import TYPE_CHECKING, TypeVar

from vsock_proxy.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT = 10.0
"""Seconds for the loop to run a function."""

T = TypeVar("T")


class LoopCalls:
    """Runs functions between two turns of a loop; on the calling thread while no loop runs.

    Args:
        call_from_thread: calls a function on the loop soon; safe from any thread.
    """

    def __init__(self, call_from_thread: Callable[[Callable[[], None]], None]) -> None:
        self._call_from_thread = call_from_thread
        self._queue: deque[tuple[Callable[[], object], concurrent.futures.Future[object]]] = deque()
        self._lock = threading.Lock()
        self._thread: int | None = None

    def begin(self) -> None:
        """Note that the loop runs on this thread from now on."""
        with self._lock:
            self._thread = threading.get_ident()

    def end(self) -> None:
        """Note that the loop has ended; run here what is still queued."""
        with self._lock:
            self._thread = None
        self._run_queued()

    def call(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, or raise what it raises. Not for signal handlers.

        Raises:
            AgentError: the loop does not respond. `call` was not called, and will not be.
        """
        with self._lock:
            if self._thread in (None, threading.get_ident()):
                return call()
            future: concurrent.futures.Future[T] = concurrent.futures.Future()
            self._queue.append((call, future))  # type: ignore[arg-type]
        self._call_from_thread(self._run_queued)
        try:
            return future.result(TIMEOUT)
        except TimeoutError:
            if future.cancel():
                raise AgentError(f"no response of the relay within {TIMEOUT:g} s") from None
            return future.result()  # It is running at this moment.

    def _run_queued(self) -> None:
        while self._queue:
            call, future = self._queue.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except Exception as e:  # noqa: BLE001 (raised in the thread that called)
                future.set_exception(e)
