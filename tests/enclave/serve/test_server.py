"""Clients that are slow, lost, too many, or send too much; and the end of the server."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from enclave.serve import http_server
from enclave.serve.connection import Connection, Limits
from enclave.serve.http_server import REJECTED_HELD, STEPS_PER_TURN, HttpServer
from tests.enclave.serve.serving import HEAD, PLAIN, Kms, get, read_response, request, reset, served
from tests.enclave.serve.test_http import REFUSED, UPGRADE
from tests.sockets import read_all
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.service import async_server

if TYPE_CHECKING:
    from enclave.serve.protocol import Response

LAST = b"Connection: close"


# Limits


def test_too_many_waiting_calls_are_throttled_counted_and_logged(
    kms: Kms, caplog: pytest.LogCaptureFixture
) -> None:
    kms.hold()
    with (
        served(kms, most=1, max_waiting=1) as endpoint,
        endpoint.connect() as first,
        endpoint.connect() as second,
    ):
        first.sendall(request())
        assert kms.entered.acquire(timeout=TEST_TIMEOUT)
        second.sendall(request())
        endpoint.until(lambda: endpoint.calls.busy == 2)
        response = endpoint.exchange(request())
        assert (response.status, response.error) == (400, "ThrottlingException")
        assert endpoint.calls.counts.throttled == 1
        assert any("2 calls are being made or waiting" in line for line in caplog.messages)
        kms.let_go()
        assert read_response(first).status == read_response(second).status == 200


def test_a_call_ends_by_its_deadline_even_if_it_does_not(kms: Kms) -> None:
    kms.hold()
    with served(kms, most=1, deadline=0.05) as endpoint:
        responses = [endpoint.exchange(request()) for _ in range(2)]  # the second never starts
        kms.let_go()
    for response in responses:
        assert (response.status, response.error) == (503, "ServiceUnavailable")
        assert "no response from KMS within 0.05 s" in response.message


def test_a_waiting_call_is_withdrawn_when_its_client_goes(kms: Kms) -> None:
    kms.hold()
    with served(kms, most=1) as endpoint, endpoint.connect() as first:
        first.sendall(request())
        assert kms.entered.acquire(timeout=TEST_TIMEOUT)
        with endpoint.connect() as second:
            second.sendall(request(b'{"NumberOfBytes":9}'))
            endpoint.until(lambda: endpoint.calls.busy == 2)
            reset(second)
        endpoint.until(lambda: endpoint.calls.busy == 1)
        kms.let_go()
        assert read_response(first).status == 200
    assert kms.calls == [("GenerateRandom", {"NumberOfBytes": 4})]


def test_one_client_too_many_is_refused_and_the_others_served(kms: Kms) -> None:
    with served(kms, limits=Limits(clients=1)) as endpoint, endpoint.connect() as first:
        first.sendall(request())
        assert read_response(first).status == 200
        with endpoint.connect() as second:
            assert read_response(second).error == "ServiceUnavailable"
            assert read_all(second) == b""
        first.sendall(request())
        assert read_response(first).status == 200


def test_a_client_that_sends_too_slowly_is_told_so(kms: Kms) -> None:
    with (
        served(kms, limits=Limits(request_timeout=0.05)) as endpoint,
        endpoint.connect() as client,
    ):
        client.sendall(HEAD)
        response = read_response(client)
        assert (response.status, response.error) == (408, "RequestTimeoutException")
        assert read_all(client) == b""


@pytest.mark.parametrize("data", [b"", b"\r\n" * 9], ids=["nothing", "line ends"])
def test_a_client_that_says_nothing_is_dropped(kms: Kms, data: bytes) -> None:
    with served(kms, limits=Limits(idle_timeout=0.05)) as endpoint, endpoint.connect() as client:
        client.sendall(data)
        assert read_all(client) == b""


def flood(client: socket.socket, data: bytes) -> None:
    while True:
        client.sendall(data)


def test_a_refused_client_that_goes_on_sending_is_cut(kms: Kms) -> None:
    with (
        served(kms, limits=Limits(linger_timeout=0.05)) as endpoint,
        endpoint.connect() as client,
        pytest.raises(OSError),  # noqa: PT011 (a reset or a broken pipe)
    ):
        flood(client, b"\0" * 1000)


def test_a_client_that_does_not_read_is_cut_and_holds_little(kms: Kms) -> None:
    limits = Limits(write_timeout=0.2)
    ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100
    with (
        served(kms, limits=limits) as endpoint,
        endpoint.connect(receive_buffer=4096) as client,
        pytest.raises(OSError),  # noqa: PT011 (a reset or a broken pipe)
    ):
        flood(client, ask)


# Clients that send ahead, end early, or speak more than HTTP/1.1


@pytest.mark.parametrize("upgrade", [b"", UPGRADE])
@pytest.mark.parametrize("head_of_body", [b"Content-Length: 0%d\r\n\r\n", b"%x\r\n"])
def test_upgrades_are_ignored_and_chunks_put_together(
    kms: Kms, upgrade: bytes, head_of_body: bytes
) -> None:
    body = head_of_body % len(PLAIN) + PLAIN
    if head_of_body.startswith(b"%x"):
        body = b"Transfer-Encoding: chunked\r\n\r\n" + body + b"\r\n0\r\n\r\n"
    with served(kms) as endpoint:
        received = endpoint.converse(HEAD + upgrade + body)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b'{"Plaintext":"AAAAAA=="}')


@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_client_that_half_closes_gets_its_responses(kms: Kms, count: int) -> None:
    with served(kms) as endpoint:
        received = endpoint.converse(request() * count)
    assert received.count(b"HTTP/1.1 200 ") == len(kms.calls) == count


def test_a_client_that_half_closes_during_its_call_gets_the_response(kms: Kms) -> None:
    kms.hold()
    with served(kms) as endpoint, endpoint.connect() as client:
        client.sendall(request())
        assert kms.entered.acquire(timeout=TEST_TIMEOUT)
        client.shutdown(socket.SHUT_WR)
        kms.let_go()
        assert read_response(client).status == 200
        assert read_all(client) == b""


def test_a_call_that_waits_is_withdrawn_when_its_half_closed_client_is_lost(kms: Kms) -> None:
    kms.hold()
    with served(kms, most=1) as endpoint, endpoint.connect() as first:
        first.sendall(request())
        assert kms.entered.acquire(timeout=TEST_TIMEOUT)
        with endpoint.connect() as second:
            second.sendall(request(b'{"NumberOfBytes":9}'))
            second.shutdown(socket.SHUT_WR)
            endpoint.until(lambda: endpoint.calls.busy == 2)
            reset(second)
        endpoint.until(lambda: endpoint.calls.busy == 1)
        kms.let_go()
        assert read_response(first).status == 200
    assert len(kms.calls) == 1


def test_connect_gets_one_response(kms: Kms) -> None:
    with served(kms) as endpoint:
        received = endpoint.converse(REFUSED["CONNECT"] + request())
    assert received.count(b"HTTP/1.1 ") == 1
    assert received.startswith(b"HTTP/1.1 405 ")


def test_what_a_lost_client_has_sent_ahead_is_dropped(kms: Kms) -> None:
    kms.hold()
    with served(kms, most=1) as endpoint:
        with endpoint.connect() as client:
            client.sendall(request() * 100)
            assert kms.entered.acquire(timeout=TEST_TIMEOUT)
            reset(client)
        endpoint.until(lambda: not endpoint.endpoint.connections)
        kms.let_go()
        assert endpoint.exchange(request(b'{"NumberOfBytes":9}')).status == 200
    assert [parameters["NumberOfBytes"] for _, parameters in kms.calls] == [4, 9]


@pytest.mark.filterwarnings("error")
def test_many_lost_clients_that_have_sent_ahead_leave_no_line(
    kms: Kms, caplog: pytest.LogCaptureFixture
) -> None:
    with served(kms) as endpoint:
        for _ in range(20):
            with endpoint.connect() as client:
                client.sendall(get(b"/") * 500)
                reset(client)
        assert endpoint.exchange(get(b"/healthz")).status == 200
        endpoint.until(lambda: not endpoint.endpoint.connections)
    assert caplog.messages == []


def test_a_lost_client_does_not_wait_for_its_turn(
    kms: Kms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients may be lost faster than turns are taken; what waits would grow without a limit."""
    monkeypatch.setattr(http_server, "TURN_PAUSE", TEST_TIMEOUT)  # no turn comes
    lost: list[weakref.ref[Connection]] = []

    async def come_and_go() -> None:
        connection = Connection(endpoint.endpoint)
        sent = get(b"/") * 100
        connection.get_buffer(-1)[: len(sent)] = sent
        connection.buffer_updated(len(sent))
        assert connection.scheduled
        connection.connection_lost(None)
        lost.append(weakref.ref(connection))

    with served(kms) as endpoint:
        for _ in range(10):
            endpoint.run(come_and_go())
        gc.collect()
        assert not any(connection() for connection in lost)


