"""Connecting to targets whose name or address is slow, wrong or unresponsive."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from tests.sockets import read_all
from tests.vsock_proxy.rig import (
    LOCAL,
    Place,
    Rig,
    Server,
    ask,
    check,
    closed_without_a_byte,
    hole,
    peer_name,
    read_exactly,
)
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import Address, TcpAddress, UnixAddress
from vsock_proxy.net.dialing import SocketDialer
from vsock_proxy.net.listening import listen, local_address
from vsock_proxy.proxy.forward import Forward
from vsock_proxy.proxy.forwarder import Forwarder
from vsock_proxy.relay.connection import RelayLimits
from vsock_proxy.relay.loop import Loop
from vsock_proxy.relay.resolver import AddressPolicy, HostResolver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from vsock_proxy.net.resolving import Candidate
    from vsock_proxy.relay.resolver import LookUp


def dead_port() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return TcpAddress("127.0.0.1", free.getsockname()[1])


def candidate(address: Address) -> Candidate:
    assert isinstance(address, TcpAddress)
    return (socket.AF_INET, (address.host, address.port))


def resolver(look_up: LookUp, *, keep: float = 100.0) -> Callable[[Loop], HostResolver]:
    target = TcpAddress("the.server", 1)
    return lambda loop: HostResolver(
        target, AddressPolicy(), loop.call_from_thread, look_up=look_up, keep=keep
    )


def test_events_before_the_hand_over_are_not_lost(place: Place, server: Server) -> None:
    # The server is connected to, sends and closes within one turn, whose events go to the opening.
    with Loop(tick=1000) as loop, listen(place.address("proxy")) as listener:
        forwarder = Forwarder(loop, listener, Forward(place.address("proxy"), server.address))
        forwarder.start()
        with SocketDialer().dial(local_address(listener), TEST_TIMEOUT) as client:
            while not any(opening._server for opening in forwarder._opening):
                loop.turn()
            with server.accept() as accepted:
                accepted.sendall(b"banner")
            while forwarder.in_use:
                loop.turn()
            assert read_all(client) == b"banner"


def test_unreachable_server_fails_one_connection_and_is_logged(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    # AWS's proxy loses a worker each time; after four it serves no clients.
    address = place.address("server")
    with Rig(place.address("proxy"), address) as rig:
        for _ in range(6):
            with rig.connect() as client:
                name = peer_name(client)
                assert closed_without_a_byte(client)
            assert f"cannot connect for {name}: " in caplog.text
        assert rig.forwarder.counters.connect_failures == {
            "reset" if LOCAL == "vsock" else "missing": 6
        }
        assert rig.forwarder.in_use == 0
        with Server(address) as server:
            ask(rig, server)
    assert caplog.text.count("cannot connect") == 6


def test_log_of_failed_connections_is_throttled(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with Rig(place.address("proxy"), place.address("nobody")) as rig:
        for _ in range(100):
            with rig.connect() as client:
                assert closed_without_a_byte(client)
    assert len(caplog.records) == 10


def test_every_address_of_a_name_is_tried(tmp_path: Path) -> None:
    # AWS's proxy uses only the first.
    with Place("tcp", tmp_path).server() as server:
        found = [candidate(dead_port()), candidate(dead_port()), candidate(server.address)]
        find = resolver(lambda *_: found)
        with Rig(Place(LOCAL, tmp_path).address("proxy"), resolver=find) as rig:
            ask(rig, server)
            assert rig.forwarder.counters.connect_failures == {}


def test_unresponsive_address_uses_only_its_share_of_the_time(tmp_path: Path) -> None:
    with hole() as swallows, Place("tcp", tmp_path).server() as server:
        found = [candidate(swallows), candidate(server.address)]
        find = resolver(lambda *_: list(found))
        limits = RelayLimits(connect_timeout=100)
        proxy = Place(LOCAL, tmp_path).address("proxy")
        with Rig(proxy, resolver=find, limits=limits) as rig:
            with rig.connect() as client:
                rig.wait_until(lambda: any(o._server for o in rig.forwarder._opening))
                rig.pass_time(51)
                with server.accept() as accepted:
                    check(client, accepted)
            ask(rig, server)  # Which is now tried first.


def test_unresponsive_server_is_given_up(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with hole() as address:
        find = resolver(lambda *_: [candidate(address)])
        limits = RelayLimits(connect_timeout=100)
        with (
            Rig(place.address("proxy"), resolver=find, limits=limits) as rig,
            rig.connect() as client,
        ):
            rig.wait_until(lambda: any(o._server for o in rig.forwarder._opening))
            rig.pass_time(101)
            assert closed_without_a_byte(client)
    assert ": no response" in caplog.text


def test_full_backlog_of_a_unix_server_is_waited_for(place: Place, tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "server"))
    with listen(address, backlog=0) as listener, contextlib.ExitStack() as stack:
        filler = stack.enter_context(socket.socket(socket.AF_UNIX))
        filler.connect(address.path)
        limits = RelayLimits(connect_timeout=100)
        with (
            Rig(place.address("proxy"), address, limits=limits) as rig,
            rig.connect() as client,
        ):
            client.sendall(b"hello")
            rig.wait_until(lambda: rig.forwarder.in_use == 1)
            listener.settimeout(TEST_TIMEOUT)
            listener.accept()[0].close()
            rig.pass_time(21)
            accepted, _ = listener.accept()
            with accepted:
                assert read_exactly(accepted, 5) == b"hello"


def test_unresolvable_name_fails_one_connection_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # AWS's proxy ends, and every connection with it.
    with Place("tcp", tmp_path).server() as server:
        answers: list[Candidate | None] = [None, None, candidate(server.address)]

        def look_up(_host: str, _port: int, _family: int) -> list[Candidate]:
            answer = answers.pop(0)
            if answer is None:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [answer]

        proxy = Place(LOCAL, tmp_path).address("proxy")
        with Rig(proxy, resolver=resolver(look_up)) as rig:
            for _ in range(2):
                with rig.connect() as client:
                    assert closed_without_a_byte(client)
            ask(rig, server)
    assert "the name does not resolve (Name or service not known)" in caplog.text


def test_slow_look_up_does_not_block_other_connections(tmp_path: Path) -> None:
    asked, answer = threading.Event(), threading.Event()
    with Place("tcp", tmp_path).server() as server:

        def look_up(_host: str, _port: int, _family: int) -> list[Candidate]:
            if asked.is_set():
                assert answer.wait(TEST_TIMEOUT)
            asked.set()
            return [candidate(server.address)]

        proxy = Place(LOCAL, tmp_path).address("proxy")
        with (
            Rig(proxy, resolver=resolver(look_up, keep=0)) as rig,
            rig.connect() as first,
            server.accept() as first_accepted,
            rig.connect() as second,
        ):
            rig.wait_until(lambda: rig.forwarder.in_use == 2)
            check(first, first_accepted)
            answer.set()
            with server.accept() as accepted:
                check(second, accepted)


def test_look_up_that_never_ends_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answer = threading.Event()
    with Place("tcp", tmp_path).server() as server:

        def look_up(_host: str, _port: int, _family: int) -> list[Candidate]:
            assert answer.wait(TEST_TIMEOUT)
            return [candidate(server.address)]

        limits = RelayLimits(connect_timeout=100)
        proxy = Place(LOCAL, tmp_path).address("proxy")
        with Rig(proxy, resolver=resolver(look_up), limits=limits) as rig:
            with rig.connect() as client:
                rig.wait_until(lambda: rig.forwarder.in_use == 1)
                rig.pass_time(101)
                assert closed_without_a_byte(client)
            answer.set()
            ask(rig, server)  # The answer comes too late for the first: only one connects.
            assert rig.forwarder.counters.relayed == 1
    assert "looking up its name takes too long" in caplog.text
