"""During and after errors the loop is idle: only ticks make it turn."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.sockets import read_all
from tests.vsock_proxy.rig import (
    LOCAL,
    Ends,
    Place,
    Rig,
    ask,
    closed_without_a_byte,
    flood,
    hole,
    in_thread,
    read_exactly,
    reset,
    text,
)
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import TcpAddress
from vsock_proxy.relay.connection import RelayLimits
from vsock_proxy.relay.resolver import AddressPolicy, HostResolver

if TYPE_CHECKING:
    from pathlib import Path

    from vsock_proxy.net.resolving import Candidate
    from vsock_proxy.relay.resolver import LookUp

PATIENT = RelayLimits(connect_timeout=1000)
"""So that the ticks of `Rig.assert_quiet` end nothing."""


def name_rig(folder: Path, look_up: LookUp) -> Rig:
    return Rig(
        Place(LOCAL, folder).address("proxy"),
        resolver=lambda loop: HostResolver(
            TcpAddress("the.server", 1), AddressPolicy(), loop.call_from_thread, look_up=look_up
        ),
        limits=PATIENT,
    )


@pytest.mark.parametrize("direction", ["up", "down"])
def test_slow_writer_is_relayed_byte_by_byte(ends: Ends, direction: str) -> None:
    with ends.pair() as (client, server):
        writer, reader = (client, server) if direction == "up" else (server, client)
        for byte in range(200):
            writer.sendall(bytes([byte]))
            assert reader.recv(2) == bytes([byte])  # Before there is another.
        ends.rig.assert_quiet()


@pytest.mark.parametrize("direction", ["up", "down"])
def test_slow_reader_gets_everything(ends: Ends, direction: str) -> None:
    words = text(2_000_000)
    again = words + words
    with ends.pair() as (client, server):
        writer, reader = (client, server) if direction == "up" else (server, client)
        connection = ends.connection()
        flow = connection.up if direction == "up" else connection.down
        writer.setblocking(False)
        sent = 0
        while not flow.tail:  # Nobody reads yet: in the end there is no room on the way.
            with contextlib.suppress(BlockingIOError):
                sent += writer.send(words[sent % len(words) :][:100_000])
        writer.settimeout(TEST_TIMEOUT)
        left = sent
        while left:
            piece = reader.recv(min(left, 20_000))
            at = (sent - left) % len(words)
            assert piece == again[at : at + len(piece)]
            left -= len(piece)
        ends.rig.assert_quiet()


@pytest.mark.parametrize("side", ["client", "server"])
def test_reset_during_a_flood(ends: Ends, side: str) -> None:
    with ends.pair() as (client, server):
        leaver, flooder = (client, server) if side == "client" else (server, client)
        with in_thread(lambda: flood(flooder)):
            read_exactly(leaver, 1_000_000)
            reset(leaver)
        ends.wait_until_empty()
        ask(ends.rig, ends.server)
        ends.wait_until_empty()
        ends.rig.assert_quiet()


def test_peers_reset_after_the_other_half_closed(ends: Ends) -> None:
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(ends.pair()) for _ in range(8)]
        for client, server in pairs[:4]:
            server.shutdown(socket.SHUT_WR)
            assert read_all(client) == b""
            reset(client)
        for client, server in pairs[4:]:
            client.shutdown(socket.SHUT_WR)
            assert read_all(server) == b""
            reset(server)
        ends.wait_until_empty()
        ends.rig.assert_quiet()


def test_unresolvable_name(tmp_path: Path) -> None:
    def look_up(_host: str, _port: int, _family: int) -> list[Candidate]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with name_rig(tmp_path, look_up) as rig:
        for _ in range(20):
            with rig.connect() as client:
                assert closed_without_a_byte(client)
        assert rig.forwarder.counters.connect_failures == {"name": 20}
        rig.assert_quiet()


def test_look_up_that_never_ends(tmp_path: Path) -> None:
    answer = threading.Event()

    def look_up(_host: str, _port: int, _family: int) -> list[Candidate]:
        assert answer.wait(TEST_TIMEOUT)
        return []

    with name_rig(tmp_path, look_up) as rig, contextlib.ExitStack() as stack:
        stack.callback(answer.set)
        for _ in range(5):
            stack.enter_context(rig.connect())
        rig.wait_until(lambda: rig.forwarder.in_use == 5)
        rig.assert_quiet()
        assert rig.forwarder.in_use == 5


def test_unresponsive_server(tmp_path: Path) -> None:
    with hole() as address, contextlib.ExitStack() as stack:
        assert isinstance(address, TcpAddress)
        found: list[Candidate] = [(socket.AF_INET, (address.host, address.port))]
        rig = stack.enter_context(name_rig(tmp_path, lambda *_: list(found)))
        for _ in range(5):
            stack.enter_context(rig.connect())
        rig.wait_until(lambda: sum(bool(o._server) for o in rig.forwarder._opening) == 5)
        rig.assert_quiet()
        assert rig.forwarder.in_use == 5


def test_server_that_is_down(place: Place) -> None:
    with Rig(place.address("proxy"), place.address("server")) as rig:
        for _ in range(20):
            with rig.connect() as client:
                assert closed_without_a_byte(client)
        rig.assert_quiet()


def test_a_loop_that_spins_is_found(place: Place) -> None:
    class Ignores:
        def ready(self, fd: int, events: int) -> None:
            pass

    never_read = os.eventfd(1, os.EFD_CLOEXEC)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, never_read)
        rig = stack.enter_context(Rig(place.address("proxy"), place.address("server")))
        # Level-triggered: it is reported for as long as nobody reads it.
        rig.loop.call_from_thread(lambda: rig.loop.add(never_read, Ignores(), select.EPOLLIN))
        with pytest.raises(AssertionError, match="still something to do"):
            rig.assert_quiet()
