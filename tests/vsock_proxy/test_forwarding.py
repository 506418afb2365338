"""One listener: its limit, what runs out, who does not answer, and who says nothing."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.vsock_proxy.rig import (
    PATIENCE,
    TURNS_PER_MESSAGE,
    Place,
    Rig,
    Server,
    read_all,
    read_exactly,
)
from vsock_proxy import connecting
from vsock_proxy.addresses import Address, TcpAddress, UnixAddress
from vsock_proxy.listening import listen
from vsock_proxy.relay import Limits
from vsock_proxy.targets import HostName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vsock_proxy.loop import Loop
    from vsock_proxy.names import Candidate
    from vsock_proxy.targets import LookUp


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("unix", tmp_path)


@pytest.fixture
def server(place: Place) -> Iterator[Server]:
    with place.server() as server:
        yield server


def ask(rig: Rig, server: Server) -> None:
    """One connection, used and ended."""
    with rig.connect() as client, server.accept() as accepted:
        check(client, accepted)


def check(client: socket.socket, accepted: socket.socket) -> None:
    client.sendall(b"hello")
    assert read_exactly(accepted, 5) == b"hello"


def refused(client: socket.socket) -> bool:
    """Tell whether it was closed without a byte."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def dead_port() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return TcpAddress("127.0.0.1", free.getsockname()[1])


def candidate(address: Address) -> Candidate:
    assert isinstance(address, TcpAddress)
    return (socket.AF_INET, (address.host, address.port))


def host_name(look_up: LookUp, *, keep: float = 100.0) -> Callable[[Loop], HostName]:
    return lambda loop: HostName("the.server", 1, loop.call_from_thread, look_up=look_up, keep=keep)


# The limit


def test_many_connections_are_served_at_once(place: Place, server: Server) -> None:
    # AWS's proxy has four threads: it accepts the fifth connection and lets it hang.
    with Rig(place.address("proxy"), server.address) as rig, contextlib.ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(rig.connect())
            check(client, stack.enter_context(server.accept()))
        assert rig.forwarder.in_use == 20


