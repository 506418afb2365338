"""Peers that reset, flood, never read or leave early, over every pair of transports."""

from __future__ import annotations

import contextlib
import socket
import threading
from concurrent.futures import Future

import pytest

from tests.sockets import read_all
from tests.vsock_proxy.rig import LARGE, Ends, flood, in_thread, read_exactly, reset
from vsock_proxy.relay.loop import BUFFER_SIZE


def test_memory_for_a_peer_that_never_reads_is_bounded(ends: Ends) -> None:
    with ends.pair() as (client, server), in_thread(lambda: flood(client)):
        connection = ends.connection()
        ends.rig.wait_until(lambda: bool(connection.up.tail))
        assert len(connection.up.tail) <= BUFFER_SIZE
        with ends.pair() as (other_client, other_server):
            other_client.sendall(b"hello")
            assert read_exactly(other_server, 5) == b"hello"
        # It continues where it stopped.
        assert read_exactly(server, LARGE) == b"x" * LARGE
        server.close()


def test_client_reset_reaches_the_server(ends: Ends) -> None:
    with ends.pair() as (client, server):
        client.sendall(b"half a ")
        assert read_exactly(server, 7) == b"half a "
        reset(client)
        if (ends.client_kind, ends.server_kind) == ("tcp", "tcp"):
            with pytest.raises(ConnectionResetError):
                server.recv(1)
        else:
            assert server.recv(1) == b""  # UNIX sockets have no reset to send.
    ends.wait_until_empty()


def test_server_reset_reaches_the_client_after_its_data(ends: Ends) -> None:
    with ends.pair() as (client, server):
        server.sendall(b"half an ")
        assert read_exactly(client, 8) == b"half an "
        reset(server)
        if (ends.client_kind, ends.server_kind) == ("tcp", "tcp"):
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        else:
            assert client.recv(1) == b""
    ends.wait_until_empty()


def test_reset_while_sending_is_not_taken_for_an_orderly_end(ends: Ends) -> None:
    if (ends.client_kind, ends.server_kind) != ("tcp", "tcp"):
        pytest.skip("only TCP has a reset to pass on")
    with ends.pair() as (client, server):
        cut_short = Future[bool]()
        with in_thread(lambda: cut_short.set_result(flood(client))):
            read_exactly(server, 1_000_000)
            reset(server)
        assert cut_short.result(0)
        ends.wait_until_empty()


def test_early_response_arrives(ends: Ends) -> None:
    with ends.pair() as (client, server):
        client.sendall(b"q" * 1000)
        assert read_exactly(server, 1) == b"q"
        server.sendall(b"too much")
        server.close()  # With bytes unread: a reset, on TCP and on UNIX sockets alike.
        assert read_exactly(client, 8) == b"too much"
    ends.wait_until_empty()


def test_urgent_bytes_stay_in_order(ends: Ends) -> None:
    if ends.client_kind != "tcp":
        pytest.skip("only TCP has urgent bytes that stay in line")
    with ends.pair() as (client, server):
        client.sendall(b"one")
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"two")
        assert read_exactly(server, 7) == b"one!two"


def test_fast_connection_does_not_starve_a_slow_one(ends: Ends) -> None:
    stop = threading.Event()
    with ends.pair() as (fast_client, fast_server), ends.pair() as (client, server):

        def talk() -> None:
            piece = b"x" * 1_000_000
            while not stop.is_set():
                fast_client.sendall(piece)
            fast_client.shutdown(socket.SHUT_WR)

        with in_thread(talk), in_thread(lambda: read_all(fast_server)):
            for _ in range(50):
                client.sendall(b"ping")
                assert read_exactly(server, 4) == b"ping"
                server.sendall(b"pong")
                assert read_exactly(client, 4) == b"pong"
            stop.set()


def test_loop_is_quiet_while_peers_idle_half_close_and_leave(ends: Ends) -> None:
    with contextlib.ExitStack() as open_now:
        pairs = [open_now.enter_context(ends.pair()) for _ in range(16)]
        for client, _ in pairs[:4]:
            client.shutdown(socket.SHUT_WR)
        for _, server in pairs[4:8]:
            server.shutdown(socket.SHUT_WR)
        for client, _ in pairs[8:10]:
            client.close()
        for client, _ in pairs[10:12]:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    client.send(b"x" * 100_000)
        for client, server in pairs[12:]:
            client.sendall(b"x")
            read_exactly(server, 1)
        ends.rig.assert_quiet()
