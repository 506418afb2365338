"""A network of the program's own with services on it, and the same without one."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from enclave_simulator.launcher import Launcher
from tests.enclave_simulator.launcher.rig import EchoNsm, namespaces_refused, output, python
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import TcpAddress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def shouter() -> Iterator[TcpAddress]:
    """Return where a service listens that responds in capitals, after the end of the request."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with client:
                        request = b""
                        while data := client.recv(65536):
                            request += data
                        client.sendall(request.upper())

        thread = threading.Thread(target=serve)
        thread.start()
        yield TcpAddress("127.0.0.1", server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        thread.join(TEST_TIMEOUT)


ASK = """
import os, socket
def ask(host, port):
    with socket.create_connection((host, port), timeout=300) as s:
        s.sendall(b"hello " * 100_000)
        s.shutdown(socket.SHUT_WR)
        got = b""
        while data := s.recv(65536):
            got += data
    return got == b"HELLO " * 100_000
"""


def test_names_and_link_local_addresses(tmp_path: Path, shouter: TcpAddress) -> None:
    if namespaces_refused():
        pytest.skip(namespaces_refused())
    launcher = Launcher(
        nsm=EchoNsm(),
        folder=tmp_path,
        namespaces=True,
        own_network=True,
        services={("169.254.169.254", 80): shouter, ("198.51.100.1", 443): shouter},
        hosts={"kms.example.test": "198.51.100.1"},
        env_with={"WAY": "with"},
        env_without={"WAY": "without"},
    )
    with launcher.start(["true"]) as session:
        if not session.own_network:
            pytest.skip("the kernel gives this user no network namespace")
    script = (
        ASK
        + """
print(ask("169.254.169.254", 80), ask("kms.example.test", 443), os.environ["WAY"])
print(socket.gethostbyname("localhost"))
"""
    )
    assert python(launcher, script) == "True True with\n127.0.0.1\n"


def test_without_a_network_of_its_own_variables_say_where(
    tmp_path: Path, shouter: TcpAddress
) -> None:
    launcher = Launcher(
        nsm=EchoNsm(),
        folder=tmp_path,
        namespaces=False,
        own_network=True,
        services={("169.254.169.254", 80): shouter},
        hosts={"kms.example.test": "198.51.100.1"},
        env_with={"WAY": "with"},
        env_without={"PORT": str(shouter.port)},
    )
    script = (
        ASK
        + """
print(ask("127.0.0.1", int(os.environ["PORT"])), "WAY" in os.environ)
"""
    )
    assert python(launcher, script) == "True False\n"


def test_a_service_that_is_not_there_ends_the_connection(tmp_path: Path) -> None:
    if namespaces_refused():
        pytest.skip(namespaces_refused())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    launcher = Launcher(
        nsm=EchoNsm(),
        folder=tmp_path,
        namespaces=True,
        own_network=True,
        services={("127.0.0.1", 80): TcpAddress("127.0.0.1", port)},
    )
    script = """
import socket
try:
    print(socket.create_connection(("127.0.0.1", 80), timeout=300).recv(1))
except ConnectionResetError:
    print(b"")
"""
    status, out, _ = output(launcher, "python3", "-c", script)
    if status == 0:
        assert out == "b''\n"
