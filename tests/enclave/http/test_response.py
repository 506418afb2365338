"""Responses from bytes: framing by RFC 9112, and the same result however the bytes are cut."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enclave.http import response
from enclave.http.errors import (
    ConnectionLostError,
    HttpError,
    HttpProtocolError,
    ResponseTooLargeError,
)
from enclave.http.response import MAX_HEAD, MAX_INTERIM, Response, ResponseReader

MAX_BODY = 50
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"


def read(*pieces: bytes, end: bool = False) -> ResponseReader:
    reader = ResponseReader(MAX_BODY)
    for piece in pieces:
        reader.receive(piece)
    if end:
        reader.end()
    return reader


def result(pieces: list[bytes]) -> tuple[Any, ...]:
    """Return a stream's response and whether the connection is reusable, or the error."""
    reader = ResponseReader(MAX_BODY)
    try:
        for piece in pieces:
            reader.receive(piece)
        reusable = reader.may_reuse
        reader.end()
    except HttpError as e:
        return type(e), str(e)
    assert reader.response is not None
    return reader.response, reusable


def framing(size: int) -> bytes:
    """Return a response in 33 chunks of a byte each, with so much framing around them."""
    lines = [b"1;" + b"x" * 998] * 32
    lines.append(b"1;" + b"x" * (size - 32 * (1000 + 4) - 2 - 4))
    return CHUNKED + b"".join(line + b"\r\nx\r\n" for line in lines) + b"0\r\n\r\n"


def trailers(size: int) -> bytes:
    """Return an empty response with so many bytes of trailers, their last line end included."""
    return CHUNKED + b"0\r\nX:" + b"x" * (size - 2 - 2 - 2) + b"\r\n\r\n"


WHOLE: dict[str, tuple[bytes, int, bytes, bool]] = {
    # name: bytes, status, body, whether the connection may be reused
    "a length": (OK + b"Content-Length: 5\r\n\r\nhello", 200, b"hello", True),
    "a length of none": (OK + b"Content-Length: 0\r\n\r\n", 200, b"", True),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, b"", True),
    "an error": (b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\n{}", 400, b"{}", True),
    "the largest body": (OK + b"Content-Length: 50\r\n\r\n" + bytes(50), 200, bytes(50), True),
    "chunks": (CHUNKED + b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n", 200, b"hello world", True),
    "chunks in capitals": (
        OK + b"TRANSFER-ENCODING: Chunked\r\n\r\nA\r\n0123456789\r\n000\r\n\r\n",
        200, b"0123456789", True),
    "trailers": (CHUNKED + b"1\r\nx\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n", 200, b"x", True),
    "one interim response": (EARLY + OK + b"Content-Length: 1\r\n\r\nx", 200, b"x", True),
    "every interim response": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + EARLY
        + b"HTTP/1.1 199 X\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\nx", 200, b"x", True),
    "as many interim responses as there may be": (
        EARLY * MAX_INTERIM + OK + b"Content-Length: 1\r\n\r\nx", 200, b"x", True),
    "no content": (b"HTTP/1.1 204 X\r\n\r\n", 204, b"", True),
    "no content of a length": (b"HTTP/1.1 204 X\r\nContent-Length: 3\r\n\r\n", 204, b"", False),
    "a body that no content has": (
        b"HTTP/1.1 204 X\r\nContent-Length: 3\r\n\r\nabc", 204, b"", False),
    "not modified": (b"HTTP/1.1 304 X\r\nContent-Length: 3\r\n\r\n", 304, b"", False),
    "not modified in chunks": (
        b"HTTP/1.1 304 X\r\nTransfer-Encoding: chunked\r\n\r\n", 304, b"", False),
    "no content, and the end": (
        b"HTTP/1.1 204 X\r\nConnection: close\r\n\r\n", 204, b"", False),
    "a chunk of 16 bytes": (
        CHUNKED + b"10\r\n" + bytes(16) + b"\r\n0\r\n\r\n", 200, bytes(16), True),
    "the longest line of a chunk": (
        CHUNKED + b"1;" + b"x" * 1022 + b"\r\nx\r\n0\r\n\r\n", 200, b"x", True),
    "as much framing of chunks as there may be": (framing(32_768 + 8 * 32), 200, b"x" * 33, True),
    "the longest trailers": (trailers(32_768), 200, b"", True),
    "the last status": (
        b"HTTP/1.1 599 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 599, b"", True),
    "connection: close": (
        OK + b"Connection: x, CLOSE\r\nContent-Length: 1\r\n\r\nx", 200, b"x", False),
    "two connection headers": (
        OK + b"Connection: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", 200, b"x", False),
    "connection: keep-alive": (
        OK + b"Connection: keep-alive\r\nContent-Length: 1\r\n\r\nx", 200, b"x", True),
    "HTTP/1.0": (
        b"HTTP/1.0 200 X\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
        200, b"x", False),
    "a byte too many": (OK + b"Content-Length: 1\r\n\r\nxy", 200, b"x", False),
    "a line end too many": (OK + b"Content-Length: 1\r\n\r\nx\r\n", 200, b"x", False),
    "a line end behind chunks": (CHUNKED + b"0\r\n\r\n\r\n", 200, b"", False),
    "a second response": (
        OK + b"Content-Length: 1\r\n\r\nx" + OK + b"Content-Length: 1\r\n\r\ny", 200, b"x", False),
    "a body behind no content": (
        b"HTTP/1.1 204 X\r\n\r\nhello", 204, b"", False),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_a_response_with(name: str) -> None:
    data, status, body, reusable = WHOLE[name]
    reader = read(data)
    assert reader.response is not None
    assert (reader.response.status, reader.response.body) == (status, body)
    assert reader.may_reuse is reusable


def test_the_end_of_the_stream_ends_a_body_of_unknown_length() -> None:
    reader = ResponseReader(MAX_BODY)
    assert not reader.receive(OK + b"\r\nhel")
    assert not reader.receive(b"lo")
    reader.end()
    assert reader.response == Response(200, {}, b"hello")
    assert not reader.may_reuse


def test_after_the_end_of_the_stream_nothing_is_reused() -> None:
    assert read(OK + b"Content-Length: 1\r\n\r\nx", end=True).may_reuse is False


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "without a response"), (EARLY, "before the response ended"),
     (b"HTTP/1.1 200", "before the response ended")],
)  # fmt: skip
def test_an_end_says_whether_anything_had_come(data: bytes, message: str) -> None:
    with pytest.raises(ConnectionLostError, match=message):
        read(data, end=True)