def test_a_connection_over_the_limit_waits_visibly_for_its_turn(
    place: Place, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with Rig(place.address("proxy"), server.address, limits=Limits(connections=1)) as rig:
        with rig.connect() as first, server.accept() as accepted:
            check(first, accepted)
            second = rig.connect()
            rig.wait_until(lambda: rig.forwarder.waiting == 1)
        with second, server.accept() as accepted:
            check(second, accepted)
        assert rig.forwarder.counters.waited == 1
    assert "which is the limit (-w): a further one waits" in caplog.text


def test_a_connection_that_waits_too_long_is_refused(
    place: Place, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(connections=1, connect_timeout=100)
    with Rig(place.address("proxy"), server.address, limits=limits) as rig:
        with rig.connect() as first, server.accept() as accepted:
            check(first, accepted)
            with rig.connect() as second:
                rig.wait_until(lambda: rig.forwarder.waiting == 1)
                rig.pass_time(101)
                assert refused(second)
            check(first, accepted)
        assert rig.forwarder.counters.refused == 1
    assert "the server: refused a UNIX peer: no place became free in time" in caplog.text


def test_no_more_may_wait_than_the_limit_says_and_nothing_spins(
    place: Place, server: Server
) -> None:
    limits = Limits(connections=1, waiting=1)
    with Rig(place.address("proxy"), server.address, limits=limits) as rig:
        with rig.connect() as first, server.accept() as accepted:
            check(first, accepted)
            others = [rig.connect() for _ in range(5)]
            rig.wait_until(lambda: rig.forwarder._paused)
            before = rig.loop.turns
            for _ in range(50):
                check(first, accepted)
            assert rig.loop.turns - before < TURNS_PER_MESSAGE * 50
            assert rig.forwarder.waiting == 1
        for other in others:
            with other, server.accept() as accepted:
                check(other, accepted)


# What runs out


def test_a_descriptor_above_1023_is_as_good_as_any(place: Place, server: Server) -> None:
    # AWS's proxy uses select(2), and dies of it.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip(f"only {hard} file descriptors are allowed here (ulimit -Hn): needs 2048")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        rig = stack.enter_context(Rig(place.address("proxy"), server.address))
        for _ in range(1100):
            stack.callback(os.close, os.dup(0))
        with rig.connect() as client, server.accept() as accepted:
            assert min(client.fileno(), accepted.fileno()) > 1023
            check(client, accepted)


class ScarceListener(socket.socket):
    """A listener for which there are no descriptors while `scarce`."""

    scarce = False

    def accept(self) -> tuple[socket.socket, object]:
        if self.scarce:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


def test_running_out_of_descriptors_to_accept_with_is_survived(
    place: Place, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with listen(place.address("proxy")) as plain:
        listener = ScarceListener(fileno=plain.detach())
    with Rig(place.address("proxy"), server.address, listener=listener) as rig:
        with rig.connect() as first, server.accept() as accepted:
            check(first, accepted)
            listener.scarce = True
            second = rig.connect()
            rig.wait_until(lambda: rig.forwarder._paused)
            before = rig.loop.turns
            for _ in range(50):
                check(first, accepted)
            assert rig.loop.turns - before < TURNS_PER_MESSAGE * 50
            listener.scarce = False
        with second, server.accept() as accepted:
            check(second, accepted)
    assert "not accepting for the moment: Too many open files" in caplog.text


def test_running_out_of_descriptors_to_connect_with_is_survived(
    place: Place, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoSockets:
        def __getattr__(self, name: str) -> object:
            if name == "socket":
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return getattr(socket, name)

    with Rig(place.address("proxy"), server.address) as rig:
        with rig.connect() as first, server.accept() as accepted:
            check(first, accepted)
            monkeypatch.setattr(connecting, "socket", NoSockets())
            second = rig.connect()
            rig.wait_until(lambda: rig.forwarder.waiting == 1)
            check(first, accepted)
            monkeypatch.undo()
        with second, server.accept() as accepted:
            check(second, accepted)


# Who does not answer


def test_a_server_that_is_down_costs_one_connection_each_and_a_line(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    # AWS's proxy loses a worker to each; after four it serves nobody.
    address = place.address("server")
    with Rig(place.address("proxy"), address) as rig:
        for _ in range(6):
            with rig.connect() as client:
                assert refused(client)
        assert rig.forwarder.counters.failed == 6
        assert rig.forwarder.in_use == 0
        with Server(address) as server:
            ask(rig, server)
    assert caplog.text.count("refused a UNIX peer: cannot connect") == 6


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
        with Rig(UnixAddress(str(tmp_path / "proxy")), target=target) as rig:
            ask(rig, server)
            assert rig.forwarder.counters.failed == 0


def test_an_address_that_swallows_everything_costs_only_its_share(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as hole,
        contextlib.ExitStack() as stack,
        Place("tcp", tmp_path).server() as server,
    ):
        for _ in range(4):  # Its backlog full, the kernel answers nobody else.
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
        found = [(socket.AF_INET, hole.getsockname()), candidate(server.address)]
        target = host_name(lambda *_: list(found))
        limits = Limits(connect_timeout=100)
        proxy = UnixAddress(str(tmp_path / "proxy"))
        with Rig(proxy, target=target, limits=limits) as rig:
            with rig.connect() as client:
                rig.wait_until(lambda: any(o._server for o in rig.forwarder._opening))
                rig.pass_time(51)
                with server.accept() as accepted:
                    check(client, accepted)
            ask(rig, server)  # Which is now tried first.


def test_a_full_backlog_of_a_unix_server_is_waited_for(place: Place) -> None:
    address = place.address("server")
    assert isinstance(address, UnixAddress)
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

        proxy = UnixAddress(str(tmp_path / "proxy"))
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

        proxy = UnixAddress(str(tmp_path / "proxy"))
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

    def look_up(_host: str, _port: int, _family: int) -> list[Candidate]:
        assert answer.wait(PATIENCE)
        return []

    limits = Limits(connect_timeout=100)
    proxy = UnixAddress(str(tmp_path / "proxy"))
    with Rig(proxy, target=host_name(look_up), limits=limits) as rig:
        with rig.connect() as client:
            rig.wait_until(lambda: rig.forwarder.in_use == 1)
            rig.pass_time(101)
            assert refused(client)
        answer.set()
    assert "looking up its name takes too long" in caplog.text


# Who says nothing


def test_an_idle_connection_is_ended_and_a_used_one_is_not(place: Place, server: Server) -> None:
    limits = Limits(idle_timeout=100)
    with (
        Rig(place.address("proxy"), server.address, limits=limits) as rig,
        rig.connect() as idle,
        server.accept() as idle_accepted,
        rig.connect() as used,
        server.accept() as accepted,
    ):
        check(idle, idle_accepted)
        check(used, accepted)
        rig.pass_time(60)
        check(used, accepted)
        rig.pass_time(60)
        assert idle.recv(1) == b""
        assert idle_accepted.recv(1) == b""
        check(used, accepted)


def test_a_half_closed_connection_is_ended_sooner(place: Place, server: Server) -> None:
    limits = Limits(idle_timeout=1000, linger_timeout=100)
    with (
        Rig(place.address("proxy"), server.address, limits=limits) as rig,
        rig.connect() as idle,
        server.accept() as idle_accepted,
        rig.connect() as half_closed,
        server.accept() as accepted,
    ):
        check(idle, idle_accepted)
        half_closed.shutdown(socket.SHUT_WR)
        assert read_all(accepted) == b""
        rig.pass_time(101)
        assert half_closed.recv(1) == b""
        check(idle, idle_accepted)


def test_bytes_are_counted_and_connections_told_of_when_asked(
    place: Place, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "vsock_proxy")
    with Rig(place.address("proxy"), server.address) as rig:
        with rig.connect() as client, server.accept() as accepted:
            check(client, accepted)
            accepted.sendall(b"hi")
            read_exactly(client, 2)
        rig.wait_until(lambda: rig.forwarder.in_use == 0)
        counters = rig.forwarder.counters
        assert (counters.accepted, counters.relayed) == (1, 1)
        assert (counters.bytes_up, counters.bytes_down) == (5, 2)
    assert "the server: connected for a UNIX peer" in caplog.text
    assert "ended after 5 bytes up, 2 down" in caplog.text
