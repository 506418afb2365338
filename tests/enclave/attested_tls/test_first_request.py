"""What is a request for a document, and what is the program's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.attested_tls.first_request import (
    MAX_HEAD,
    DocumentRequest,
    Programs,
    Rejection,
    Undecided,
    look,
)

PATH = b"/.well-known/nitro-attestation"
NONCE = bytes(range(32))
LINE = b"GET " + PATH + b"?nonce=" + NONCE.hex().encode() + b" HTTP/1.1\r\n"


def test_a_request_with_a_nonce() -> None:
    data = LINE + b"Host: h\r\n\r\n"
    assert look(data + b"POST /") == DocumentRequest(NONCE, keep_alive=True, size=len(data))


def test_one_without_a_nonce_that_is_the_last() -> None:
    data = b"GET " + PATH + b" HTTP/1.1\r\nConnection: foo, CLOSE\r\n\r\n"
    assert look(data) == DocumentRequest(None, keep_alive=False, size=len(data))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"GET " + PATH + b"s HTTP/1.1\r\n",
        b"GET " + PATH + b"/x HTTP/1.1\r\n",
        b"GET  " + PATH,
        b"GET /" + PATH,
        b"get " + PATH,
        b"POST " + PATH + b" HTTP/1.1\r\n",
        b"GET https://h" + PATH,
        b"GET " + PATH.upper() + b" ",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00",
        b"\r\n" + LINE,
        b"G\n",
    ],
)
def test_anything_else_is_the_programs(data: bytes) -> None:
    assert look(data) == Programs()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET " + PATH + b"?nonce=ab HTTP/1.1\r\n\r\n", 400),
        (b"GET " + PATH + b"?nonce= HTTP/1.1\r\n\r\n", 400),
        (b"GET " + PATH + b"? HTTP/1.1\r\n\r\n", 400),
        (b"GET " + PATH + b"?nonces=00 HTTP/1.1\r\n\r\n", 400),
        (b"GET " + PATH + b"?nonce=" + b"ab" * 16 + b"&x=1 HTTP/1.1\r\n\r\n", 400),
        (b"GET " + PATH + b" HTTP/1.0\r\n\r\n", 400),
        (b"GET " + PATH + b" HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 400),
        (b"GET " + PATH + b" HTTP/1.1\r\ntransfer-ENCODING: chunked\r\n\r\n", 400),
        (b"GET " + PATH + b" HTTP/1.1\r\n Content-Length: 3\r\n\r\n", 400),
        (b"GET " + PATH + b" HTTP/1.1\r\nA : b\r\n\r\n", 400),
        (b"GET " + PATH + b" HTTP/1.1\r\nA: \0\r\n\r\n", 400),
        (b"GET " + PATH + b" HTTP/1.1\nA: b\r\n\r\n", 400),
        (b"GET " + PATH + b" " + b"x" * MAX_HEAD, 431),
    ],
)
def test_what_two_readers_could_take_differently_is_rejected(data: bytes, status: int) -> None:
    verdict = look(data)
    assert isinstance(verdict, Rejection)
    assert verdict.status == status


@given(st.integers(0, len(LINE) + 11))
def test_a_beginning_is_undecided(cut: int) -> None:
    whole = LINE + b"Host: h\r\n\r\n"
    verdict = look(whole[:cut])
    assert verdict == (Undecided() if cut < len(whole) else look(whole))


@given(st.binary(max_size=200), st.sampled_from([b"", b"GET ", b"GET " + PATH, LINE]))
def test_the_verdict_on_more_bytes_never_contradicts_an_earlier_one(
    data: bytes, start: bytes
) -> None:
    data = start + data
    whole = look(data)
    for cut in range(len(data)):
        earlier = look(data[:cut])
        assert earlier in (Undecided(), whole)
