"""Attested TLS over the enclave's kind of socket. True AF_VSOCK in the guest (`make test-vsock`),
UNIX sockets elsewhere.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
from typing import TYPE_CHECKING

import pytest

from enclave.attested_tls.connecting import connect_with
from enclave.errors import ConfigurationError
from tests.enclave.attested_tls.serving import (
    RESPONSE,
    Program,
    end,
    expecting,
    program,
    served,
)
from tests.sockets import read_all
from tests.vsock_proxy.rig import LOCAL, Place
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.listening import listening

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from vsock_proxy.net.addresses import Address

BULK = bytes(range(256)) * 16_384  # 4 MiB


@pytest.fixture
def address(tmp_path: Path) -> Address:
    return Place(LOCAL, tmp_path).address("attested")


@pytest.fixture
def listener(address: Address) -> Iterator[socket.socket]:
    with listening(address) as made:
        yield made


def test_requests_documents_and_a_clean_end(address: Address, listener: socket.socket) -> None:
    with program(Program()) as behind, served(behind.port, listener=listener) as made:
        for _ in range(3):
            with connect_with(expecting(), "localhost", address) as tls:
                assert tls.document is not None
                tls.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert tls.recv(1000) == RESPONSE
        for _ in range(3):
            assert behind.ended.acquire(timeout=TEST_TIMEOUT)
        assert made.documents.made == 3
    assert behind.seen == [b"GET / HTTP/1.1\r\n\r\n"] * 3


def test_bulk_and_a_response_after_a_half_close(address: Address, listener: socket.socket) -> None:
    def handle(connection: socket.socket) -> None:
        received = read_all(connection)
        connection.sendall(hashlib.sha256(received).digest() + received)

    with program(Program(handle)) as behind, served(behind.port, listener=listener):
        tls = connect_with(expecting(), "localhost", address)
        tls.sendall(BULK)
        end(tls)
        received = b"".join(iter(lambda: tls.recv(65_536), b""))
        tls.close()
    assert received == hashlib.sha256(BULK).digest() + BULK


def test_a_client_that_is_cut_off(address: Address, listener: socket.socket) -> None:
    gone = threading.Event()

    def handle(connection: socket.socket) -> None:
        connection.sendall(b"x")
        gone.wait(TEST_TIMEOUT)
        connection.sendall(BULK)
        read_all(connection)

    with program(Program(handle)) as behind, served(behind.port, listener=listener) as made:
        tls = connect_with(expecting(), "localhost", address)
        tls.sendall(b"half")
        assert tls.recv(1) == b"x"
        tls.shutdown(2)  # without TLS's own end
        with pytest.raises((ssl.SSLError, OSError)):
            tls.sendall(b"more")
        tls.close()
        gone.set()
        assert behind.ended.acquire(timeout=TEST_TIMEOUT)
        made.until(lambda: not made.server.connections)
    assert behind.reset == 1


@pytest.mark.parametrize("host", ["", ".example", "a\0b"])
def test_a_name_that_no_server_has_is_not_dialled(
    address: Address, listener: socket.socket, host: str
) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the name of a TLS server"):
        connect_with(expecting(), host, address)
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()
