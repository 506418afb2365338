"""The enclave's log sender and the parent's sink, over the enclave's kind of socket.
True AF_VSOCK in the guest (`make test-vsock`), UNIX sockets elsewhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

import pytest

from enclave.logs.sender import Outcome, send_to_sink
from parent.logs.component import LogSink
from parent.logs.settings import LogSettings
from tests.chain.commands import run
from tests.chain.test_logs import LOG, Kept
from tests.vsock_proxy.rig import LOCAL, Place
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.net.addresses import Address, VsockAddress
from vsock_proxy.net.listening import listening

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SETTINGS = LogSettings(cids=None, lines_per_second=100_000, bytes_per_second=1 << 30)


@pytest.fixture
def address(tmp_path: Path) -> Address:
    return Place(LOCAL, tmp_path).address("logs")


@pytest.fixture
def kept() -> Kept:
    return Kept()


@contextlib.contextmanager
def sink(address: Address, kept: Kept, cids: frozenset[int] | None = None) -> Iterator[LogSink]:
    settings = dataclasses.replace(SETTINGS, listen=address, cids=cids)
    made = LogSink(settings, sink=kept)
    made.start()
    try:
        yield made
    finally:
        made.stop(TEST_TIMEOUT)


def test_all_lines_of_a_program_arrive(address: Address, kept: Kept) -> None:
    with sink(address, kept):
        command = (*LOG, "--to", str(address), "--flush", str(TEST_TIMEOUT), "--", "seq", "10000")
        done = run(*command)
        assert (done.stderr, done.returncode) == ("", 0)
        # The sink has closed its end: so it has read all, and needs no time more.
        assert kept.lines == [str(n) for n in range(1, 10_001)]


def test_restarted_sink_gets_the_following_lines(address: Address, kept: Kept) -> None:
    said: list[str] = []
    sender = send_to_sink(address, report=said.append)
    sender.put([b"before there is one"])
    eventually(lambda: said)
    with sink(address, kept):
        eventually(lambda: kept.lines == ["before there is one"])
    sender.put([b"while there is none"])
    eventually(lambda: len(said) == 3)
    assert "retrying" in said[2]
    with sink(address, kept):
        sender.put([b"after"])
        assert sender.close(TEST_TIMEOUT) == Outcome([], 0, confirmed=True)
    assert kept.lines[1:] == [
        "enclave-agent: logs: reconnected: lines just before this may be missing",
        "while there is none",
        "after",
    ]


def test_sink_that_reads_nothing_does_not_block(address: Address) -> None:
    with listening(address):
        sender = send_to_sink(address, limit=1 << 20)
        for _ in range(100):
            sender.put([b"x" * 1000] * 100)
        outcome = sender.close(0.5)
        assert outcome.unsent
        assert outcome.dropped > 5000
        assert not outcome.confirmed
        sender._thread.join(TEST_TIMEOUT)
        assert not sender._thread.is_alive(), "to close the socket has woken who waits for it"


def test_unnamed_enclave_is_distinguished(address: Address, kept: Kept) -> None:
    if not isinstance(address, VsockAddress):
        pytest.skip("UNIX sockets have no CIDs: make test-vsock")
    said: list[str] = []
    with sink(address, kept, frozenset({address.cid + 15})) as refusing:
        sender = send_to_sink(address, report=said.append)
        while not said:
            sender.put([b"x"])
        eventually(lambda: refusing.status().values["rejected"])
        sender.close(0)
    assert kept.lines == []
