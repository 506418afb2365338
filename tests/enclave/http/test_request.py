"""Requests as bytes: what goes in comes out, and nothing can be smuggled in."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.errors import ConfigurationError
from enclave.http.request import RequestWriter


class Parsed:
    """A request, as httptools reads it."""

    def __init__(self, data: bytes) -> None:
        self.headers: list[tuple[str, str]] = []
        self.url, self.body, self.requests = b"", b"", 0
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(data)
        self.method = parser.get_method()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode(), value.decode()))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.requests += 1


def test_a_request_is_one_piece_with_host_first() -> None:
    writer = RequestWriter("POST", "kms.example:8443", "/path")
    assert writer.write({"X-Amz-Target": "T.G"}, b"{}") == (
        b"POST /path HTTP/1.1\r\nHost: kms.example:8443\r\nUser-Agent: nitro-enclave-agent\r\n"
        b"Accept-Encoding: identity\r\nX-Amz-Target: T.G\r\nContent-Length: 2\r\n\r\n{}"
    )


def test_a_request_without_a_body_has_no_length() -> None:
    data = RequestWriter("GET", "localhost", "/", {"Accept": "application/json"}).write({})
    assert data == (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: nitro-enclave-agent\r\n"
        b"Accept-Encoding: identity\r\nAccept: application/json\r\n\r\n"
    )


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_a_request_that_has_a_body_by_its_method_has_a_length(method: str) -> None:
    """RFC 9110, section 8.6; there are servers that respond with 411 otherwise."""
    request = Parsed(RequestWriter(method, "localhost", "/").write({}))
    assert ("Content-Length", "0") in request.headers
    assert request.requests == 1


def test_framing_headers_of_the_caller_are_replaced() -> None:
    """botocore's prepared requests bring some; two lengths would be two requests."""
    request = Parsed(
        RequestWriter("POST", "kms.example", "/").write(
            {
                "host": "evil.example",
                "CONTENT-LENGTH": "0",
                "Transfer-Encoding": "chunked",
                "Accept-Encoding": "gzip",
                "user-agent": "Boto3/1",
            },
            b"12345",
        )
    )
    assert request.body == b"12345"
    assert sorted(request.headers) == [
        ("Accept-Encoding", "identity"),
        ("Content-Length", "5"),
        ("Host", "kms.example"),
        ("user-agent", "Boto3/1"),
    ]


@given(st.dictionaries(st.text(), st.text(), max_size=3), st.binary(max_size=40))
def test_any_headers_make_one_request_or_an_error(headers: dict[str, str], body: bytes) -> None:
    writer = RequestWriter("POST", "kms.example", "/")
    try:
        request = Parsed(writer.write(headers, body))
    except ConfigurationError:
        return
    assert (request.method, request.url, request.body) == (b"POST", b"/", body)
    assert request.requests == 1


@pytest.mark.parametrize("name", ["X: y", "", "\xe9", "X\r\nY", "X "])
def test_a_header_name_that_is_not_one_is_rejected(name: str) -> None:
    with pytest.raises(ConfigurationError, match="the header"):
        RequestWriter("GET", "h", "/").write({name: "value"})


@pytest.mark.parametrize("end", ["\r\nY: b", "\n", "\r", "\0", " ", "\xe9", "\x7f"])
def test_a_header_value_that_is_not_one_is_rejected_and_not_shown(end: str) -> None:
    with pytest.raises(ConfigurationError, match="the header 'X'") as caught:
        RequestWriter("GET", "h", "/").write({"X": f"s3cret{end}"})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("target", ["", "x", "/a b", "/\r\n", "/\xe9", "http://h/"])
def test_a_target_that_is_not_a_path_is_rejected(target: str) -> None:
    with pytest.raises(ConfigurationError, match="path"):
        RequestWriter("GET", "h", target)
