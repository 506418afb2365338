"""Reading HTTP: requests however they are cut, limits, and what two readers could differ in."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.serve.http_reader import MAX_BODY, MAX_HEAD, MAX_RAW, RequestReader

START = b"POST / HTTP/1.1\r\n"
HOST = START + b"Host: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
GOOD = HOST + b"X-Amz-Target: T.O\r\nAuthorization: secret\r\nContent-Length: 2\r\n\r\n{}"


def read(data: bytes, *, step: int = 1 << 20) -> RequestReader:
    reader = RequestReader()
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])
    return reader


def test_a_request_is_read_and_only_the_headers_in_use_are_kept() -> None:
    (request,) = read(GOOD).requests
    assert (request.method, request.target, request.body) == ("POST", "/", b"{}")
    assert request.headers == {"host": "a", "x-amz-target": "T.O", "content-length": "2"}
    assert request.keep_alive


@given(st.lists(st.integers(0, 3 * len(GOOD)), max_size=8))
def test_requests_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    data = GOOD * 3
    reader = RequestReader()
    places = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(places):
        reader.feed(data[start:end])
    assert list(reader.requests) == list(read(GOOD).requests) * 3
    assert reader.error is None
    assert not reader.reading


REFUSED = {
    "length and chunks": HOST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "chunks of HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "other codings": HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": HOST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n",
    "signed size of a chunk": HOST + CHUNKED + b"+2\r\n{}\r\n0\r\n\r\n",
    "chunk without its end": HOST + CHUNKED + b"2\r\n{}0\r\n\r\n",
    "size of a chunk after a bare LF": HOST + CHUNKED + b"2\n{}\r\n0\r\n\r\n",
    "large chunk": HOST + CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (MAX_BODY + 1, bytes(MAX_BODY + 1)),
    "many chunks": HOST + CHUNKED + b"1\r\n{\r\n" * MAX_BODY,
    "chunk extension without an end": HOST + CHUNKED + b"1;" + b"a" * MAX_RAW,
    "large trailer": HOST + CHUNKED + b"0\r\nX: " + b"a" * (MAX_HEAD + 1) + b"\r\n\r\n",
    "chunks in disguise": HOST + b"Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunks, not last": HOST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunks after a vertical tab": HOST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "two lengths": HOST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "the same length twice": HOST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "list of lengths": HOST + b"Content-Length: 2, 2\r\n\r\n{}",
    "signed length": HOST + b"Content-Length: +2\r\n\r\n{}",
    "negative length": HOST + b"Content-Length: -2\r\n\r\n{}",
    "hexadecimal length": HOST + b"Content-Length: 0x2\r\n\r\n{}",
    "no digit in the length": HOST + b"Content-Length:\r\n\r\n{}",
    "length beyond 64 bits": HOST + b"Content-Length: 18446744073709551618\r\n\r\n{}",
    "folded header": HOST + b"X: a\r\n b\r\n\r\n",
    "folded first header": START + b" Host: a\r\n\r\n",
    "folded length": HOST + b"Content-Length:\r\n 2\r\n\r\n{}",
    "bare LF": b"POST / HTTP/1.1\nHost: a\n\n",
    "one bare LF": HOST + b"X: a\nContent-Length: 2\r\n\r\n{}",
    "bare LF as the last": HOST + b"Content-Length: 2\r\n\n{}",
    "bare CR": HOST + b"X: a\rContent-Length: 2\r\n\r\n{}",
    "space before the colon": HOST + b"Content-Length : 2\r\n\r\n{}",
    "NUL in a value": HOST + b"X: a\0b\r\n\r\n",
    "no colon": HOST + b"abc\r\n\r\n",
    "no name": HOST + b": a\r\n\r\n",
    "two Hosts": HOST + b"Host: b\r\n\r\n",
    "two targets": HOST + b"X-Amz-Target: a\r\nx-amz-target: b\r\n\r\n",
    "no Host": START + b"\r\n",
    "empty Host": START + b"Host: \r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "HTTP/0.9": b"GET / HTTP/0.9\r\n\r\n",
    "HTTP/2.0": b"POST / HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "CONNECT": b"CONNECT kms.us-east-1.amazonaws.com:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    "two signatures": HOST + b"Authorization: a\r\n" * 2 + b"\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "large head": HOST + b"X: %s\r\n\r\n" % (b"a" * MAX_HEAD),
    "many headers": HOST + b"X: a\r\n" * MAX_HEAD,
    "large target": b"POST /%s HTTP/1.1\r\n\r\n" % (b"a" * MAX_HEAD),
    "header without an end": HOST + b"X: " + b"a" * (MAX_HEAD + 1),
    "large body": HOST + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1),
}


TYPES = (
    "MalformedHttpRequestException",
    "RequestEntityTooLargeException",
    "UnknownOperationException",
)


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("step", [1 << 20, 1000, 7])
def test_what_could_be_read_in_two_ways_is_refused(data: bytes, step: int) -> None:
    reader = read(data + GOOD, step=step)
    assert reader.error is not None
    assert 400 <= reader.error.status < 600
    assert reader.error.type in TYPES
    assert not reader.requests  # the good request behind it above all


def test_limits_have_statuses_of_their_own() -> None:
    statuses = {
        name: read(REFUSED[name]).error.status  # type: ignore[union-attr] # there is one
        for name in (
            "large head",
            "header without an end",
            "large body",
            "other codings",
            "CONNECT",
        )
    }
    assert statuses == {
        "large head": 431,
        "header without an end": 431,
        "large body": 413,
        "other codings": 501,
        "CONNECT": 405,
    }


UPGRADE = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
)


@pytest.mark.parametrize("step", [1 << 20, 7, 1])
@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: 2\r\n\r\n{}", b"{}"),
        (b"Content-Length: %s2\r\n\r\n{}" % (b"0" * 5_000), b"{}"),
        (b"Content-Length: 000\r\n\r\n", b""),
        (b"\r\n", b""),
        (CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", b"{}"),
        (CHUNKED + b"1\r\n{\r\n01;a=b\r\n}\r\n000\r\nHost: b\r\nX: y\r\n\r\n", b"{}"),
        (b"transfer-encoding: Chunked \r\n\r\n0\r\n\r\n", b""),
    ],
)
@pytest.mark.parametrize("upgrade", [b"", UPGRADE, b"Upgrade: websocket\r\n"])
def test_bodies_with_a_length_and_in_chunks_and_an_upgrade_that_is_ignored(
    framing: bytes, body: bytes, upgrade: bytes, step: int
) -> None:
    data = HOST + b"X-Amz-Target: T.O\r\n" + upgrade + framing
    reader = read(data + GOOD + data + GOOD, step=step)
    assert reader.error is None
    assert [request.body for request in reader.requests] == [body, b"{}", body, b"{}"]
    assert all(request.keep_alive for request in reader.requests)
    assert {request.headers["host"] for request in reader.requests} == {"a"}
    assert {request.headers["x-amz-target"] for request in reader.requests} == {"T.O"}


@pytest.mark.parametrize("close", [b"Connection: close\r\n", b""])
def test_an_upgrade_on_a_connection_that_closes_is_ignored(close: bytes) -> None:
    head = HOST if close else START.replace(b"1.1", b"1.0")
    reader = read(head + UPGRADE + close + b"Content-Length: 2\r\n\r\n{}")
    assert [(each.body, each.keep_alive) for each in reader.requests] == [(b"{}", False)]


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.booleans(), st.data())
def test_chunks_are_put_together_however_they_are_cut(
    chunks: list[bytes], upgrade: bool, data: st.DataObject
) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    sent = HOST + UPGRADE * upgrade + CHUNKED + body + b"0\r\n\r\n" + GOOD
    reader = RequestReader()
    while sent:
        size = data.draw(st.integers(1, len(sent)))
        reader.feed(sent[:size])
        sent = sent[size:]
    assert [request.body for request in reader.requests] == [b"".join(chunks), b"{}"]


@pytest.mark.parametrize(
    ("authorization", "region"),
    [
        ("AWS4-HMAC-SHA256 Credential=AKID/20260101/eu-west-1/kms/aws4_request, SignedHeaders=a",
         "eu-west-1"),
        ("AWS4-HMAC-SHA256 SignedHeaders=a,Credential=A/20260101/us-gov-west-1/kms/aws4_request",
         "us-gov-west-1"),
        ("AWS4-ECDSA-P256-SHA256 Credential=AKID/20260101/kms/aws4_request", None),
        ("AWS4-HMAC-SHA256 Credential=AKID/20260101/e\u0301/kms/aws4_request", None),
        ("AWS4-HMAC-SHA256 Credential=" + "Credential=" * 5000, None),
        ("Bearer x", None),
        ("", None),
    ],
)  # fmt: skip
def test_of_a_signature_only_the_region_is_kept(authorization: str, region: str | None) -> None:
    line = f"Authorization: {authorization}\r\n".encode()
    (request,) = read(HOST + line + b"Content-Length: 2\r\n\r\n{}").requests
    assert request.region == region
    assert request.headers == {"host": "a", "content-length": "2"}


def test_what_came_before_an_error_stands() -> None:
    reader = read(GOOD + REFUSED["bare LF"])
    assert len(reader.requests) == 1
    assert reader.error is not None


def test_nothing_is_read_after_the_last_request() -> None:
    reader = read(GOOD.replace(b"X-Amz", b"Connection: close\r\nX-Amz") + GOOD)
    assert [request.keep_alive for request in reader.requests] == [False]


def test_http_1_0_closes() -> None:
    (request,) = read(b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}").requests
    assert not request.keep_alive


@pytest.mark.parametrize("end", range(1, len(GOOD)))
def test_half_a_request_is_none(end: int) -> None:
    reader = read(GOOD[:end])
    assert not reader.requests
    assert reader.error is None
    assert reader.reading


def test_a_client_that_waits_for_100_continue_is_noticed_until_it_sends() -> None:
    head, _, body = GOOD.replace(b"X-Amz", b"Expect: 100-Continue\r\nX-Amz").partition(b"{")
    assert read(head).expects_continue
    whole = read(head + b"{" + body)
    assert not whole.expects_continue
    assert len(whole.requests) == 1


@given(st.lists(st.binary(max_size=200) | st.sampled_from([GOOD, HOST, *REFUSED.values()])))
def test_whatever_the_bytes_only_requests_or_one_refusal_come_of_them(pieces: list[bytes]) -> None:
    reader = RequestReader()
    for piece in pieces:
        reader.feed(piece)
    for request in reader.requests:
        assert len(request.body) <= MAX_BODY
