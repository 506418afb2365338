"""Targets: HTTP responses of KMS and the parent, requests to the endpoint."""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import replace
from typing import Any

from enclave.attested_tls import first_request
from enclave.errors import AgentError
from enclave.http.errors import HttpError
from enclave.http.response import MAX_HEAD, ResponseReader
from enclave.serve.http_reader import MAX_BODY, RequestReader
from enclave.serve.protocol import (
    EndpointError,
    Request,
    check_host,
    error_response,
    http_bytes,
    pooled_bytes,
    read_call,
)
from tests.programs.fuzz.target import Feed, Target, pieces
from vsock_proxy.net.addresses import may_be_host
from vsock_proxy.net.http_connect import MAX_HEAD as MAX_CONNECT_HEAD
from vsock_proxy.net.http_connect import (
    HeadReader,
    RequestError,
    TunnelRefusedError,
    check_response,
    parse_request,
    rejection,
)
from vsock_proxy.net.http_connect import (
    request as connect_request,
)

_MOST = 2048
"""Bytes of a response's body."""


def _outcome(data: bytes, size: int, *, ends: bool) -> tuple[Any, ...]:
    """Return what a reader makes of bytes in pieces of this size."""
    reader = ResponseReader(_MOST)
    try:
        for piece in pieces(data, size):
            if reader.receive(piece):
                assert reader.response is not None
                assert len(reader.response.body) <= _MOST
        if ends:
            reader.end()
    except HttpError as e:
        return type(e), str(e)
    return reader.response, reader.may_reuse


def _response(data: bytes) -> None:
    """How the bytes are cut must not matter; only the message of an error may differ."""
    feed = Feed(data)
    size, ends = 1 + feed.byte() % 40, bool(feed.byte() & 1)
    whole, cut = (_outcome(feed.rest(), size, ends=ends) for size in (0, size))
    if isinstance(whole[0], type) or isinstance(cut[0], type):
        # A limit may be noticed sooner in a piece than in the whole; both must reject.
        assert isinstance(whole[0], type), (whole, cut)
        assert isinstance(cut[0], type), (whole, cut)
    else:
        assert whole == cut, (whole, cut)
        response = whole[0]
        if response is not None:
            assert 200 <= response.status <= 599
            assert all(name == name.lower() for name in response.headers)


def _response_seeds() -> list[bytes]:
    ok = b"HTTP/1.1 200 OK\r\n"
    chunked = ok + b"Transfer-Encoding: chunked\r\n\r\n"
    made = [
        ok + b"Content-Length: 5\r\nContent-Type: application/json\r\n\r\nhello",
        ok + b"content-length: 0\r\nConnection: close\r\n\r\n",
        chunked + b"5\r\nhello\r\n0\r\n\r\n",
        chunked + b"1;a=b\r\nx\r\n1\r\ny\r\n0\r\nTrailer: t\r\n\r\n",
        ok + b"\r\nuntil the end",
        b"HTTP/1.1 100 Continue\r\n\r\n" + ok + b"Content-Length: 1\r\n\r\nx",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
        b"HTTP/1.0 503 Service Unavailable\r\nConnection: keep-alive\r\n\r\n<html>",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
        ok + b"Content-Length: 5\r\n\r\nhello" + ok,
        ok + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        ok + b"A: " + b"x" * 2000 + b"\r\nContent-Length: 1\r\n\r\nx",
    ]
    return [each + tail for each in made for tail in (b"\x01\x00", b"\x00\x06")]


def _parsed(data: bytes, size: int) -> tuple[list[Request], Any]:
    reader = RequestReader()
    for piece in pieces(data, size):
        reader.feed(piece)
    error = reader.error
    return list(reader.requests), None if error is None else (error.type, error.status)


def _request(data: bytes) -> None:
    """How the bytes are cut must not matter; each request becomes a call or an error of KMS's."""
    feed = Feed(data)
    size = 1 + feed.byte() % 40
    whole, cut = _parsed(feed.rest(), 0), _parsed(feed.rest(), size)
    # Ahead of an error, a reader of the whole may have seen fewer requests.
    assert (whole[1] is None) == (cut[1] is None), (whole, cut)
    if whole[1] is None:
        assert whole == cut
    for request in cut[0]:
        assert len(request.body) <= MAX_BODY
        _respond(request)
        _respond(replace(request, method="POST", target="/"))


def _respond(request: Request) -> None:
    error: AgentError
    try:
        check_host(request.headers.get("host"))
        call = read_call(request)
    except EndpointError as e:
        error = e
    else:
        number = pooled_bytes(call, 256)
        assert number is None or 1 <= number <= 256
        assert json.loads(json.dumps(call.parameters)) == call.parameters
        error = AgentError("a failure")
    sent = http_bytes(error_response(error, "request-id"), date="now", close=True)
    head, _, body = sent.partition(b"\r\n\r\n")
    assert b"\r\n\r\n" not in head
    assert json.loads(body)["__type"]


