"""Connections that are kept for the next accept on their listener."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from enclave_simulator.launcher.kept import KeptConnections, is_readable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Listening:
    """A listener as a program's, and its clients."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(path)
        self.socket.listen()
        self.inode = os.fstat(self.socket.fileno()).st_ino
        self.opened: list[socket.socket] = [self.socket]

    def connect(self, name: bytes) -> None:
        client = socket.socket(socket.AF_UNIX)
        self.opened.append(client)
        client.connect(self.path)
        client.sendall(name)

    def take(self, kept: KeptConnections) -> bytes:
        connection, _ = kept.take(self.inode, self.socket)
        with connection:
            return connection.recv(10)


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Listening]:
    made = Listening(str(tmp_path / "listener"))
    yield made
    for each in made.opened:
        each.close()


@pytest.fixture
def kept() -> Iterator[KeptConnections]:
    made = KeptConnections()
    yield made
    made.close()


@pytest.mark.parametrize("behind", [0, 1, 3])
def test_listener_shows_what_is_kept_and_nothing_else(
    listening: Listening, kept: KeptConnections, behind: int
) -> None:
    for number in range(behind + 1):
        listening.connect(b"%d" % number)
    for _ in range(3):  # it is given back by several threads, one after the other
        kept.keep(listening.inode, listening.socket, kept.take(listening.inode, listening.socket))
    listening.connect(b"last")
    for expected in [*(b"%d" % number for number in range(behind + 1)), b"last"]:
        assert is_readable(listening.socket)
        assert listening.take(kept) == expected
    assert not is_readable(listening.socket)
    assert not kept


def test_client_that_is_gone_before_it_is_accepted(
    listening: Listening, kept: KeptConnections
) -> None:
    listening.connect(b"first")
    first = kept.take(listening.inode, listening.socket)
    listening.connect(b"gone")
    listening.opened.pop().close()
    kept.keep(listening.inode, listening.socket, first)
    assert listening.take(kept) == b"first"
    # Where its queue is not the kernel's own any more, it may be lost: it is over anyway.
    if kept or is_readable(listening.socket):
        assert listening.take(kept) in (b"gone", b"")
    assert not is_readable(listening.socket)


def test_what_is_kept_ends_with_its_listener(listening: Listening, kept: KeptConnections) -> None:
    listening.connect(b"first")
    kept.keep(listening.inode, listening.socket, kept.take(listening.inode, listening.socket))
    kept.release()
    assert kept
    listening.socket.close()
    kept.release()
    assert not kept
    with pytest.raises(ConnectionResetError):  # what it sent was never read
        listening.opened[1].recv(1)
