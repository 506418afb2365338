"""A server of the simulator that ends leaves no client waiting, no socket and no thread."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from enclave_simulator.kms.service import KmsService
from enclave_simulator.kms.threaded import KmsSimulator
from enclave_simulator.launcher.relay import relaying
from enclave_simulator.metadata.container import ContainerCredentials
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.net.addresses import TcpAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from enclave_simulator.authority import Authority

CLIENT_HELLO = bytes.fromhex("16 0301 0200 01 0001fc 0303")
"""The beginning of one: a record of 512 bytes is announced."""


@contextlib.contextmanager
def kms(authority: Authority) -> Iterator[int]:
    with KmsSimulator(KmsService(authority.root_pem)) as simulator:
        yield simulator.port


@contextlib.contextmanager
def credentials(_authority: Authority) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    with ContainerCredentials(listener).running():
        yield listener.getsockname()[1]


@contextlib.contextmanager
def relay(_authority: Authority) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as target:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        with relaying(listener, TcpAddress("127.0.0.1", target.getsockname()[1])):
            yield port


def read_by_server(client: socket.socket) -> bool:
    """Whether the server has accepted a client, and read all that it sent.

    In the kernel's table the server's end has no inode before it is accepted.
    """
    ends = tuple(f"{end[1]:04X}" for end in (client.getpeername(), client.getsockname()))
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        _, local, remote, _, queues, _, _, _, _, inode, *_ = line.split()
        ports = local.partition(":")[2], remote.partition(":")[2]
        if ports == ends:
            return inode != "0" and queues.endswith(":00000000")
    return False


@pytest.mark.parametrize(
    ("server", "sent"),
    [
        (kms, b""),
        (kms, CLIENT_HELLO),
        (credentials, b""),
        (credentials, b"GET / HT"),
        (relay, b""),
        (relay, b"GET / HT"),
    ],
    ids=["kms", "kms-hello", "credentials", "credentials-http", "relay", "relay-http"],
)
def test_clients_that_have_sent_half_a_message_are_closed(
    server: Callable[[Authority], contextlib.AbstractContextManager[int]],
    sent: bytes,
    nitro_authority: Authority,
) -> None:
    threads = set(threading.enumerate())
    with contextlib.ExitStack() as stack:
        with server(nitro_authority) as port:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.settimeout(TEST_TIMEOUT)
            client.sendall(sent)
            eventually(lambda: read_by_server(client))
        assert set(threading.enumerate()) == threads
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    gc.collect()  # an unclosed socket or transport is a warning, which is an error
