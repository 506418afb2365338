"""The relay's contract, over every pair of transports that a machine without vsock has."""

from __future__ import annotations

import socket
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sockets import read_all
from tests.vsock_proxy.rig import LARGE, TICK, Ends, expect, in_thread, read_exactly, say, text
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.relay import flow
from vsock_proxy.relay.loop import BUFFER_SIZE

PIECES = [1_000, 4_096, BUFFER_SIZE, 300_000]


def test_bytes_are_relayed_both_ways(ends: Ends) -> None:
    with ends.pair() as (client, server):
        client.sendall(b"question")
        assert read_exactly(server, 8) == b"question"
        server.sendall(b"answer")
        assert read_exactly(client, 6) == b"answer"


def test_response_after_client_half_close_arrives(ends: Ends) -> None:
    # AWS's proxy closes both directions at the first end.
    with ends.pair() as (client, server):
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert read_all(server) == b"question"
        with in_thread(lambda: say(server, b"d" * LARGE)):
            assert read_all(client) == b"d" * LARGE
    ends.wait_until_empty()


def test_upload_after_server_half_close_arrives(ends: Ends) -> None:
    with ends.pair() as (client, server):
        server.sendall(b"banner")
        server.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"banner"
        with in_thread(lambda: say(client, b"u" * LARGE)):
            assert len(read_all(server)) == LARGE
    ends.wait_until_empty()


def test_data_of_a_server_that_speaks_first_and_closes_arrives(ends: Ends) -> None:
    # Data and end arrive before the relay's first read: one edge announces both.
    with ends.rig.connect() as client:
        with ends.server.accept() as server:
            server.sendall(b"banner")
        assert read_all(client) == b"banner"


def test_end_without_data_is_passed_on(ends: Ends) -> None:
    with ends.pair() as (client, server):
        client.shutdown(socket.SHUT_WR)
        assert read_all(server) == b""
        server.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""
        ends.wait_until_empty()


def test_upload_continues_while_the_client_does_not_read(ends: Ends) -> None:
    # AWS's proxy stalls here: one thread, blocked in its write to the client.
    uploaded = threading.Event()

    def read_upload() -> None:
        read_exactly(server, LARGE)
        uploaded.set()

    with (
        ends.pair() as (client, server),
        in_thread(lambda: server.sendall(b"d" * LARGE)),
        in_thread(read_upload),
    ):
        client.sendall(b"u" * LARGE)
        assert uploaded.wait(TEST_TIMEOUT)
        assert read_exactly(client, LARGE) == b"d" * LARGE


def test_full_close_of_the_client_frees_the_server(ends: Ends) -> None:
    if ends.client_kind == "tcp":
        pytest.skip("TCP does not tell a close from a half-close before something is sent")
    with ends.pair() as (client, server):
        client.sendall(b"bye")
        client.close()
        assert read_exactly(server, 3) == b"bye"
        ends.wait_until_empty()


def test_full_close_is_noticed_in_a_later_turn(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    if ends.client_kind == "tcp":
        pytest.skip("TCP does not tell a close from a half-close before something is sent")
    monkeypatch.setattr(flow, "READS_PER_TURN", 1)
    with ends.pair() as (client, server):
        client.sendall(b"bye")
        client.close()
        assert read_all(server) == b"bye"
        ends.wait_until_empty()


def test_close_after_half_close_frees_the_server(ends: Ends) -> None:
    if ends.client_kind == "tcp":
        pytest.skip("TCP does not tell a close from a half-close before something is sent")
    with ends.pair() as (client, server):
        client.shutdown(socket.SHUT_WR)
        assert read_all(server) == b""
        assert ends.rig.forwarder.in_use == 1
        client.close()
        ends.wait_until_empty()


def test_last_bytes_of_a_closed_client_reach_a_slow_server(ends: Ends) -> None:
    with ends.pair() as (client, server), in_thread(lambda: say(client, b"u" * LARGE)):
        assert read_exactly(server, 1) == b"u"
        assert len(read_all(server)) == LARGE - 1


def test_sockets_have_nodelay_and_keepalive(ends: Ends) -> None:
    # AWS's proxy leaves Nagle's algorithm on: 43 ms for every write-write-read.
    with ends.pair() as (client, server):
        client.sendall(b"x")
        read_exactly(server, 1)
        connection = ends.connection()
        ends.rig.pass_time(TICK + 1)  # What lives that long is kept alive.
        ends.rig.wait_until(lambda: connection._kept_alive)
        for end, kind in (
            (connection._client, ends.client_kind),
            (connection._server, ends.server_kind),
        ):
            if kind == "tcp":
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


@settings(
    max_examples=30,
    deadline=None,
    # All examples share the rig on purpose: each is one more connection.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    up=st.integers(0, 400_000),
    down=st.integers(0, 400_000),
    pieces=st.tuples(st.sampled_from(PIECES), st.sampled_from(PIECES)),
)
def test_no_byte_is_lost_or_added(ends: Ends, up: int, down: int, pieces: tuple[int, int]) -> None:
    with (
        ends.pair() as (client, server),
        in_thread(lambda: say(client, text(up), pieces[0])),
        in_thread(lambda: say(server, text(down), pieces[1])),
        in_thread(lambda: expect(server, text(up))),
    ):
        expect(client, text(down))
    ends.wait_until_empty()