def head(size: int) -> bytes:
    """Return a response without a body, whose head has so many bytes."""
    start, end = OK + b"X: ", b"\r\nContent-Length: 0\r\n\r\n"
    return start + b"x" * (size - len(start) - len(end)) + end


@pytest.mark.parametrize("first", [1, 0])
def test_the_longest_head(first: int) -> None:
    """In pieces it goes to one reader, whole to another."""
    data = head(32_768)
    assert read(*filter(None, (data[:first], data[first:]))).response is not None
    for size in (32_769, 32_772):
        data = head(size)
        with pytest.raises(HttpProtocolError):
            read(*filter(None, (data[:first], data[first:])))


def test_what_comes_in_one_piece_needs_no_llhttp(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes three times as long, and KMS's responses come like this."""
    monkeypatch.delattr(response, "_parse_head")
    reader = ResponseReader(MAX_BODY)
    assert reader.receive(OK + b"Content-Length: 5\r\n\r\nhello")
    assert reader.response == Response(200, {"content-length": "5"}, b"hello")


def test_a_body_that_is_a_response_is_a_body() -> None:
    inner = OK + b"Content-Length: 1\r\n\r\nx"
    reader = read(OK + b"Content-Length: %d\r\n\r\n" % len(inner), inner)
    assert reader.response is not None
    assert reader.response.body == inner


def test_a_line_may_come_in_pieces_up_to_its_last_byte() -> None:
    data = WHOLE["the longest line of a chunk"][0]
    at = data.index(b"\r\nx\r\n")
    assert read(data[:at], data[at : at + 1], data[at + 1 :]).response is not None


def test_headers_are_known_by_lower_case_names_and_joined() -> None:
    reader = read(OK + b"X: a:b\r\nContent-Length: 0\r\n\r\n")
    assert reader.response is not None
    assert reader.response.headers == {"x": "a:b", "content-length": "0"}
    reader = read(OK + b"X-A:  1 \r\nx-a: 2\r\nY: \xe9\r\nContent-Length: 0\r\n\r\n")
    assert reader.response is not None
    assert reader.response.headers == {"x-a": "1, 2", "y": "\xe9", "content-length": "0"}


FAULTS: dict[str, tuple[bytes, type[HttpError]]] = {
    "nothing": (b"", ConnectionLostError),
    "half a head": (OK + b"Content-", ConnectionLostError),
    "an interim response alone": (EARLY, ConnectionLostError),
    "half a body": (OK + b"Content-Length: 5\r\n\r\nhell", ConnectionLostError),
    "half a chunk": (CHUNKED + b"5\r\nhell", ConnectionLostError),
    "chunks without an end": (CHUNKED + b"1\r\nx\r\n", ConnectionLostError),
    "half the trailers": (CHUNKED + b"0\r\nX: y\r\n", ConnectionLostError),
    "TLS": (b"\x16\x03\x01\x02\x00", HttpProtocolError),
    "a wrong protocol": (b"SSH-2.0-OpenSSH\r\n", HttpProtocolError),
    "HTTP/2": (b"HTTP/2.0 200 OK\r\n\r\n", HttpProtocolError),
    "HTTP/1.9": (b"HTTP/1.9 200 OK\r\nContent-Length: 0\r\n\r\n", HttpProtocolError),
    "a line end before the status line": (b"\r\n" + OK + b"\r\n", HttpProtocolError),
    "status 99": (b"HTTP/1.1 099 X\r\n\r\n", HttpProtocolError),
    "status 600": (b"HTTP/1.1 600 X\r\n\r\n", HttpProtocolError),
    "status 2000": (b"HTTP/1.1 2000 X\r\n\r\n", HttpProtocolError),
    "switching protocols": (
        b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", HttpProtocolError),
    "switching protocols without a header": (b"HTTP/1.1 101 X\r\n\r\n", HttpProtocolError),
    "interim responses without end": (EARLY * (MAX_INTERIM + 1), HttpProtocolError),
    "an interim response with a body": (
        b"HTTP/1.1 103 X\r\nContent-Length: 2\r\n\r\nxx" + OK + b"\r\n", HttpProtocolError),
    "a header without a colon": (OK + b"X\r\n\r\n", HttpProtocolError),
    "a space before the colon": (OK + b"Content-Length : 0\r\n\r\n", HttpProtocolError),
    "a folded header": (OK + b"X: y\r\n z\r\nContent-Length: 0\r\n\r\n", HttpProtocolError),
    "a bare line feed": (OK + b"X: y\nContent-Length: 0\r\n\r\n", HttpProtocolError),
    "a bare carriage return": (OK + b"X: y\rz\r\n\r\n", HttpProtocolError),
    "a NUL": (OK + b"X: \0\r\n\r\n", HttpProtocolError),
    "a head that can only be too long": (
        (OK + b"X: ").ljust(MAX_HEAD, b"x"), HttpProtocolError),
    "a head without end": (OK + b"X: " + b"x" * MAX_HEAD, HttpProtocolError),
    "headers without end": (OK + b"X: x\r\n" * MAX_HEAD, HttpProtocolError),
    "two lengths": (OK + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", HttpProtocolError),
    "a list of lengths": (OK + b"Content-Length: 1, 1\r\n\r\nx", HttpProtocolError),
    "a length with a sign": (OK + b"Content-Length: +1\r\n\r\nx", HttpProtocolError),
    "a length below none": (OK + b"Content-Length: -1\r\n\r\nx", HttpProtocolError),
    "a length of 0x1": (OK + b"Content-Length: 0x1\r\n\r\nx", HttpProtocolError),
    "a length that overflows": (OK + b"Content-Length: 1%s\r\n\r\n" % (b"0" * 30),
                                HttpProtocolError),
    "a length and chunks": (
        OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", HttpProtocolError),
    "chunks and a length": (
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", HttpProtocolError),
    "another coding": (OK + b"Transfer-Encoding: gzip\r\n\r\n", HttpProtocolError),
    "two codings": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", HttpProtocolError),
    "chunks twice": (
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        HttpProtocolError),
    "chunks in HTTP/1.0": (
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", HttpProtocolError),
    "a chunk size that is not one": (CHUNKED + b"zz\r\n", HttpProtocolError),
    "an empty chunk size": (CHUNKED + b"\r\n", HttpProtocolError),
    "a chunk size with a sign": (CHUNKED + b"+1\r\nx\r\n", HttpProtocolError),
    "a chunk size that overflows": (CHUNKED + b"1" * 17 + b"\r\n", HttpProtocolError),
    "a space behind the chunk size": (CHUNKED + b"1 \r\nx\r\n", HttpProtocolError),
    "a line feed in a chunk extension": (CHUNKED + b"1;\n\r\nx\r\n", HttpProtocolError),
    "a chunk with another end": (CHUNKED + b"1\r\nxyz", HttpProtocolError),
    "a chunk that is longer": (CHUNKED + b"1\r\nxy\r\n", HttpProtocolError),
    "a chunk line without end": (CHUNKED + b"1;" + b"x" * 2000, HttpProtocolError),
    "a chunk line of a byte too many": (
        CHUNKED + b"1;" + b"x" * 1023 + b"\r\nx\r\n0\r\n\r\n", HttpProtocolError),
    "a chunk line that can only be too long": (CHUNKED + b"1;" + b"x" * 1024, HttpProtocolError),
    "a byte too much framing": (framing(32_768 + 8 * 32 + 1), HttpProtocolError),
    "a byte too many of trailers": (trailers(32_768 + 1), HttpProtocolError),
    "extensions without end": (
        CHUNKED + (b"1;" + b"x" * 1000 + b"\r\nx\r\n") * 40, HttpProtocolError),
    "a trailer that is not one": (CHUNKED + b"0\r\nx\r\n\r\n", HttpProtocolError),
    "trailers without end": (CHUNKED + b"0\r\n" + b"X: x\r\n" * MAX_HEAD, HttpProtocolError),
    "a body that is too long": (OK + b"Content-Length: 51\r\n\r\n", ResponseTooLargeError),
    "chunks that are too long": (
        CHUNKED + b"32\r\n" + bytes(50) + b"\r\n1\r\n", ResponseTooLargeError),
    "a body without end": (OK + b"\r\n" + bytes(51), ResponseTooLargeError),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_one_named_error_for(name: str) -> None:
    data, error = FAULTS[name]
    with pytest.raises(HttpError) as caught:
        read(data, end=True)
    assert type(caught.value) is error


def test_garbage_is_found_before_it_ends() -> None:
    """A server of another protocol may wait for us."""
    with pytest.raises(HttpProtocolError):
        read(b"HTTQ")


def test_what_comes_after_the_response_forbids_reuse() -> None:
    reader = read(OK + b"Content-Length: 1\r\n\r\nx")
    assert reader.may_reuse
    reader.receive(b"H")
    assert not reader.may_reuse


def test_a_second_response_never_replaces_the_first() -> None:
    reader = read(OK + b"Content-Length: 1\r\n\r\nx", OK + b"Content-Length: 1\r\n\r\ny")
    assert reader.response is not None
    assert reader.response.body == b"x"
    assert not reader.may_reuse


STREAMS = st.one_of(
    st.sampled_from([data for data, *_ in WHOLE.values()] + [data for data, _ in FAULTS.values()]),
    st.binary(max_size=200),
    st.binary(max_size=100).map(lambda rest: OK + rest),
    st.binary(max_size=100).map(lambda rest: CHUNKED + rest),
    # Whole ones with one byte changed, or a piece taken out or put in.
    st.builds(
        lambda data, at, size, new: data[: at % len(data)] + new + data[at % len(data) + size :],
        st.sampled_from([data for data, *_ in WHOLE.values()]),
        st.integers(0, 10_000),
        st.integers(0, 3),
        st.binary(max_size=3) | st.sampled_from([b"\r\n", b"\n", b"\r\n\r\n", EARLY, b"0\r\n\r\n"]),
    ),
)


@given(STREAMS, st.lists(st.integers(0, 400), max_size=8))
@example(OK + b"Content-Length: 1\r\n\r\nx\r\n", [37])
def test_however_the_bytes_are_cut_the_result_is_the_same(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges) if a < b]
    assert result(pieces) == result([data])
    assert result([bytes([byte]) for byte in data[:500]]) == result([data[:500]])


def some_head(chance: random.Random) -> bytes:
    """Return a response, faulty or not, out of pieces that readers disagree on."""
    pick = chance.choice
    lines = [
        pick(b"X Date Connection Content-Length Content-Length Upgrade Keep-Alive x(y".split())
        + pick([b"", b"", b"", b" ", b"\xe9", b"\x00"])
        + pick([b":", b": ", b":\t ", b"", b"::"])
        + pick([b"2", b"2", b"02", b"2 ", b"2, 2", b"+2", b"3", b"close", b"keep-alive, Close",
                b"upgrade", b"h2c", b"chunked", b"", b"\xe9", b"\x00", b"\x7f", b"a\tb"])
        + pick([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\n "])
        for _ in range(chance.randint(0, 4))
    ]  # fmt: skip
    if chance.random() < 0.2:
        lines.append(pick([b"Transfer-Encoding: chunked\r\n", b"transfer-encoding: identity\r\n"]))
    return b"".join(
        (
            pick([b"HTTP/1.1 ", b"HTTP/1.1 ", b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/1.2 "]),
            pick(b"200 200 400 204 304 599 600 099 100 101 20".split()),
            pick([b" OK", b" OK", b"", b" ", b" \xe9", b" \x00", b"\tx", b" a\rb"]),
            b"\r\n",
            *lines,
            b"\r\n",
            pick([b"", b"{}", b"{}", b"{}x", b"2\r\n{}\r\n0\r\n\r\n"]),
        )
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_response_in_one_piece_is_what_llhttp_reads_in_two(seed: int) -> None:
    """Whole responses have a reader of their own, which takes no more than llhttp does."""
    chance = random.Random(seed)  # noqa: S311 (test data)
    for _ in range(3000):
        data = some_head(chance)
        assert result([data]) == result([data[:1], data[1:]]), data


@given(STREAMS)
def test_whatever_the_bytes_a_response_or_one_named_error(data: bytes) -> None:
    outcome = result([data])
    assert isinstance(outcome[0], Response) or issubclass(outcome[0], HttpError)
