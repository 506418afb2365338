"""The egress listener: CONNECT, tunnels, the allowlist, and hosts that fail."""

from __future__ import annotations

import functools
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.sockets import read_all, unused_port
from tests.vsock_proxy.rig import (
    LARGE,
    TICK,
    Place,
    check,
    expect,
    hole,
    in_thread,
    read_exactly,
    say,
    text,
)
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import TcpAddress
from vsock_proxy.net.http_connect import ESTABLISHED, request
from vsock_proxy.proxy.allowlist import Allowlist
from vsock_proxy.proxy.egress import EgressForwarder
from vsock_proxy.proxy.forward import Egress, Forward
from vsock_proxy.relay.connection import RelayLimits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vsock_proxy.net.resolving import InternetName
from tests.vsock_proxy.proxy.outside import NAME, Names, Outside, allowing, outside


def test_tunnel_carries_bytes_both_ways_and_each_end(out: Outside) -> None:
    up, down = text(LARGE), text(LARGE + 1)
    with (
        out.tunnel() as (client, accepted),
        in_thread(functools.partial(say, client, up)),
        in_thread(functools.partial(say, accepted, down)),
        in_thread(functools.partial(expect, accepted, up)),
    ):
        expect(client, down)
    out.rig.wait_until(lambda: out.rig.forwarder.in_use == 0)
    (host,) = out.rig.forwarder.snapshot().hosts.items()
    assert host[0] == f"{NAME}:{out.port}"
    assert host[1].bytes == {"up": len(up), "down": len(down)}
    assert host[1].relayed == 1


def test_bytes_of_open_tunnels_are_counted_by_host(out: Outside) -> None:
    with out.tunnel() as (client, accepted):
        check(client, accepted)
        found = out.rig.forwarder.snapshot
        out.rig.wait_until(lambda: found().hosts[f"{NAME}:{out.port}"].bytes["up"] == 5)
        assert str(found().target) == "hosts on the allowlist"


def test_bytes_sent_before_the_response_are_the_first_of_the_tunnel(out: Outside) -> None:
    early = text(100_000)
    with out.send(request(NAME, out.port) + early) as client, out.server.accept() as accepted:
        client.shutdown(socket.SHUT_WR)
        assert read_all(accepted) == early
        accepted.close()
        assert read_all(client) == ESTABLISHED


def test_head_may_come_byte_by_byte(out: Outside) -> None:
    client = out.rig.connect()
    with client:
        for byte in request(NAME, out.port) + b"hello":
            client.sendall(bytes([byte]))
        with out.server.accept() as accepted:
            assert read_exactly(accepted, 5) == b"hello"
            assert read_exactly(client, len(ESTABLISHED)) == ESTABLISHED


