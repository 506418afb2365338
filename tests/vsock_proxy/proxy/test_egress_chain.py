"""Egress through another egress: the enclave's listeners, and a parent that is hostile."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.sockets import read_all
from tests.vsock_proxy.proxy.outside import NAME, Outside, outside
from tests.vsock_proxy.rig import (
    LARGE,
    TICK,
    Place,
    Rig,
    Server,
    check,
    closed_without_a_byte,
    in_thread,
    read_exactly,
    say,
    text,
)
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.errors import DialError
from vsock_proxy.net.addresses import (
    ConnectProxy,
    TcpAddress,
    TunnelAddress,
    UnixAddress,
    VsockAddress,
    parse_proxy,
)
from vsock_proxy.net.dialing import ConnectDialer, SocketDialer
from vsock_proxy.net.http_connect import ESTABLISHED, request
from vsock_proxy.proxy.allowlist import Allowlist
from vsock_proxy.proxy.forward import Egress
from vsock_proxy.relay.connection import RelayLimits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vsock_proxy.net.addresses import Address


def via(address: Address) -> VsockAddress | UnixAddress | TcpAddress:
    assert isinstance(address, VsockAddress | UnixAddress | TcpAddress)
    return address


@contextlib.contextmanager
def image(place: Place, parent: Address, *allowed: tuple[str, int]) -> Iterator[Rig]:
    """The enclave's listener, on loopback, with the image's own list."""
    target = Egress(ConnectProxy(via(parent)), "image")
    with Rig(
        TcpAddress("127.0.0.1", 0),
        egress=target,
        allowlist=Allowlist(frozenset(allowed)),
        limits=RelayLimits(connect_timeout=TICK + 1),
    ) as rig:
        yield rig


@pytest.fixture
def out(place: Place, innermost: str) -> Iterator[Outside]:
    with outside(place) as out:
        yield out


def response(rig: Rig, data: bytes) -> str:
    with rig.connect() as client:
        client.settimeout(TEST_TIMEOUT)
        client.sendall(data)
        return read_all(client).decode()


def test_both_lists_decide_the_images_first(place: Place, out: Outside) -> None:
    with image(place, out.rig.address, (NAME, out.port), ("b.example.com", 1)) as rig:
        with rig.connect() as client:
            client.sendall(request(NAME, out.port) + b"early")
            with out.server.accept() as accepted:
                assert read_exactly(client, len(ESTABLISHED)) == ESTABLISHED
                assert read_exactly(accepted, 5) == b"early"
                check(accepted, client)
        refused = response(rig, request("other.example.com", 443))
        assert refused.startswith("HTTP/1.1 403 other.example.com:443 is not on the egress ")
        assert "allowlist of the image" in refused
        assert "--egress-allow other.example.com:443" in refused
        assert out.rig.forwarder.counters.accepted == 1, "the parent was not asked"
        refused = response(rig, request("b.example.com", 1))
        assert refused.startswith("HTTP/1.1 403 b.example.com:1: the parent: b.example.com:1 is")
        assert rig.forwarder.counters.connect_failures == {"proxy": 1}


def test_forward_to_a_host_behind_the_parent(place: Place, out: Outside) -> None:
    target = TunnelAddress(via(out.rig.address), NAME, out.port)
    with Rig(TcpAddress("127.0.0.1", 0), target) as rig:
        words = text(LARGE)
        with (
            rig.connect() as client,
            out.server.accept() as accepted,
            in_thread(lambda: say(client, words)),
        ):
            assert read_all(accepted) == words
            accepted.sendall(b"hello")
            accepted.close()
            assert read_all(client) == b"hello"


def test_forward_to_a_host_that_the_parent_refuses_is_closed(
    place: Place, out: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    target = TunnelAddress(via(out.rig.address), "other.example.com", 5432)
    with Rig(TcpAddress("127.0.0.1", 0), target) as rig:
        with contextlib.suppress(DialError), rig.connect() as client:  # It may be reset at once.
            client.settimeout(TEST_TIMEOUT)
            assert closed_without_a_byte(client)
        rig.wait_until(lambda: rig.forwarder.counters.connect_failures == {"proxy": 1})
    assert "the egress proxy responded 403: other.example.com:5432 is not on" in caplog.text


HOSTILE = {
    "nothing": (b"", "Connection reset by peer"),
    "no HTTP": (b"Hello world\r\n\r\n", "malformed"),
    "a TLS alert": (b"\x15\x03\x03\x00\x02\x02\x28", "not HTTP"),
    "an endless head": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, "longer than 8192"),
    "bare line feeds": (b"HTTP/1.1 200 OK\nX: y\r\n\r\n", "malformed"),
    "escape sequences": (b"HTTP/1.1 403 \x1b[2J\x1b]0;x\x07\r\n\r\n", "malformed"),
    "another status": (b"HTTP/1.1 407 who are you\r\nX: y\r\n\r\n", "who are you"),
    "an injected header": (b"HTTP/1.1 502 a\tb\xffc\r\n\r\n", "a?b?c"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_parent_is_a_bad_gateway(place: Place, name: str) -> None:
    sent, reason = HOSTILE[name]
    with (
        Server(place.address("parent")) as parent,
        image(place, parent.address, (NAME, 443)) as rig,
    ):
        with rig.connect() as client:
            client.settimeout(TEST_TIMEOUT)
            client.sendall(request(NAME, 443))
            with parent.accept() as accepted:
                assert read_exactly(accepted, len(request(NAME, 443))) == request(NAME, 443)
                with contextlib.suppress(OSError):
                    accepted.sendall(sent)
                accepted.close()
            head = read_all(client).decode("ascii").split("\r\n")[0]
        assert head.startswith(f"HTTP/1.1 502 {NAME}:443: ")
        assert reason in head
        rig.wait_until(lambda: rig.forwarder.in_use == 0)
        rig.assert_quiet()


def test_parent_that_never_responds_is_a_gateway_timeout(place: Place) -> None:
    with (
        Server(place.address("parent")) as parent,
        image(place, parent.address, (NAME, 443)) as rig,
        rig.connect() as client,
    ):
        client.settimeout(TEST_TIMEOUT)
        client.sendall(request(NAME, 443))
        with parent.accept() as accepted:
            accepted.sendall(b"HTTP/1.1 20")
            rig.wait_until(lambda: bool(rig.forwarder._opening))
            rig.pass_time(TICK + 2)
            assert read_all(client).startswith(b"HTTP/1.1 504 ")


def test_bytes_that_follow_the_parents_response_at_once_are_the_servers(place: Place) -> None:
    with (
        Server(place.address("parent")) as parent,
        image(place, parent.address, (NAME, 443)) as rig,
        rig.connect() as client,
    ):
        client.settimeout(TEST_TIMEOUT)
        client.sendall(request(NAME, 443))
        with parent.accept() as accepted:
            read_exactly(accepted, len(request(NAME, 443)))
            accepted.sendall(b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\nSSH-2.0-x\r\n")
            accepted.close()
        assert read_all(client) == ESTABLISHED + b"SSH-2.0-x\r\n"


def test_dialer_connects_through_the_parent(out: Outside) -> None:
    dialer = ConnectDialer(ConnectProxy(via(out.rig.address)))
    with dialer.dial(TcpAddress(NAME, out.port), TEST_TIMEOUT) as client:
        assert client.gettimeout() == TEST_TIMEOUT
        with out.server.accept() as accepted:
            accepted.sendall(b"hello")
            check(client, accepted)
            assert read_exactly(client, 5) == b"hello"


def test_dialer_says_what_the_parent_refuses(out: Outside) -> None:
    dialer = ConnectDialer(ConnectProxy(via(out.rig.address)))
    with pytest.raises(DialError, match=r"through .*: the egress proxy responded 403: ") as caught:
        dialer.dial(TcpAddress("other.example.com", 443), TEST_TIMEOUT)
    assert "egress allowlist" in caught.value.hint


def test_dialer_waits_no_longer_than_its_timeout(place: Place) -> None:
    with Server(place.address("parent")) as parent:
        dialer = ConnectDialer(ConnectProxy(via(parent.address)), SocketDialer())
        with pytest.raises(DialError, match=r"no response within 0\.05 s"):
            dialer.dial(TcpAddress(NAME, 443), 0.05)


@pytest.mark.parametrize(
    "text", ["connect:vsock://3:8004", "connect:unix:/run/x", "vsock://3:8000"]
)
def test_proxies_as_text(text: str) -> None:
    assert str(parse_proxy(text)) == text
