"""What the launcher's tests share: an NSM, a service of the parent, and programs to run."""

from __future__ import annotations

import functools
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enclave_simulator.launcher import Launcher, LaunchError
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = Path(__file__).parent / "programs"


class EchoNsm:
    """Says back what it was asked: the launcher carries bytes and reads none of them."""

    def exchange(self, request: bytes) -> bytes:
        return b"echo:" + request


class Parent:
    """A service of the parent on CID 3: answers ping with pong, for any number of clients."""

    def __init__(self, path: Path) -> None:
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen(1024)
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            with client:
                while client.recv(4) == b"ping":
                    client.sendall(b"pong")

    def close(self) -> None:
        self.server.shutdown(socket.SHUT_RDWR)
        self.thread.join(TEST_TIMEOUT)
        self.server.close()


@contextmanager
def parent(path: Path) -> Iterator[None]:
    service = Parent(path)
    try:
        yield
    finally:
        service.close()


def output(launcher: Launcher, *argv: str, **options: Any) -> tuple[int, str, str]:
    pipes: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    with launcher.start(argv, **pipes, **options) as session:
        out, err = session.process.communicate(timeout=TEST_TIMEOUT)
        return session.wait(), out.decode(), err.decode()


def python(launcher: Launcher, script: str) -> str:
    status, out, err = output(launcher, sys.executable, "-c", script)
    assert (status, err) == (0, "")
    return out


@functools.cache
def namespaces_refused() -> str:
    """Return why the kernel gives this user no namespaces; empty if it does."""
    try:
        Launcher(nsm=EchoNsm(), namespaces=True).run(["true"])
    except LaunchError as e:
        return str(e)
    return ""


@contextmanager
def connect(path: Path) -> Iterator[socket.socket]:
    """Connect to a UNIX socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TEST_TIMEOUT)
        client.connect(str(path))
        yield client