def test_client_that_half_closes_while_it_is_connected_is_relayed(out: Outside) -> None:
    # Its end comes while nobody looks at it: the tunnel must not wait for another event.
    release = threading.Event()
    names = out.names

    def slow(
        host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> Sequence[tuple[socket.AddressFamily, InternetName]]:
        assert release.wait(TEST_TIMEOUT)
        return names(host, port, family)

    assert isinstance(out.rig.forwarder, EgressForwarder)
    out.rig.forwarder._look_up = slow
    head = request(NAME, out.port)
    with out.send(head[:5]) as client:
        client.sendall(head[5:])
        out.rig.wait_until(lambda: bool(out.rig.forwarder._opening))
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        release.set()
        with out.server.accept() as accepted:
            assert read_all(accepted) == b"hello"


def test_smuggled_requests_are_bytes_of_the_tunnel(out: Outside) -> None:
    smuggled = (
        b"GET http://169.254.169.254/latest/meta-data/ HTTP/1.1\r\nHost: x\r\n\r\n"
        + request("169.254.169.254", 80)
        + b"\r\n\r\n0\r\n\r\n"
    )
    with out.send(request(NAME, out.port) + smuggled) as client, out.server.accept() as accepted:
        client.shutdown(socket.SHUT_WR)
        assert read_all(accepted) == smuggled
    assert out.names.asked == [NAME]
    assert out.rig.forwarder.counters.accepted == 1


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"GET http://api.example.com/ HTTP/1.1\r\n\r\n", 405, "could be read on the parent"),
        (b"BREW / HTTP/1.1\r\n\r\n", 501, "only CONNECT"),
        (b"\x16\x03\x01\x00\x05hello", 400, "TLS where HTTP is expected"),
        (b"CONNECT api.example.com HTTP/1.1\r\n\r\n", 400, "not HOST:PORT"),
        (b"A" * 9000, 431, "longer than"),
        (request("other.example.com", 443), 403, "other.example.com:443 is not on the egress"),
        (request("api.example.com", 22), 403, "api.example.com:22 is not on the egress allowlist"),
        (request("169.254.169.254", 80), 403, "169.254.169.254:80 is not on the egress allowlist"),
        (request("2130706433", 80), 403, "2130706433:80 is not on the egress allowlist"),
        (request("0x7f.1", 80), 403, "0x7f.1:80 is not on the egress allowlist"),
        (request("127.1", 80), 403, "127.1:80 is not on the egress allowlist"),
        (request("0177.0.0.1", 80), 403, "0177.0.0.1:80 is not on the egress allowlist"),
        (request("0xa9fea9fe", 80), 403, "0xa9fea9fe:80 is not on the egress allowlist"),
        (request("169.254.43518", 80), 403, "is not on the egress allowlist"),
        (request("169.254.169.254.", 80), 403, "is not on the egress allowlist"),
        (request("::ffff:127.0.0.1", 80), 403, "is not on the egress allowlist of the parent"),
        (request("::ffff:a9fe:a9fe", 80), 403, "is not on the egress allowlist of the parent"),
        (request("64:ff9b::a9fe:a9fe", 80), 403, "is not on the egress allowlist of the parent"),
        (request("fd00:ec2::254", 80), 403, "is not on the egress allowlist of the parent"),
        (request("localhost", 80), 403, "localhost:80 is not on the egress allowlist"),
        (request("fe80::1%eth0", 80), 400, "not HOST:PORT"),
        (b"CONNECT api.example.com..:443 HTTP/1.1\r\n\r\n", 403, "is not on the egress allowlist"),
        (b"CONNECT .api.example.com:443 HTTP/1.1\r\n\r\n", 400, "not HOST:PORT"),
    ],
)
def test_rejection_says_why(
    out: Outside, data: bytes, status: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    head, _, body = out.response(data).partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert reason in head.splitlines()[0]
    assert "Connection: close" in head
    assert reason in caplog.text
    if status == 403:
        assert "add there: - {address:" in body
    out.rig.wait_until(lambda: out.rig.forwarder.in_use == 0)
    kind = "allowlist" if status == 403 else "request"
    assert out.rig.forwarder.counters.rejected == {kind: 1}
    assert not out.names.asked


def test_line_to_add_allows_the_host(place: Place) -> None:
    with outside(place, ("[::1]", 1)) as out:
        response = out.response(request("2001:db8::5", 443))
        assert '- {address: "2001:db8::5", port: 443}' in response


def test_wildcard_is_one_label_and_counts_as_its_entry(place: Place) -> None:
    names = Names(a_example_com=[["127.0.0.1"]], b_example_com=[["127.0.0.1"]])

    def wild(port: int) -> Allowlist:
        return Allowlist(frozenset({("*.example.com", port), ("127.0.0.1", port)}))

    with outside(place, names=names, allowlist=wild) as out:
        for host in ("a.example.com", "B.Example.Com"):
            names.names.setdefault(host, [["127.0.0.1"]])
            with out.connect(host) as client, out.server.accept() as accepted:
                read_exactly(client, len(ESTABLISHED))
                check(client, accepted)
        assert "403" in out.response(request("a.b.example.com", out.port))
        hosts = out.rig.forwarder.snapshot().hosts
        assert {entry: each.relayed for entry, each in hosts.items()} == {
            f"*.example.com:{out.port}": 2
        }


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "169.254.169.254", "::1", "fd00:ec2::254", "::ffff:169.254.169.254", "0.0.0.0"],  # noqa: S104
)
def test_name_that_resolves_to_a_special_address_is_rejected(place: Place, address: str) -> None:
    names = Names(api_example_com=[[address]])
    with outside(place, names=names, allowlist=lambda p: Allowlist(frozenset({(NAME, p)}))) as out:
        response = out.response(request(NAME, out.port))
        assert response.startswith("HTTP/1.1 403 ")
        assert "special" in response
        assert out.rig.forwarder.counters.connect_failures == {"permission": 1}
        assert out.rig.forwarder.snapshot().hosts[f"{NAME}:{out.port}"].connect_failures == {
            "permission": 1
        }


def test_name_that_turns_to_the_metadata_service_is_rejected(place: Place) -> None:
    # One good address, then a name server that has changed its mind: every look-up is checked,
    # and what is connected to is what was checked.
    names = Names(api_example_com=[["127.0.0.1"], ["169.254.169.254"]])
    with outside(place, names=names) as out:
        with out.tunnel() as (client, accepted):
            check(client, accepted)
        assert isinstance(out.rig.forwarder, EgressForwarder)
        out.rig.forwarder._routes.clear()  # as if its time were over
        assert "special" in out.response(request(NAME, out.port))


def test_special_address_among_others_is_not_used(place: Place) -> None:
    names = Names(api_example_com=[["169.254.169.254", "127.0.0.1"]])
    with outside(place, names=names) as out, out.tunnel() as (client, accepted):
        check(client, accepted)


def test_listed_address_may_be_named(place: Place) -> None:
    names = Names(**{"127_0_0_1": [["127.0.0.1"]]})
    with (
        outside(place, names=names) as out,
        out.connect("127.0.0.1") as client,
        out.server.accept() as accepted,
    ):
        read_exactly(client, len(ESTABLISHED))
        check(client, accepted)


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [("refused", 502, "Connection refused"), ("name", 502, "does not resolve")],
)
def test_target_that_fails_is_a_bad_gateway(
    place: Place, kind: str, status: int, reason: str
) -> None:
    port = unused_port()
    entries = ((NAME, port), ("127.0.0.1", port), ("gone.example.com", port))
    with outside(place, *entries) as out:
        host = NAME if kind == "refused" else "gone.example.com"
        response = out.response(request(host, port))
        assert response.startswith(f"HTTP/1.1 {status} {host}:{port}: ")
        assert reason in response
        assert out.rig.forwarder.counters.connect_failures == {kind: 1}


def test_target_that_does_not_respond_is_a_gateway_timeout(place: Place) -> None:
    with hole() as address, outside(place, limits=RelayLimits(connect_timeout=TICK + 1)) as out:
        assert isinstance(address, TcpAddress)
        forwarder = out.rig.forwarder
        allowlist = allowing(address.port)
        out.rig.loop.call_from_thread(
            lambda: forwarder.reconfigure(
                Forward(
                    forwarder.address,
                    Egress(),
                    name="the server",
                    allowlist=allowlist,
                    limits=forwarder.forward.limits,
                )
            )
        )
        with out.connect(port=address.port) as client:
            out.rig.wait_until(lambda: any(each._server is not None for each in forwarder._opening))
            out.rig.pass_time(TICK + 2)
            assert read_all(client).startswith(b"HTTP/1.1 504 ")