def _request_seeds() -> list[bytes]:
    head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1:8009\r\n"
    call = head + b"X-Amz-Target: TrentService.GenerateRandom\r\n"
    body = b'{"NumberOfBytes":32}'
    signed = (
        b"Authorization: AWS4-HMAC-SHA256 Credential=AKIA/20260601/eu-west-1/kms/aws4_request, "
        b"SignedHeaders=host, Signature=00\r\n"
    )
    one = call + b"Content-Length: 20\r\n\r\n" + body
    made = [
        one,
        one + one,
        call + signed + b"Content-Length: 20\r\nExpect: 100-continue\r\n\r\n" + body,
        call + b"Transfer-Encoding: chunked\r\n\r\n14\r\n" + body + b"\r\n0\r\n\r\n",
        call
        + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 20\r\n\r\n"
        + body,
        head
        + b"X-Amz-Target: TrentService.Decrypt\r\nContent-Length: 63\r\n\r\n"
        b'{"CiphertextBlob":"AA==","Recipient":{"AttestationDocument":""}}'[:63],
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"CONNECT kms.us-east-1.amazonaws.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        call + b"Content-Length: 20\r\nContent-Length: 20\r\n\r\n" + body,
        call + b"Transfer-Encoding: chunked\r\nContent-Length: 20\r\n\r\n" + body,
        b"POST / HTTP/1.0\r\n\r\n",
    ]
    return [each + tail for each in made for tail in (b"\x00", b"\x10")]


_WORDS = (
    b"\r\n", b"\r\n\r\n", b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.1 ",
    b"Connection: close\r\n", b"Upgrade: h2c\r\n", b"0\r\n\r\n", b"Expect: 100-continue\r\n",
    b"X-Amz-Target: TrentService.", b"Host: localhost\r\n", b"CONNECT ", b"\t ", b"0x", b";",
)  # fmt: skip


class _Cut:
    """A socket that has its bytes in pieces."""

    def __init__(self, data: bytes, size: int) -> None:
        self._pieces = pieces(data, size)

    def recv(self, count: int, flags: int = 0) -> bytes:
        if not self._pieces:
            raise BlockingIOError
        seen = self._pieces[0][:count]
        if not flags:
            self._pieces[0] = self._pieces[0][len(seen) :]
            if not self._pieces[0]:
                del self._pieces[0]
        return seen


def _connect(data: bytes) -> None:
    """How the bytes are cut must not matter to what a CONNECT asks for; both kinds of reader."""
    feed = Feed(data)
    size, data = 1 + feed.byte() % 40, feed.rest()
    asked: set[tuple[str, int] | None] = set()
    for cut in (0, size):
        for peek in (0, socket.MSG_PEEK):
            try:
                head = HeadReader(peek).read(_Cut(data, cut))
                assert len(head) <= MAX_CONNECT_HEAD
                assert data.startswith(head)
                host, port = parse_request(head)
            except (RequestError, BlockingIOError):
                asked.add(None)
                continue
            assert may_be_host(host)
            assert 0 < port < 65_536
            assert parse_request(connect_request(host, port)) == (host, port)
            asked.add((host, port))
    assert len(asked) == 1, asked
    with contextlib.suppress(TunnelRefusedError):
        check_response(data)
    assert rejection(403, data.decode("latin-1")).index(b"\r\n\r\n") < 400


def _connect_seeds() -> list[bytes]:
    made = [
        connect_request("s3.amazonaws.com", 443),
        connect_request("2001:db8::1", 8443),
        b"CONNECT a.b:443 HTTP/1.0\r\nProxy-Connection: keep-alive\r\nX:\t\xff\r\n\r\nhello",
        b"CONNECT a.b:443 HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: x\r\n\r\n",
        b"GET http://a.b/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
        b"HTTP/1.1 200 Connection established\r\n\r\n",
        b"HTTP/1.1 403 no\r\nContent-Type: text/plain\r\n\r\nno",
    ]
    return [each + tail for each in made for tail in (b"\0", b"\x05")]


def _first_request(data: bytes) -> None:
    """A client of attested TLS: what more bytes make of it never contradicts an earlier verdict."""
    feed = Feed(data)
    size = 1 + feed.byte() % 40
    data = feed.rest()
    whole, earlier = first_request.look(data), data[:size]
    assert first_request.look(earlier) in (first_request.Undecided(), whole)
    if isinstance(whole, first_request.DocumentRequest):
        assert whole.size <= min(len(data), first_request.MAX_HEAD)
        assert whole.nonce is None or 16 <= len(whole.nonce) <= 64


def _first_request_seeds() -> list[bytes]:
    start = b"GET /.well-known/nitro-attestation"
    ask = start + b"?nonce=" + b"5a" * 32 + b" HTTP/1.1\r\nHost: h\r\n"
    made = [
        ask + b"\r\n",
        ask + b"Connection: close\r\n\r\nPOST / HTTP/1.1\r\n\r\n",
        ask + b"Content-Length: 1\r\n\r\nx",
        start + b" HTTP/1.1\r\n\r\n",
        start + b"s HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ]
    return [each + b"\x05" for each in made]


TARGETS = [
    Target(name="http-first-request", run=_first_request, seeds=_first_request_seeds, words=_WORDS,
           packages=("enclave",)),
    Target(name="http-response", run=_response, seeds=_response_seeds, words=_WORDS,
           packages=("enclave",), max_length=MAX_HEAD + _MOST),
    Target(name="http-request", run=_request, seeds=_request_seeds, words=_WORDS,
           packages=("enclave",)),
    Target(name="connect", run=_connect, seeds=_connect_seeds, packages=("vsock_proxy",),
           words=(*_WORDS, b" HTTP/1.1\r\n", b"[::1]", b":443")),
]  # fmt: skip
