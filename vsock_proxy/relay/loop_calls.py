"""Questions to a loop from other threads, and its answers."""

from __future__ import annotations

import concurrent.futures
import threading
from collections import deque
from typing import TYPE_CHECKING, TypeVar

from vsock_proxy.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Callable

ANSWER_TIMEOUT = 10.0
"""Seconds after which a loop that has not answered another thread is given up."""

T = TypeVar("T")


class Calls:
    """Calls functions between two turns of a loop, or where they come from while none runs.

    Args:
        call_from_thread: has the loop call something soon; safe from any thread.
    """

    def __init__(self, call_from_thread: Callable[[Callable[[], None]], None]) -> None:
        self._call_from_thread = call_from_thread
        self._queue: deque[tuple[Callable[[], object], concurrent.futures.Future[object]]] = deque()
        self._lock = threading.Lock()
        self._thread: int | None = None

    def begin(self) -> None:
        """The loop runs in this thread from now on."""
        with self._lock:
            self._thread = threading.get_ident()

    def end(self) -> None:
        """It runs no more; what is still asked is answered here."""
        with self._lock:
            self._thread = None
        self._answer()

    def call(self, call: Callable[[], T]) -> T:
        """Return what `call` does, or raise what it raises. From any thread, no signal handler.

        Raises:
            AgentError: the loop does not answer. `call` was not called, and will not be.
        """
        with self._lock:
            if self._thread in (None, threading.get_ident()):
                return call()
            future: concurrent.futures.Future[T] = concurrent.futures.Future()
            self._queue.append((call, future))  # type: ignore[arg-type]
        self._call_from_thread(self._answer)
        try:
            return future.result(ANSWER_TIMEOUT)
        except TimeoutError:
            if future.cancel():
                raise AgentError(f"no answer of the relay within {ANSWER_TIMEOUT:g} s") from None
            return future.result()  # It is being called this very moment.

    def _answer(self) -> None:
        while self._queue:
            call, future = self._queue.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except Exception as e:  # noqa: BLE001 (raised where it was asked for)
                future.set_exception(e)
