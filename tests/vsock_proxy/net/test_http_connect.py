"""HTTP CONNECT: heads as they are written, parsed and rejected."""

from __future__ import annotations

import contextlib
import itertools
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsock_proxy.net.http_connect import (
    ESTABLISHED,
    MAX_HEAD,
    HeadReader,
    RequestError,
    TunnelRefusedError,
    check_response,
    parse_request,
    rejection,
    request,
)

GOOD = b"CONNECT s3.amazonaws.com:443 HTTP/1.1\r\n\r\n"


class Pieces:
    """A stream that has a piece of some bytes at a time, and then would block."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = [piece for piece in pieces if piece]

    def recv(self, count: int, flags: int = 0) -> bytes:
        if not self._pieces:
            raise BlockingIOError
        seen = self._pieces[0][:count]
        if flags != socket.MSG_PEEK:
            self._pieces[0] = self._pieces[0][count:]
            if not self._pieces[0]:
                del self._pieces[0]
        return seen

    def left(self) -> bytes:
        return b"".join(self._pieces)


@pytest.mark.parametrize(
    ("host", "port"),
    [("s3.eu-central-1.amazonaws.com", 443), ("db", 5432), ("10.0.0.5", 1), ("2001:db8::1", 65535)],
)
def test_request_is_parsed_as_it_is_written(host: str, port: int) -> None:
    assert parse_request(request(host, port)) == (host, port)


@pytest.mark.parametrize("target", ["a.b:443", "a.b:0443", "a.b:00443"])
def test_port_with_zeros_is_written_without_them_for_the_next_hop(target: str) -> None:
    host, port = parse_request(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
    assert request(host, port).startswith(b"CONNECT a.b:443 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "head",
    [
        b"CONNECT a.b:443 HTTP/1.0\r\n\r\n",  # Python before 3.12
        b"CONNECT a.b:443 HTTP/1.1\r\nHost: other:1\r\nUser-Agent: curl/8\r\nX:\r\n\r\n",
        b"CONNECT a.b:443 HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        b"CONNECT a.b:443 HTTP/1.1\r\nProxy-Connection: keep-alive\r\nX: \xe4\t\r\n\r\n",
    ],
)
def test_heads_of_clients_are_accepted(head: bytes) -> None:
    assert parse_request(head) == ("a.b", 443)


@pytest.mark.parametrize(
    ("head", "status", "reason"),
    [
        (b"GET http://a.b/ HTTP/1.1\r\nHost: a.b\r\n\r\n", 405, "use https://"),
        (b"POST / HTTP/1.1\r\n\r\n", 405, "only CONNECT is served"),
        (b"PROPFIND / HTTP/1.1\r\n\r\n", 501, "only CONNECT is served"),
        (b"PRI * HTTP/2.0\r\n\r\n", 505, "HTTP/1.1 is spoken here"),
        (b"CONNECT a.b:443 HTTP/2\r\n\r\n", 505, "HTTP/1.1 is spoken here"),
        (b"CONNECT a.b HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT a.b:0 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT a.b:65536 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT :443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT u@a.b:443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT u:p@a.b:443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT a%2eb:443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT a.b%00.c:443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT a.b\0.c:443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT a.b:443\0 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT a.b:+443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT a.b:4_43 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT a.b:\xd9\xa4\xd9\xa4 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT a.b:000443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT a.b: HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT a.b:443:80 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT [a.b]:443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT [fe80::1%eth0]:443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT [fe80::1%25eth0]:443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT xn--\xc3\xa4:443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT -a.b:443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT " + b"a" * 254 + b":443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT a.b:443\tHTTP/1.1\r\n\r\n", 400, "not an HTTP request"),
        (b"connect a.b:443 HTTP/1.1\r\n\r\n", 501, "only CONNECT is served"),
        (b"CONNECT a/b:443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT ::1:443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT [::1]x:443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT [1.2.3.4.5]:443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT a\xc3\xa4:443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT https://a.b:443 HTTP/1.1\r\n\r\n", 400, "the target is not HOST:PORT"),
        (b"CONNECT  a.b:443 HTTP/1.1\r\n\r\n", 400, "not an HTTP request"),
        (b"CONNECT a.b:443 HTTP/1.1\r\nX : y\r\n\r\n", 400, "a header is malformed"),
        (b"CONNECT a.b:443 HTTP/1.1\r\nX: y\r\n z\r\n\r\n", 400, "a header is malformed"),
        (b"CONNECT a.b:443 HTTP/1.1\r\nX: \0\r\n\r\n", 400, "a header is malformed"),
        (b"CONNECT a.b:443 HTTP/1.1\r\nX: a\rb\r\n\r\n", 400, "a header is malformed"),
        (b"CONNECT a.b:443 HTTP/1.1\r\nContent-Length: 5\r\n\r\n", 400, "has no content"),
        (b"CONNECT a.b:443 HTTP/1.1\r\nContent-Length: 0, 5\r\n\r\n", 400, "has no content"),
        (b"CONNECT a.b:443 HTTP/1.1\r\nContent-Length: +0\r\n\r\n", 400, "has no content"),
        (b"CONNECT a.b:443 HTTP/1.1\r\nContent-Length:\r\n\r\n", 400, "has no content"),
        (
            b"CONNECT a.b:443 HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
            400,
            "has no content",
        ),
        (b"CONNECT a.b:443 HTTP/1.1\r\nContent-Length : 5\r\n\r\n", 400, "a header is malformed"),
        (
            b"CONNECT a.b:443 HTTP/1.1\r\n\tTransfer-Encoding: chunked\r\n\r\n",
            400,
            "a header is malformed",
        ),
        (b"CONNECT a.b:443 HTTP/1.1\r\nTransfer-Encoding:\r\n\r\n", 400, "has no content"),
        (b"CONNECT a.b:443 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", 400, "no content"),
    ],
)
def test_other_heads_are_rejected(head: bytes, status: int, reason: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(head)
    assert caught.value.status == status
    assert reason in caught.value.reason


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_rejected(head: bytes) -> None:
    for data in (head, head + b"\r\n\r\n", GOOD[:20] + head + b"\r\n\r\n"):
        with contextlib.suppress(RequestError):
            host, port = parse_request(data)
            assert host
            assert 0 < port < 65536


@given(st.data())
def test_reader_takes_the_head_and_nothing_after_it(data: st.DataObject) -> None:
    after = data.draw(st.binary(max_size=20))
    whole = GOOD + after
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    bounds = [0, *cuts, len(whole)]
    stream = Pieces(*(whole[a:b] for a, b in itertools.pairwise(bounds)))
    assert HeadReader(socket.MSG_PEEK).read(stream) == GOOD
    assert stream.left() == after


def test_reader_goes_on_where_it_stopped() -> None:
    reader = HeadReader(socket.MSG_PEEK)
    for byte in GOOD[:-1]:
        with pytest.raises(BlockingIOError):
            reader.read(Pieces(bytes([byte])))
    assert reader.read(Pieces(b"\n")) == GOOD


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, "TLS where HTTP is expected"),
        (b"\x05\x01\x00", 400, "SOCKS where HTTP is expected"),
        (b"\x04\x01\x01\xbb", 400, "SOCKS where HTTP is expected"),
        (b"\r\nCONNECT", 400, "not HTTP"),
        (b"SSH-2.0-x\n", 400, "a line does not end with CR LF"),
        (b"C" * MAX_HEAD, 431, "longer than 8192 bytes"),
    ],
)
def test_reader_rejects_what_will_never_be_a_head(data: bytes, status: int, reason: str) -> None:
    with pytest.raises(RequestError) as caught:
        HeadReader(socket.MSG_PEEK).read(Pieces(data))
    assert caught.value.status == status
    assert reason in caught.value.reason


def test_end_before_the_end_of_the_head_is_a_reset() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.sendall(GOOD[:-2])
        one.close()
        with pytest.raises(ConnectionResetError):
            HeadReader(socket.MSG_PEEK).read(other)


@pytest.mark.parametrize(
    "head", [ESTABLISHED, b"HTTP/1.0 200\r\n\r\n", b"HTTP/1.1 204 x\r\nContent-Length: 9\r\n\r\n"]
)
def test_two_hundreds_are_tunnels(head: bytes) -> None:
    check_response(head)


@pytest.mark.parametrize(
    ("head", "status", "reason"),
    [
        (b"HTTP/1.1 403 not on the list\r\nX: y\r\n\r\n", 403, "not on the list"),
        (b"HTTP/1.1 403 \x1b[2J\r\n\r\n", 0, "malformed"),
        (b"HTTP/1.1 502 \xff\t" + b"x" * 900 + b"\r\n\r\n", 502, "??" + "x" * 238),
        (b"HTTP/1.1 101 Switching\r\n\r\n", 101, "Switching"),
        (b"HTTP/2 200\r\n\r\n", 0, "malformed"),
        (b"HTTP/1.1 200 OK\nX: y\r\n\r\n", 0, "malformed"),
        (b"\r\n\r\n", 0, "malformed"),
    ],
)
def test_other_responses_are_refusals(head: bytes, status: int, reason: str) -> None:
    with pytest.raises(TunnelRefusedError) as caught:
        check_response(head)
    assert caught.value.status == status
    assert reason in caught.value.reason


def test_rejection_is_one_line_and_bounded() -> None:
    response = rejection(403, "evil\r\nX: y" + "z" * 5000, "add: - {address: a, port: 1}")
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0].startswith(b"HTTP/1.1 403 evil??X: yzzz")
    assert len(response) < 1000
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
    assert b"add: - {address: a, port: 1}" in body
    assert b"Allow: CONNECT\r\n" in rejection(405, "only CONNECT")
