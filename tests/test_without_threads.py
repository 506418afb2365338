"""Each part of the project on a system that gives no more threads.

A part that needs one is an error with a hint, and leaves nothing open (`tests/descriptors.py`
looks); a part that can do without goes on.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import threading
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from enclave.cli import main
from enclave.cli.errors import EXIT_OTHER
from enclave.errors import AgentError
from enclave.logs.capture import Capture
from enclave.logs.handler import SinkHandler
from enclave.network.options import NetworkOptions
from enclave.network.service import network
from enclave.pool import RandomPool
from enclave.serve.metrics import Metrics
from enclave.serve.program import Program, run_to_end
from enclave.serve.readiness import Readiness
from enclave.serve.stop import Stop
from parent.credentials import CredentialService
from parent.credentials.settings import CredentialSettings
from parent.http_server import HttpServer, Response
from parent.logs.component import LogSink
from parent.logs.settings import LogSettings
from parent.proxy import ProxyService
from tests.doubles import no_threads
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.net.addresses import ConnectProxy, TcpAddress
from vsock_proxy.proxy.forward import Forward
from vsock_proxy.proxy.section import ProxySettings

if TYPE_CHECKING:
    from collections.abc import Callable

ANYWHERE = TcpAddress("127.0.0.1", 0)
NOWHERE = TcpAddress("127.0.0.1", 9)


def capture() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    Capture([reading], lambda _: None)


def program_network() -> None:
    options = NetworkOptions(listen=ANYWHERE, proxy=ConnectProxy(NOWHERE))
    with network(options):
        pass


def log_sink() -> None:
    sink = LogSink(LogSettings(cids=None, listen=ANYWHERE, to="stderr"))
    try:
        sink.start()
    finally:
        sink.stop(TEST_TIMEOUT)


NEED_ONE: dict[str, Callable[[], object]] = {
    "the pool": lambda: RandomPool(bytes),
    "the handler of logging": SinkHandler,
    "the reader of a program's output": capture,
    "a program's network": program_network,
    "the parent's HTTP servers": HttpServer(ANYWHERE, lambda _: Response(200, b""), name="x").start,
    "the parent's credential service": CredentialService(CredentialSettings(ANYWHERE)).start,
    "the parent's proxy": ProxyService(ProxySettings((Forward(ANYWHERE, NOWHERE),))).start,
    "the parent's log sink": log_sink,
}


@pytest.mark.parametrize("name", NEED_ONE)
def test_what_needs_a_thread_says_so(name: str) -> None:
    with no_threads(), pytest.raises(AgentError, match="cannot start a thread") as caught:
        NEED_ONE[name]()
    assert "ulimit -u" in caught.value.hint


def test_a_pool_with_too_few_threads_ends_those_it_has() -> None:
    before = threading.active_count()
    with no_threads(after=2), pytest.raises(AgentError, match="cannot start a thread"):
        RandomPool(os.urandom)
    eventually(lambda: threading.active_count() == before)


def test_readiness_without_a_thread_is_not_ready() -> None:
    async def work() -> None:
        readiness = Readiness(lambda: None)
        with no_threads():
            assert "cannot start a thread" in str(await readiness.obstacle())
        assert await readiness.obstacle() is None

    asyncio.run(work())


def test_numbers_that_need_a_thread_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> bytes:
        metrics = Metrics()
        metrics.add_slow(list)
        with no_threads():
            return await metrics.text()

    with caplog.at_level(logging.WARNING):
        asyncio.run(work())
    assert caplog.messages == ["no numbers: cannot start a thread or process"]


def test_a_program_that_no_thread_could_wait_for_does_not_run() -> None:
    async def work() -> None:
        program = Program(command=["true"], environ=os.environ)
        stop = Stop()
        with no_threads(), pytest.raises(AgentError, match="cannot start a thread"):
            await run_to_end(program, stop)
        assert stop.process is None

    asyncio.run(work())


def test_a_program_without_a_process_for_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fork(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(asyncio, "create_subprocess_exec", fork)
    program = Program(command=["true"], environ=os.environ)
    with pytest.raises(AgentError, match="cannot start a thread or process"):
        asyncio.run(run_to_end(program, Mock()))


@pytest.mark.parametrize("command", [["log"], ["serve", "--log-to", "vsock://3:9", "--no-kms"]])
def test_commands_without_a_process_say_so(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fork() -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    descriptors = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 (names only)
    monkeypatch.setattr(os, "fork", fork)
    assert main([*command, "--", "true"]) == EXIT_OTHER
    error = capfd.readouterr().err
    assert "error: cannot start a thread or process\n" in error
    assert "hint: raise the limit of processes" in error
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert set(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208 (as above)
