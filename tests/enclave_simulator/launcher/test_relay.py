"""The relay out of a network of the program's own: how many connections it takes at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from typing import TYPE_CHECKING, cast

import pytest

from enclave_simulator.launcher import relay
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.net.addresses import TcpAddress

if TYPE_CHECKING:
    from collections.abc import Iterator


class Listener:
    """A listening socket that counts calls of accept, and fails the first ones as it is told."""

    def __init__(self, *failures: int) -> None:
        self.real = socket.create_server(("127.0.0.1", 0))
        self.failures = list(failures)
        self.asked = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.asked += 1
        if self.failures:
            code = self.failures.pop(0)
            raise OSError(code, os.strerror(code))
        return self.real.accept()

    def shutdown(self, how: int) -> None:
        self.real.shutdown(how)

    def close(self) -> None:
        self.real.close()

    def call(self) -> socket.socket:
        return socket.create_connection(self.real.getsockname(), TEST_TIMEOUT)


class Pauses(threading.Event):
    """An event that counts how often it is awaited."""

    count = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.count += 1
        return super().wait(timeout)


@pytest.fixture
def service() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TEST_TIMEOUT)
        yield server


@contextlib.contextmanager
def running(listener: Listener, service: socket.socket) -> Iterator[Pauses]:
    """Run a relay from a listener to a service."""
    target = TcpAddress("127.0.0.1", service.getsockname()[1])
    started = relay._Relay(cast("socket.socket", listener), target)
    started._stopped = pauses = Pauses()
    thread = threading.Thread(target=started.run)
    thread.start()
    try:
        yield pauses
    finally:
        started.stop()
        thread.join(TEST_TIMEOUT)
        assert not thread.is_alive()
        eventually(lambda: not any("_serve" in each.name for each in threading.enumerate()))


def test_further_connections_wait_for_a_place(
    service: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MAX_CONNECTIONS", 2)
    listener = Listener()
    with running(listener, service), contextlib.ExitStack() as held:
        callers = [held.enter_context(listener.call()) for _ in range(3)]
        servers = [service.accept()[0] for _ in range(2)]
        assert listener.asked == 2, "the third is left in the kernel's queue"
        callers[2].sendall(b"third")
        for end in (*servers, *callers[:2]):
            end.close()
        with service.accept()[0] as third:
            third.settimeout(TEST_TIMEOUT)
            assert third.recv(100) == b"third"


def test_a_relay_without_descriptors_pauses_and_goes_on(service: socket.socket) -> None:
    listener = Listener(errno.EMFILE, errno.ECONNABORTED, errno.ENFILE)
    with running(listener, service) as pauses, listener.call() as caller:
        caller.sendall(b"hello")
        with service.accept()[0] as served:
            served.settimeout(TEST_TIMEOUT)
            assert served.recv(100) == b"hello"
        assert pauses.count == 2, "one for each lack"
