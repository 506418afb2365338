"""An event loop in a thread of its own, for servers that a test's clients talk to."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, Protocol

from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterator


class _Server(Protocol):
    @property
    def connections(self) -> Collection[object]: ...

    def close(self) -> None: ...


class LoopThread:
    """Runs coroutines on the loop; what lives there is to be touched through `run` only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(TEST_TIMEOUT)

    def until(self, reached: Callable[[], object]) -> None:
        """Wait for what the loop does by itself; with a deadline, and without a guess at how
        long it takes.
        """

        async def wait() -> None:
            async with asyncio.timeout(TEST_TIMEOUT):
                while not reached():  # noqa: ASYNC110 (what is waited for has no event)
                    await asyncio.sleep(0.005)

        self.run(wait())

    def close(self, *held: _Server) -> None:
        """Close servers, and wait until their clients are gone."""

        async def close() -> None:
            for each in held:
                each.close()
            while any(each.connections for each in held):  # noqa: ASYNC110 (as above)
                await asyncio.sleep(0)

        self.run(close())


@contextlib.contextmanager
def loop_thread(name: str) -> Iterator[LoopThread]:
    """Run a loop for the length of a ``with`` block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name=name, daemon=True)
    thread.start()
    try:
        yield LoopThread(loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(TEST_TIMEOUT)
        loop.close()
