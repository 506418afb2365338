"""Limits of the egress listener: hostile clients and name servers, reload, abort."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.sockets import read_all, unused_port
from tests.vsock_proxy.proxy.outside import (
    NAME,
    Names,
    Outside,
    allowing,
    outside,
)
from tests.vsock_proxy.rig import (
    TICK,
    Place,
    Rig,
    check,
    flood,
    read_exactly,
)
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.http_connect import ESTABLISHED, request
from vsock_proxy.net.listening import listen
from vsock_proxy.proxy import egress
from vsock_proxy.proxy.allowlist import Allowlist
from vsock_proxy.proxy.egress import MAX_HOSTS, EgressForwarder
from vsock_proxy.proxy.egress_client import EgressOpening, RejectedClient
from vsock_proxy.proxy.forward import Egress, Forward
from vsock_proxy.relay.connection import RelayLimits
from vsock_proxy.relay.loop import Loop
from vsock_proxy.relay.resolver import HostResolver

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from vsock_proxy.net.resolving import Candidate, InternetName
    from vsock_proxy.relay.loop import Handler


def test_head_that_does_not_come_in_time_is_rejected(place: Place) -> None:
    with outside(place, limits=RelayLimits(connect_timeout=TICK + 1)) as out:
        with out.send(b"CONNECT ") as client:
            out.rig.wait_until(lambda: out.rig.forwarder.in_use == 1)
            out.rig.pass_time(TICK + 2)
            assert read_all(client).startswith(b"HTTP/1.1 408 ")
        out.rig.wait_until(lambda: out.rig.forwarder.in_use == 0)
        out.rig.assert_quiet()


def test_client_that_cannot_be_watched_is_not_blamed(
    out: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Loop.add

    def full(loop: Loop, fd: int, handler: Handler, *events: int) -> None:
        if isinstance(handler, EgressOpening | RejectedClient):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(loop, fd, handler, *events)

    monkeypatch.setattr(Loop, "add", full)
    with out.rig.connect() as client:
        client.settimeout(TEST_TIMEOUT)
        assert read_all(client).startswith(b"HTTP/1.1 503 cannot read the request: No space left")
    out.rig.wait_until(lambda: out.rig.forwarder.in_use == 0)
    assert out.rig.forwarder.counters.rejected == {}
    assert out.rig.forwarder.counters.connect_failures == {"other": 1}
    out.rig.assert_quiet()


def test_client_that_sends_nothing_is_no_rejection(out: Outside) -> None:
    out.rig.connect().close()
    out.rig.wait_until(lambda: out.rig.forwarder.counters.accepted == 1)
    out.rig.wait_until(lambda: out.rig.forwarder.in_use == 0)
    assert out.rig.forwarder.counters.rejected == {}
    out.rig.assert_quiet()


def test_rejected_client_that_goes_on_sending_gets_its_response(out: Outside) -> None:
    with out.send(request("other.example.com", 443) + b"x" * 100_000) as client:
        assert read_all(client).startswith(b"HTTP/1.1 403 ")


def test_rejected_client_that_stays_is_closed(out: Outside) -> None:
    with out.send(request("other.example.com", 443)) as client:
        read_all(client)
        assert out.rig.forwarder.in_use == 1
        out.rig.pass_time(TICK + 1)
        out.rig.wait_until(lambda: out.rig.forwarder.in_use == 0)
        assert flood(client)
    out.rig.assert_quiet()


def test_rejected_client_that_floods_is_closed(out: Outside) -> None:
    with out.send(request("other.example.com", 443)) as client:
        assert flood(client)
    out.rig.wait_until(lambda: out.rig.forwarder.in_use == 0)


def test_client_that_leaves_during_the_look_up_is_closed(out: Outside) -> None:
    with out.connect() as client:
        client.close()
    out.rig.wait_until(lambda: out.rig.forwarder.counters.accepted == 1)
    out.rig.wait_until(lambda: out.rig.forwarder.in_use == 0)
    out.rig.assert_quiet()


def test_clients_over_the_limit_are_told(place: Place) -> None:
    limits = RelayLimits(connections=1, connect_timeout=TICK + 1)
    with outside(place, limits=limits) as out, out.tunnel() as (client, accepted):
        with out.connect() as other:
            out.rig.wait_until(lambda: out.rig.forwarder.waiting == 1)
            out.rig.pass_time(TICK + 2)
            assert read_all(other).startswith(b"HTTP/1.1 503 ")
        check(client, accepted)


def test_enclave_has_no_more_clients_than_it_may(place: Place) -> None:
    with outside(place, limits=RelayLimits(per_cid=2)) as out:
        forwarder = out.rig.forwarder
        ends = [socket.socketpair() for _ in range(4)]

        def accept(number: int, cid: int) -> None:
            ends[number][1].setblocking(False)
            out.rig.loop.call_from_thread(
                lambda: forwarder.accepted(ends[number][1], (cid, 1000 + number))
            )

        for number, cid in enumerate((16, 16, 16, 17)):
            accept(number, cid)
        out.rig.wait_until(lambda: forwarder.counters.accepted == 4)
        assert forwarder.counters.rejected == {"cid_limit": 1}
        assert forwarder.in_use == 3
        assert read_all(ends[2][0]).startswith(b"HTTP/1.1 503 its enclave has as many")
        for number in (0, 1, 3):
            ends[number][0].close()
        out.rig.wait_until(lambda: forwarder.in_use == 0)
        assert not forwarder._by_cid
        for end, _ in ends:
            end.close()


def test_enclave_opens_no_more_a_second_than_it_may(place: Place) -> None:
    with outside(place, limits=RelayLimits(per_cid_per_second=1)) as out:
        forwarder, ends = out.rig.forwarder, [socket.socketpair() for _ in range(8)]

        def accept(numbers: Collection[int], cid: int) -> None:
            def arrive() -> None:
                for number in numbers:
                    ends[number][1].setblocking(False)
                    forwarder.accepted(ends[number][1], (cid, 1000 + number))

            before = forwarder.counters.accepted
            out.rig.loop.call_from_thread(arrive)
            out.rig.wait_until(lambda: forwarder.counters.accepted == before + len(numbers))

        accept(range(6), 16)  # five seconds' worth, and one more
        assert forwarder.counters.rejected == {"cid_rate": 1}
        assert read_all(ends[5][0]) == b""
        accept([6], 17)
        out.rig.pass_time(TICK + 1)
        accept([7], 16)
        assert forwarder.counters.rejected["cid_rate"] == 1
        for end, _ in ends:
            end.close()
        out.rig.wait_until(lambda: forwarder.in_use == 0)


def test_dead_name_servers_of_one_entry_hold_up_nobody_else(place: Place) -> None:
    release = threading.Event()
    running: list[str] = []

    def stuck(
        host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> Sequence[tuple[socket.AddressFamily, InternetName]]:
        if host != NAME:
            running.append(host)
            assert release.wait(TEST_TIMEOUT)
        return [(socket.AF_INET, ("127.0.0.1", port))]

    def wild(port: int) -> Allowlist:
        return Allowlist(allowing(port).entries | {("*.dead.example.com", port)})

    with outside(place, allowlist=wild, limits=RelayLimits(connect_timeout=TICK + 1)) as out:
        assert isinstance(out.rig.forwarder, EgressForwarder)
        out.rig.forwarder._look_up = stuck
        with contextlib.ExitStack() as stack:
            names = [f"n{n}.dead.example.com" for n in range(300)]
            clients = [stack.enter_context(out.connect(name)) for name in names]
            out.rig.wait_until(lambda: out.rig.forwarder.counters.accepted == 300)
            out.rig.wait_until(lambda: len(running) == 8)
            with out.tunnel() as (client, accepted):
                check(client, accepted)
            out.rig.pass_time(TICK + 2)
            for client in clients:
                assert read_all(client).startswith((b"HTTP/1.1 504 ", b"HTTP/1.1 502 "))
            release.set()
        with out.connect(names[0]) as client, out.server.accept() as accepted:
            read_exactly(client, len(ESTABLISHED))
            check(client, accepted)


def test_answer_with_thousands_of_addresses_is_tried_in_part(place: Place) -> None:
    """One client must not have the parent knock on every door that a name server names."""
    knocked: list[str] = []

    class Resolver(HostResolver):
        def failed(self, candidate: Candidate) -> None:
            knocked.append(str(candidate[1][0]))  # type: ignore[index] # an InternetName
            super().failed(candidate)

    refused = [f"127.1.{n >> 8}.{n & 255}" for n in range(3000)]
    names = Names(api_example_com=[refused])
    port = unused_port()
    entries = ((NAME, port), *((address, port) for address in refused))
    with pytest.MonkeyPatch.context() as patch, outside(place, *entries, names=names) as out:
        patch.setattr(egress, "HostResolver", Resolver)
        assert out.response(request(NAME, port)).startswith("HTTP/1.1 502 ")
        assert knocked == refused[:16]
        out.response(request(NAME, port))
        assert knocked == refused[:32], "others the next time"


def test_host_removed_by_a_reload_is_rejected_and_open_tunnels_go_on(out: Outside) -> None:
    forwarder = out.rig.forwarder
    with out.tunnel() as (client, accepted):
        changed = Forward(forwarder.address, Egress(), name="the server", allowlist=None)
        out.rig.loop.call_from_thread(lambda: forwarder.reconfigure(changed))
        assert "not on the egress allowlist" in out.response(request(NAME, out.port))
        check(client, accepted)


def test_hosts_that_are_counted_are_bounded(place: Place) -> None:
    names = [(f"h{n}.example.com", 443) for n in range(MAX_HOSTS + 5)]
    with outside(place, *names) as out:
        for name, port in names:
            out.response(request(name, port))  # none of them resolves
        hosts = out.rig.forwarder.snapshot().hosts
        assert len(hosts) == MAX_HOSTS + 1
        assert hosts["other"].connect_failures == {"name": 5}


def test_abort_closes_clients_of_every_kind(place: Place) -> None:
    with outside(place) as out, contextlib.ExitStack() as stack:
        client, _ = stack.enter_context(out.tunnel())
        waiting = stack.enter_context(out.send(b"CONNECT "))
        rejected = stack.enter_context(out.send(request("other.example.com", 443)))
        read_all(rejected)
        out.rig.wait_until(lambda: out.rig.forwarder.in_use == 3)
        out.rig.loop.call_from_thread(out.rig.forwarder.abort)
        for end in (client, waiting, rejected):
            with contextlib.suppress(ConnectionResetError):
                assert read_all(end) == b""
        out.rig.wait_until(lambda: out.rig.forwarder.in_use == 0)
        assert not out.rig.forwarder._by_cid


def test_flood_of_requests_leaves_nothing_behind(out: Outside) -> None:
    """Connections, heads cut off anywhere, resets: the listener serves the next client."""
    data = request(NAME, out.port) + b"hello"
    for length in range(0, len(data) + 1, 3):
        with out.send(data[:length]):
            pass
    with out.connect() as client:
        assert read_exactly(client, len(ESTABLISHED)) == ESTABLISHED
        client.sendall(b"unique")
        received = b""
        while received != b"unique":  # The others were connected as well.
            with out.server.accept() as accepted:
                received = accepted.recv(6)
    out.rig.wait_until(lambda: out.rig.forwarder.in_use == 0)
    out.rig.assert_quiet()


def test_rejected_cid_gets_a_response(place: Place) -> None:
    with Rig(
        place.address("egress"), egress=Egress(), cids=frozenset({4}), allowlist=None
    ) as rig, rig.connect() as client:  # fmt: skip
        client.settimeout(TEST_TIMEOUT)
        assert read_all(client).startswith(b"HTTP/1.1 403 its CID is not allowed")


def test_listener_of_its_own_kind_is_made_by_the_daemon(place: Place) -> None:
    from vsock_proxy.proxy.egress import forwarder_for  # noqa: PLC0415
    from vsock_proxy.relay.loop import Loop  # noqa: PLC0415

    address = place.address("egress")
    with Loop() as loop:
        forwarder = forwarder_for(loop, listen(address), Forward(address, Egress()))
        assert isinstance(forwarder, EgressForwarder)
        forwarder.stop_accepting()