class Greedy:
    """Stands for a connection that always has one more step to take."""

    def __init__(self, server: HttpServer) -> None:
        self.scheduled = False
        self.steps = 0
        self._server = server

    def advance(self) -> None:
        self.steps += 1
        self._server.schedule(self)  # type: ignore[arg-type] # a double


def test_a_turn_of_the_loop_is_bounded_and_shared(kms: Kms) -> None:
    clients: list[Greedy] = []

    async def begin() -> None:
        clients.extend(Greedy(endpoint.endpoint) for _ in range(10))
        for client in clients:
            endpoint.endpoint.schedule(client)  # type: ignore[arg-type] # as above

    async def one_turn() -> int:
        before = sum(client.steps for client in clients)
        endpoint.endpoint._take_turns()
        return sum(client.steps for client in clients) - before

    with served(kms) as endpoint:
        endpoint.run(begin())
        endpoint.until(lambda: min(client.steps for client in clients) >= 3)
        assert endpoint.run(one_turn()) == STEPS_PER_TURN
        steps = [client.steps for client in clients]
    assert max(steps) - min(steps) <= 1


def test_a_bug_in_a_turn_does_not_stop_the_others(
    kms: Kms, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Response:
        raise RuntimeError("s3cret")

    with served(kms) as endpoint, endpoint.connect() as client:
        with monkeypatch.context() as patch:
            patch.setitem(endpoint.endpoint.pages, "/healthz", fail)
            client.sendall(request() + get(b"/healthz"))
            received = read_all(client)
        assert received.count(b"HTTP/1.1 ") == 1
        assert endpoint.exchange(request()).status == 200
    assert "internal error: RuntimeError" in caplog.messages
    assert "s3cret" not in caplog.text


def test_clients_that_are_rejected_hold_few_descriptors_and_leave_one_line(
    kms: Kms, caplog: pytest.LogCaptureFixture
) -> None:
    with served(kms, limits=Limits(clients=1)) as endpoint, endpoint.connect() as first:
        endpoint.until(lambda: len(endpoint.endpoint.connections) == 1)
        before = open_descriptors()
        clients = [endpoint.connect() for _ in range(50)]
        for client in clients:
            assert read_response(client).status == 503
        assert open_descriptors() <= before + 50 + REJECTED_HELD
        for client in clients:
            client.close()
        first.sendall(get(b"/healthz"))
        facts = json.loads(read_response(first).body)
        assert (facts["clients"], facts["clients_rejected"]) == (1, 50)
    lines = [line for line in caplog.messages if "rejected a client" in line]
    assert lines == ["rejected a client: limit of 1 connections reached (--max-clients)"]


def test_a_flood_of_rejections_pauses_accepting(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_server, "REJECTIONS_PER_SWEEP", 2)
    with served(kms, limits=Limits(clients=1)) as endpoint, endpoint.connect() as first:
        endpoint.until(lambda: len(endpoint.endpoint.connections) == 1)
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                client = stack.enter_context(endpoint.connect())
                assert read_response(client).status == 503  # later, but it comes
        first.sendall(request())
        assert read_response(first).status == 200


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# The end


def test_draining_ends_calls_and_idle_clients_and_takes_no_new_ones(kms: Kms) -> None:
    kms.hold()
    with (
        served(kms) as endpoint,
        endpoint.connect() as idle,
        endpoint.connect() as busy,
    ):
        busy.sendall(request() + request())
        assert kms.entered.acquire(timeout=TEST_TIMEOUT)
        endpoint.until(lambda: len(endpoint.endpoint.connections) == 2)
        drained = threading.Thread(
            target=endpoint.run, args=(endpoint.endpoint.drain(TEST_TIMEOUT),)
        )
        drained.start()
        assert read_all(idle) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", endpoint.port))
        kms.let_go()
        response = read_response(busy)
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert read_all(busy) == b""  # the request sent ahead is not begun
        drained.join(TEST_TIMEOUT)
    assert len(kms.calls) == 1


def test_draining_has_an_end(kms: Kms) -> None:
    kms.hold()
    with served(kms) as endpoint, endpoint.connect() as client:
        client.sendall(request())
        assert kms.entered.acquire(timeout=TEST_TIMEOUT)
        endpoint.run(endpoint.endpoint.drain(0.05))
        kms.let_go()


def test_no_descriptor_is_left(kms: Kms) -> None:
    before = open_descriptors()
    with served(kms) as endpoint:
        for data in (request(), REFUSED["bare LF"], get(b"/readyz")):
            endpoint.exchange(data)
    assert open_descriptors() == before
