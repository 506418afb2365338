"""Attacks with a valid certificate for KMS: how bytes arrive. No I/O."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from enclave_simulator.attack.model import (
    Act,
    Attack,
    Cut,
    Exchange,
    Place,
    Repeat,
    Send,
    Stall,
    Success,
    encode_http,
)
from enclave_simulator.attack.responses import FIELD

if TYPE_CHECKING:
    from enclave_simulator.attack.responses import OnRequest

TRICKLE = 0.2
"""Seconds between the bytes of a trickle: shorter than any timeout of a single read."""

FLOOD = 0.01
"""Seconds between the pieces of an endless message: what a client keeps of it stays small."""

_INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"


def _unsolicited(exchange: Exchange) -> list[Act]:
    forged = exchange.with_content(**{FIELD: exchange.forge(exchange.planted)})
    return [Send(exchange.honest() + encode_http(forged))]


def _two_lengths(exchange: Exchange) -> list[Act]:
    forged = exchange.with_content(**{FIELD: exchange.forge(exchange.planted)})
    extra = encode_http(forged)
    length = len(exchange.response.body) + len(extra)
    return [Send(encode_http(exchange.response, f"Content-Length: {length}") + extra)]


def _unframed(exchange: Exchange) -> list[Act]:
    head, body = _head_and_body(exchange)
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
    return [Send(b"\r\n".join(lines) + b"\r\nConnection: close\r\n\r\n" + body), Cut()]


def _head_and_body(exchange: Exchange) -> tuple[bytes, bytes]:
    head, _, body = exchange.honest().partition(b"\r\n\r\n")
    return head, body


def _trickled_head(exchange: Exchange) -> list[Act]:
    return [Send(_head_and_body(exchange)[0] + b"\r\nX-Trickle: "), Repeat(b"x", TRICKLE)]


def _trickled_body(exchange: Exchange) -> list[Act]:
    # Short enough for any client's limit: it is the time that must be limited.
    trickled = replace(exchange.response, body=b" " * 10_000)
    head = encode_http(trickled).partition(b"\r\n\r\n")[0]
    return [Send(head + b"\r\n\r\n"), Repeat(b" ", TRICKLE)]


def _endless_head(exchange: Exchange) -> list[Act]:
    head = _head_and_body(exchange)[0] + b"\r\n"
    return [Send(head), Repeat(b"X-Endless: " + 500 * b"x" + b"\r\n", FLOOD)]


def _endless_body(_: Exchange) -> list[Act]:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\n"
    chunk = b"400\r\n" + 0x400 * b" " + b"\r\n"
    return [Send(head + b"Transfer-Encoding: chunked\r\n\r\n"), Repeat(chunk, FLOOD)]


def _half_head(exchange: Exchange, end: Act) -> list[Act]:
    return [Send(_head_and_body(exchange)[0][:-10]), end]


def _half_body(exchange: Exchange, end: Act) -> list[Act]:
    # The envelope is whole: what is missing is the end of the JSON.
    return [Send(exchange.honest()[:-1]), end]


_SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
"""A frame of HTTP/2 that says nothing, and must be acknowledged (RFC 9113, section 6.5)."""

_TRICKLED_HANDSHAKE = (Send(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03"), Repeat(b"x", TRICKLE))
"""A TLS record of 16 KiB with a ServerHello (RFC 8446, sections 4.1.3 and 5.1), byte by byte."""


def _connection(
    name: str, effect: str, on_request: OnRequest, success: Success = Success.NONE
) -> Attack:
    return Attack(name, Place.CONNECTION, effect, success, on_request=on_request)


def _http2(name: str, effect: str, act: Act) -> Attack:
    # Who offers HTTP/1.1 alone goes on with it, and has the right results.
    return Attack(name, Place.CONNECTION, effect, Success.RIGHT, on_http2=(act,))


def _handshake(name: str, effect: str, *acts: Act) -> Attack:
    return Attack(name, Place.CONNECTION, effect, on_connection=acts)


CONNECTIONS: tuple[Attack, ...] = (
    _connection(
        "interim-response",
        "103 Early Hints before each response",
        lambda e: [Send(_INTERIM + e.honest())],
        Success.RIGHT,
    ),
    _connection(
        "unsolicited-response",
        "a second, forged response after each true one",
        _unsolicited,
        Success.RIGHT,
    ),
    _connection(
        "no-head",
        "the body alone, without HTTP",
        lambda e: [Send(e.response.body), Cut()],
    ),
    _connection("two-lengths", "two Content-Length that differ", _two_lengths),
    _connection(
        "endless-interim",
        "100 Continue for ever",
        lambda _: [Repeat(b"HTTP/1.1 100 Continue\r\n\r\n", FLOOD)],
    ),
    _connection("endless-headers", "header lines for ever", _endless_head),
    _connection("endless-body", "a body for ever", _endless_body),
    _connection("trickled-headers", "a header, a byte now and then", _trickled_head),
    _connection("trickled-body", "a body, a byte now and then", _trickled_body),
    _handshake("trickled-handshake", "a TLS handshake, a byte now and then", *_TRICKLED_HANDSHAKE),
    _handshake("stall-handshake", "no response to ClientHello", Stall()),
    _connection("stall-response", "no response to a request", lambda _: [Stall()]),
    _connection("stall-headers", "half of a head, then nothing", lambda e: _half_head(e, Stall())),
    _connection(
        "stall-body",
        "all but the last byte, then nothing",
        lambda e: _half_body(e, Stall()),
    ),
    _http2("stall-http2", "HTTP/2 with a client that offers it, then nothing", Stall()),
    _http2(
        "endless-http2",
        "HTTP/2 with a client that offers it, then settings for ever",
        Repeat(_SETTINGS, FLOOD),
    ),
    _handshake("cut-handshake", "the end after ClientHello", Cut()),
    _connection("cut-response", "the end in place of a response", lambda _: [Cut()]),
    _connection("cut-headers", "half of a head, then the end", lambda e: _half_head(e, Cut())),
    _connection(
        "cut-body",
        "all but the last byte, then the end",
        lambda e: _half_body(e, Cut()),
    ),
    _connection(
        "cut-unframed",
        "a body without a length, then the end of the connection without TLS's own",
        _unframed,
    ),
)
