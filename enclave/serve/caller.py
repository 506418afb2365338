"""Makes calls to KMS for an event loop: so many at the same time, first come, first served.

The loop itself sends the request, receives the response when the kernel says that it has come, and
opens it (docs/adr/0023). A thread makes a call, or goes on with it, if it has to wait for something
else than that response: a new connection, credentials, an attestation document, a retry.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from enclave.errors import AgentError
from enclave.serve.protocol import EndpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from enclave.kms.client import KmsResponse

    Begin = Callable[[str, Mapping[str, Any]], "Begun | None"]
    """`Agent.begin`: does not block."""

    MakeCall = Callable[..., KmsResponse]
    """`Agent.call`: blocks. It is given `timeout`, and `failed` after an attempt that was begun."""


_SHORTEST = 0.001
"""Seconds: a thread is never given less."""


def _no_thread() -> EndpointError:
    return EndpointError(
        "ServiceUnavailable",
        "no thread to make the call in",
        status=503,
        hint="there are too many threads, or too little memory",
    )


class Begun(Protocol):
    """A call whose request was sent; `enclave.begun.BegunCall`.

    Attributes:
        timeout: seconds for the response.
    """

    timeout: float

    def fileno(self) -> int:
        """Return the file descriptor that is readable when more of the response has come."""
        ...

    def receive(self) -> bool:
        """Read what has come; return whether that is all.

        Raises:
            AgentError: the attempt has failed.
        """
        ...

    def result(self) -> KmsResponse:
        """Open the response, once all is received.

        Raises:
            AgentError: it does not open.
        """
        ...

    def expire(self) -> AgentError:
        """Receive no more; return the error of a response that did not come in time."""
        ...

    def close(self) -> None:
        """Receive no more."""
        ...


class _Job:
    """One call, until its future has a result."""

    __slots__ = ("begin", "begun", "ends", "future", "make", "operation", "parameters", "timer")

    def __init__(
        self,
        make: MakeCall,
        begin: Begin | None,
        operation: str,
        parameters: Mapping[str, Any],
        future: asyncio.Future[KmsResponse],
        ends: float,
    ) -> None:
        self.make = make
        self.begin = begin
        self.operation = operation
        self.parameters = parameters
        self.future = future
        self.ends = ends
        self.begun: Begun | None = None
        self.timer: asyncio.TimerHandle | None = None


def _make(job: _Job, **options: Any) -> KmsResponse | None:
    """Make a call, in a thread.

    Not one whose future is done: an executor without a thread for it has kept it all the same.
    """
    if job.future.done():
        return None
    return job.make(job.operation, job.parameters, **options)


class Caller:
    """Makes calls for the running loop. To be closed.

    Args:
        most: calls made at the same time; the others wait, in order.
    """

    def __init__(self, most: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._free = most
        self._waiting: deque[_Job] = deque()
        self._begun: dict[int, _Job] = {}  # by file descriptor
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="KMS call")

    def call(
        self,
        make: MakeCall,
        begin: Begin | None,
        operation: str,
        parameters: Mapping[str, Any],
        *,
        timeout: float,
    ) -> asyncio.Future[KmsResponse]:
        """Make a call, as soon as there are fewer than `most`.

        Args:
            make: makes the call in a thread, or goes on with it.
            begin: sends its request from the loop; None if nothing can.
            operation: as the KMS API names it.
            parameters: JSON types only.
            timeout: seconds after which the caller cancels what this returns: a thread works no
                longer.

        Returns:
            The future response. If it is cancelled, the call is not made, or its response not
            waited for: its turn is the next one's.
        """
        future: asyncio.Future[KmsResponse] = self._loop.create_future()
        job = _Job(make, begin, operation, parameters, future, self._loop.time() + timeout)
        future.add_done_callback(partial(self._withdrawn, job))
        if self._free:
            self._free -= 1
            self._start(job)
        else:
            self._waiting.append(job)
        return job.future

    def close(self) -> None:
        """Make none of the calls that wait; those under way end unheard."""
        self._waiting.clear()
        for fd, job in tuple(self._begun.items()):
            begun = job.begun
            self._unwatch(fd, job)
            if begun is not None:
                begun.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _start(self, job: _Job) -> None:
        try:
            begun = job.begin and job.begin(job.operation, job.parameters)
        except AgentError:
            begun = None  # `make` ends in the same error
        if not begun:
            self._go_on(job, None)
            return
        fd = begun.fileno()
        job.begun = begun
        job.timer = self._loop.call_later(begun.timeout, self._expire, fd, job, begun)
        self._begun[fd] = job
        self._loop.add_reader(fd, self._readable, fd, job, begun)

    def _readable(self, fd: int, job: _Job, begun: Begun) -> None:
        result = error = None
        try:
            if not begun.receive():
                return
        except AgentError as e:
            self._unwatch(fd, job)
            self._go_on(job, e)
            return
        except Exception as e:  # noqa: BLE001 (a bug: the caller is told)
            error = e
        self._unwatch(fd, job)
        if error is None:
            try:
                result = begun.result()
            except Exception as e:  # noqa: BLE001 (the caller is told)
                error = e
        self._end(job, result, error)

    def _expire(self, fd: int, job: _Job, begun: Begun) -> None:
        self._unwatch(fd, job)
        self._go_on(job, begun.expire())

    def _withdrawn(self, job: _Job, future: asyncio.Future[KmsResponse]) -> None:
        """Receive no more for a client that has gone or got an error: silence is not waited out."""
        if future.cancelled() and (begun := job.begun) is not None:
            self._unwatch(begun.fileno(), job)
            begun.close()
            self._end(job, None, None)

    def _unwatch(self, fd: int, job: _Job) -> None:
        self._loop.remove_reader(fd)
        del self._begun[fd]
        job.begun = None
        if job.timer is not None:
            job.timer.cancel()

    def _go_on(self, job: _Job, failed: AgentError | None) -> None:
        """Have a thread make the call, or what is left of it after its first attempt."""
        left = max(job.ends - self._loop.time(), _SHORTEST)
        make = partial(_make, job, timeout=left)
        if failed is not None:
            make = partial(make, failed=failed)
        try:
            running = self._loop.run_in_executor(self._threads, make)
        except RuntimeError:  # the system has no more threads; soon: others wait for this place
            self._loop.call_soon(self._end, job, None, _no_thread())
            return
        running.add_done_callback(partial(self._returned, job))

    def _returned(self, job: _Job, running: asyncio.Future[KmsResponse]) -> None:
        if running.cancelled():  # by `close`
            job.future.cancel()
        elif (error := running.exception()) is not None:
            self._end(job, None, error)
        else:
            self._end(job, running.result(), None)

    def _end(self, job: _Job, result: KmsResponse | None, error: BaseException | None) -> None:
        if not job.future.done():  # otherwise its client has gone
            if result is not None:
                job.future.set_result(result)
            elif error is not None:
                job.future.set_exception(error)
        while self._waiting:
            job = self._waiting.popleft()
            if not job.future.done():
                self._start(job)
                return
        self._free += 1
