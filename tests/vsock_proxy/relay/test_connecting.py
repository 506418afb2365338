"""Names and addresses that answer late, wrongly or not at all."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from tests.vsock_proxy.rig import (
    LOCAL,
    PATIENCE,
    Place,
    Rig,
    Server,
    ask,
    check,
    hole,
    peer_name,
    read_all,
    read_exactly,
    refused,
)
from vsock_proxy.net.addresses import Address, TcpAddress, UnixAddress
from vsock_proxy.net.dialing import SocketDialer
from vsock_proxy.net.listening import listen, local_address
from vsock_proxy.proxy.forwarder import Forwarder
from vsock_proxy.relay.connection import Limits
from vsock_proxy.relay.loop import Loop
from vsock_proxy.relay.targets import HostName, target_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from vsock_proxy.net.resolving import Candidate
    from vsock_proxy.relay.targets import LookUp


def dead_port() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return TcpAddress("127.0.0.1", free.getsockname()[1])


def candidate(address: Address) -> Candidate:
    assert isinstance(address, TcpAddress)
    return (socket.AF_INET, (address.host, address.port))


def host_name(look_up: LookUp, *, keep: float = 100.0) -> Callable[[Loop], HostName]:
    return lambda loop: HostName("the.server", 1, loop.call_from_thread, look_up=look_up, keep=keep)


def test_all_that_a_server_did_before_it_was_looked_at_is_seen(
    place: Place, server: Server
) -> None:
    # It is connected to, speaks and leaves within one turn, whose events go to the opening.
    with Loop(tick=1000) as loop, listen(place.address("proxy")) as listener:
        target = target_for(server.address, loop.call_from_thread)
        forwarder = Forwarder(loop, listener, target, name="the server")
        with SocketDialer().dial(local_address(listener), PATIENCE) as client:
            while not any(opening._server for opening in forwarder._opening):
                loop.turn()
            with server.accept() as accepted:
                accepted.sendall(b"banner")
            while forwarder.in_use:
                loop.turn()
            assert read_all(client) == b"banner"


def test_a_server_that_is_down_costs_one_connection_each_and_a_line(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    # AWS's proxy loses a worker to each; after four it serves nobody.
    address = place.address("server")
    with Rig(place.address("proxy"), address) as rig:
        for _ in range(6):
            with rig.connect() as client:
                name = peer_name(client)
                assert refused(client)
            assert f"refused {name}: cannot connect" in caplog.text
        assert rig.forwarder.counters.failed == {"reset" if LOCAL == "vsock" else "missing": 6}
        assert rig.forwarder.in_use == 0
        with Server(address) as server:
            ask(rig, server)
    assert caplog.text.count("cannot connect") == 6


def test_refusals_by_hundreds_do_not_fill_the_log(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with Rig(place.address("proxy"), place.address("nobody")) as rig:
        for _ in range(100):
            with rig.connect() as client:
                assert refused(client)
    assert len(caplog.records) == 10


def test_every_address_of_a_name_is_tried(tmp_path: Path) -> None:
    # AWS's proxy takes the first and no other.
    with Place("tcp", tmp_path).server() as server:
        found = [candidate(dead_port()), candidate(dead_port()), candidate(server.address)]
        target = host_name(lambda *_: found)
        with Rig(Place(LOCAL, tmp_path).address("proxy"), target=target) as rig:
            ask(rig, server)
            assert rig.forwarder.counters.failed == {}


def test_an_address_that_swallows_everything_costs_only_its_share(tmp_path: Path) -> None:
    with hole() as swallows, Place("tcp", tmp_path).server() as server:
        found = [candidate(swallows), candidate(server.address)]
        target = host_name(lambda *_: list(found))
        limits = Limits(connect_timeout=100)
        proxy = Place(LOCAL, tmp_path).address("proxy")
        with Rig(proxy, target=target, limits=limits) as rig:
            with rig.connect() as client:
                rig.wait_until(lambda: any(o._server for o in rig.forwarder._opening))
                rig.pass_time(51)
                with server.accept() as accepted:
                    check(client, accepted)
            ask(rig, server)  # Which is now tried first.


def test_a_server_that_never_answers_is_given_up(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with hole() as address:
        target = host_name(lambda *_: [candidate(address)])
        limits = Limits(connect_timeout=100)
        with (
            Rig(place.address("proxy"), target=target, limits=limits) as rig,
            rig.connect() as client,
        ):
            rig.wait_until(lambda: any(o._server for o in rig.forwarder._opening))
            rig.pass_time(101)
            assert refused(client)
    assert "cannot connect: no answer" in caplog.text


def test_a_full_backlog_of_a_unix_server_is_waited_for(place: Place, tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "server"))
    with listen(address, backlog=0) as listener, contextlib.ExitStack() as stack:
        filler = stack.enter_context(socket.socket(socket.AF_UNIX))
        filler.connect(address.path)
        limits = Limits(connect_timeout=100)
        with (
            Rig(place.address("proxy"), address, limits=limits) as rig,
            rig.connect() as client,
        ):
            client.sendall(b"hello")
            rig.wait_until(lambda: rig.forwarder.in_use == 1)
            listener.settimeout(PATIENCE)
            listener.accept()[0].close()
            rig.pass_time(21)
            accepted, _ = listener.accept()
            with accepted:
                assert read_exactly(accepted, 5) == b"hello"


def test_a_name_that_does_not_resolve_costs_one_connection_and_no_more(
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
        with Rig(proxy, target=host_name(look_up)) as rig:
            for _ in range(2):
                with rig.connect() as client:
                    assert refused(client)
            ask(rig, server)
    assert "the name does not resolve (Name or service not known)" in caplog.text


def test_a_slow_look_up_holds_up_nobody_else(tmp_path: Path) -> None:
    asked, answer = threading.Event(), threading.Event()
    with Place("tcp", tmp_path).server() as server:

        def look_up(_host: str, _port: int, _family: int) -> list[Candidate]:
            if asked.is_set():
                assert answer.wait(PATIENCE)
            asked.set()
            return [candidate(server.address)]

        proxy = Place(LOCAL, tmp_path).address("proxy")
        with (
            Rig(proxy, target=host_name(look_up, keep=0)) as rig,
            rig.connect() as first,
            server.accept() as first_accepted,
            rig.connect() as second,
        ):
            rig.wait_until(lambda: rig.forwarder.in_use == 2)
            check(first, first_accepted)
            answer.set()
            with server.accept() as accepted:
                check(second, accepted)


def test_a_look_up_without_an_answer_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answer = threading.Event()
    with Place("tcp", tmp_path).server() as server:

        def look_up(_host: str, _port: int, _family: int) -> list[Candidate]:
            assert answer.wait(PATIENCE)
            return [candidate(server.address)]

        limits = Limits(connect_timeout=100)
        proxy = Place(LOCAL, tmp_path).address("proxy")
        with Rig(proxy, target=host_name(look_up), limits=limits) as rig:
            with rig.connect() as client:
                rig.wait_until(lambda: rig.forwarder.in_use == 1)
                rig.pass_time(101)
                assert refused(client)
            answer.set()
            ask(rig, server)  # The answer comes too late for the first: only one connects.
            assert rig.forwarder.counters.relayed == 1
    assert "looking up its name takes too long" in caplog.text
