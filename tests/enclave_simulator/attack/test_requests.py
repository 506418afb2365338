"""Requests as a hostile KMS reads them: as clients of any library frame them."""

from __future__ import annotations

import socket
import threading

import pytest

from enclave_simulator.attack.requests import MAX_BODY, RequestError, read_request
from tests.waiting import TEST_TIMEOUT

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def read(wire: bytes, left: bytes = b"") -> tuple[bytes | None, bytes]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(TEST_TIMEOUT)

        def send() -> None:
            theirs.sendall(wire)
            theirs.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            request, rest = read_request(ours, left)
        finally:
            while ours.recv(1 << 16):
                pass
            sender.join()
        return (None if request is None else request.body), rest


@pytest.mark.parametrize(
    ("wire", "body", "rest"),
    [
        (HEAD + b"\r\n", b"", b""),
        (HEAD + b"Content-Length: 3\r\n\r\nabcPOST", b"abc", b"POST"),
        (CHUNKED + b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\nnext",
         b"abc0123456789", b"next"),
        (HEAD + b"Transfer-Encoding: Chunked\r\n\r\n0\r\nTrailer: x\r\n\r\n", b"", b""),
        (CHUNKED + b"3\r\nab", None, b""),
        (HEAD + b"Content-Length: 3\r\n\r\nab", None, b""),
        (b"", None, b""),
    ],
)  # fmt: skip
def test_framing(wire: bytes, body: bytes | None, rest: bytes) -> None:
    assert read(wire) == (body, rest)
    assert read(wire[5:], wire[:5]) == (body, rest)


@pytest.mark.parametrize(
    "wire",
    [
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: \xb2\r\n\r\n",
        HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        CHUNKED + b"-3\r\n",
        CHUNKED + b"\r\n",
        CHUNKED + b"fffffffff\r\n",
        CHUNKED + b"80000\r\n" + bytes(0x80000) + b"\r\n80001\r\n"
        + bytes(0x80001) + b"\r\n",
        CHUNKED + b"1" * (1 << 18),
        b"A" * (1 << 18),
    ],
    ids=["negative", "superscript", "digits", "minus", "empty", "large", "larger", "line", "head"],
)  # fmt: skip
def test_what_is_malformed_or_too_large(wire: bytes) -> None:
    with pytest.raises(RequestError):
        read(wire)
    assert MAX_BODY == 1 << 20


def test_a_client_that_asks_whether_to_go_on_is_told() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for each in (ours, theirs):
            each.settimeout(TEST_TIMEOUT)
        theirs.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")

        def client() -> None:
            if theirs.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n":
                theirs.sendall(b"abc")

        sender = threading.Thread(target=client)
        sender.start()
        try:
            request, _ = read_request(ours, b"")
        finally:
            sender.join()
        assert request is not None
        assert request.body == b"abc"
