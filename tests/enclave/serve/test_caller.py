"""Calls made for an event loop: in order, bounded, and each with one result."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from enclave.errors import AgentError, KmsUnreachableError
from enclave.kms.client import KmsResponse
from enclave.serve.caller import Caller
from enclave.serve.protocol import EndpointError
from tests.doubles import no_threads
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

RESPONSE = KmsResponse({"Plaintext": b"begun"}, "1")
MADE = KmsResponse({"Plaintext": b"made"}, "2")


class Begun:
    """A begun call whose response is what the test sends."""

    def __init__(self, timeout: float = TEST_TIMEOUT) -> None:
        self.timeout = timeout
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.error: Exception | None = None
        self.bug: Exception | None = None
        self.closed = False

    def fileno(self) -> int:
        return self.ours.fileno()

    def receive(self) -> bool:
        data = self.ours.recv(100)
        if data == b"bug":
            raise RuntimeError("a bug")
        if not data:
            self.close()
            raise KmsUnreachableError("the connection broke")
        return data.endswith(b".")

    def result(self) -> KmsResponse:
        if self.error is not None:
            raise self.error
        return RESPONSE

    def expire(self) -> AgentError:
        self.close()
        return KmsUnreachableError("no response in time")

    def close(self) -> None:
        self.closed = True
        self.ours.close()


class Kms:
    """What begins calls, and makes them in a thread."""

    def __init__(self) -> None:
        self.begun: list[Begun] = []
        self.names: list[str] = []
        self.failed: list[AgentError | None] = []
        self.timeouts: list[float] = []
        self.next: Begun | AgentError | None = None

    def begin(self, operation: str, _: Mapping[str, Any]) -> Begun | None:
        self.names.append(operation)
        if isinstance(self.next, AgentError):
            raise self.next
        call = self.next or Begun()
        self.begun.append(call)
        return call

    def make(
        self,
        _operation: str,
        _: Mapping[str, Any],
        *,
        timeout: float,
        failed: AgentError | None = None,
    ) -> KmsResponse:
        self.failed.append(failed)
        self.timeouts.append(timeout)
        return MADE


@pytest.fixture
def kms() -> Any:
    made = Kms()
    yield made
    for call in made.begun:
        call.ours.close()
        call.theirs.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    async def within() -> None:
        async with asyncio.timeout(TEST_TIMEOUT):
            await work

    asyncio.run(within())


def call(caller: Caller, kms: Kms, name: str = "a") -> asyncio.Future[KmsResponse]:
    return caller.call(kms.make, kms.begin, name, {}, timeout=TEST_TIMEOUT)


def test_the_loop_receives_a_response_however_it_is_cut(kms: Kms) -> None:
    async def work() -> None:
        caller = Caller(1)
        future = call(caller, kms)
        for piece in (b"a", b"b", b"c."):
            assert not future.done()
            kms.begun[0].theirs.send(piece)
            await asyncio.sleep(0)
        assert await future is RESPONSE
        assert not kms.failed, "no thread made it"
        caller.close()

    run(work())


@pytest.mark.parametrize("end", [b"", b"half"])
def test_a_thread_goes_on_after_a_failed_attempt(kms: Kms, end: bytes) -> None:
    async def work() -> None:
        caller = Caller(1)
        future = call(caller, kms)
        kms.begun[0].theirs.send(end)
        kms.begun[0].theirs.close()
        assert await future is MADE
        assert [str(error) for error in kms.failed] == ["the connection broke"]
        caller.close()

    run(work())


@pytest.mark.parametrize("begun", [False, True])
def test_a_thread_makes_what_cannot_be_begun(kms: Kms, *, begun: bool) -> None:
    async def work() -> None:
        caller = Caller(1)
        kms.next = AgentError("a parameter is invalid")
        begin = kms.begin if begun else None
        assert await caller.call(kms.make, begin, "a", {}, timeout=TEST_TIMEOUT) is MADE
        assert kms.failed == [None]
        caller.close()

    run(work())


def test_an_error_of_the_response_is_the_callers(kms: Kms) -> None:
    async def work() -> None:
        caller = Caller(1)
        future = call(caller, kms)
        kms.begun[0].error = AgentError("it does not open")
        kms.begun[0].theirs.send(b".")
        with pytest.raises(AgentError, match="it does not open"):
            await future
        assert not kms.failed
        caller.close()

    run(work())


def test_a_response_that_does_not_come_in_time_is_a_failed_attempt(kms: Kms) -> None:
    async def work() -> None:
        caller = Caller(1)
        kms.next = Begun(timeout=0.01)
        assert await call(caller, kms) is MADE
        assert [str(error) for error in kms.failed] == ["no response in time"]
        assert kms.begun[0].closed
        caller.close()

    run(work())


def test_a_bug_is_told_and_the_place_free_again(kms: Kms) -> None:
    async def work() -> None:
        caller = Caller(1)
        future = call(caller, kms)
        kms.begun[0].theirs.send(b"bug")
        with pytest.raises(RuntimeError):
            await future
        future = call(caller, kms)
        kms.begun[1].theirs.send(b".")
        assert await future is RESPONSE
        caller.close()

    run(work())


def test_so_many_at_the_same_time_in_order_and_without_those_withdrawn(kms: Kms) -> None:
    async def work() -> None:
        caller = Caller(2)
        futures = [call(caller, kms, name) for name in "abcdef"]
        assert kms.names == ["a", "b"]
        futures[2].cancel()
        futures[1].cancel()  # under way
        kms.begun[0].theirs.send(b".")
        assert await futures[0] is RESPONSE
        while len(kms.names) < 4:  # noqa: ASYNC110 (it has no event)
            await asyncio.sleep(0)
        assert kms.names == ["a", "b", "d", "e"]
        for begun in kms.begun[2:]:
            begun.theirs.send(b".")
        while len(kms.names) < 5:  # noqa: ASYNC110 (it has no event)
            await asyncio.sleep(0)
        kms.begun[4].theirs.send(b".")
        assert [await futures[n] for n in (3, 4, 5)] == [RESPONSE] * 3
        caller.close()

    run(work())


def test_a_withdrawn_call_leaves_its_place_at_once(kms: Kms) -> None:
    """KMS may be silent for longer than any client waits: the next call must not wait for it."""

    async def work() -> None:
        caller = Caller(1)
        first, second = call(caller, kms, "a"), call(caller, kms, "b")
        first.cancel()
        while len(kms.names) < 2:  # noqa: ASYNC110 (it has no event)
            await asyncio.sleep(0)
        assert kms.begun[0].closed
        assert not kms.failed, "no thread goes on with it"
        kms.begun[1].theirs.send(b".")
        assert await second is RESPONSE
        caller.close()

    run(work())


def test_a_thread_works_no_longer_than_its_client_waits(kms: Kms) -> None:
    async def work() -> None:
        caller = Caller(1)
        kms.next = Begun(timeout=0.01)
        assert await caller.call(kms.make, kms.begin, "a", {}, timeout=0) is MADE
        kms.next = AgentError("a parameter is invalid")
        assert await call(caller, kms) is MADE
        assert 0 < kms.timeouts[0] < kms.timeouts[1] <= TEST_TIMEOUT
        caller.close()

    run(work())


def test_without_a_thread_each_call_is_an_error_and_no_place_is_lost(
    kms: Kms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(*_: object) -> NoReturn:
        raise RuntimeError("can't start new thread")

    async def work() -> None:
        caller = Caller(1)
        kms.next = AgentError("it cannot be begun")
        monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
        futures = [call(caller, kms) for _ in range(300)]
        for future in futures:
            with pytest.raises(EndpointError, match="no thread"):
                await future
        monkeypatch.undo()
        assert await call(caller, kms) is MADE
        caller.close()

    run(work())


def test_a_call_that_had_no_thread_is_not_made_later(kms: Kms) -> None:
    """An executor keeps what it had no thread for; one of its threads would do it."""

    async def work() -> None:
        caller = Caller(2)
        kms.next = AgentError("it cannot be begun")
        assert await call(caller, kms) is MADE  # its thread stays
        made = len(kms.timeouts)
        other_work = threading.Event()
        with caller._threads._idle_semaphore:
            pass  # Once that thread is idle: it gets this, and no further one is started.
        caller._threads.submit(other_work.wait, TEST_TIMEOUT)
        with no_threads(), pytest.raises(EndpointError, match="no thread"):
            await call(caller, kms)
        other_work.set()
        caller._threads.shutdown(wait=True)  # Until all that it keeps is done.
        assert len(kms.timeouts) == made

    run(work())


def test_closing_ends_what_is_under_way(kms: Kms) -> None:
    async def work() -> None:
        before = threading.active_count()
        caller = Caller(1)
        call(caller, kms)
        waiting = call(caller, kms)
        caller.close()
        assert kms.begun[0].closed
        assert not waiting.done()
        assert threading.active_count() == before

    run(work())
