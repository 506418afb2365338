"""Clients of Python over the context: each is proven first, and none finds a way around it."""

from __future__ import annotations

import asyncio
import http.client
import ssl
import urllib.error
import urllib.request
import warnings
from typing import TYPE_CHECKING

import httpx
import pytest
import requests

import enclave
from enclave import AttestationError, AttestedTlsError, ConfigurationError, DialError
from tests.enclave.attested_tls.serving import (
    IMAGE,
    RESPONSE,
    ROOT,
    Program,
    Served,
    expecting,
    program,
    served,
)
from tests.sockets import unused_port
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.service.extras import install_command

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

OTHER = bytes([9]) * 48


@pytest.fixture
def made(behind: Program) -> Iterator[Served]:
    with served(behind.port) as serving:
        yield serving


def with_connect(port: int, pcr0: bytes) -> str:
    with enclave.connect(
        "127.0.0.1", port, pcrs={0: pcr0}, root_fingerprint=ROOT, timeout=TEST_TIMEOUT
    ) as tls:
        assert tls.document is not None
        assert tls.document.pcrs[0] == pcr0
        tls.sendall(b"GET / HTTP/1.1\r\n\r\n")
        return tls.recv(1000).decode()[-2:]


def with_requests(port: int, pcr0: bytes) -> str:
    with enclave.requests_session(expecting(pcrs={0: pcr0})) as session:
        # Not one warning of urllib3's, and verify= changes nothing either way.
        texts = {session.get(f"https://127.0.0.1:{port}/").text for _ in range(2)}
        texts.add(session.get(f"https://127.0.0.1:{port}/", verify=False).text)
        return texts.pop()


def with_httpx(port: int, pcr0: bytes) -> str:
    transport = enclave.httpx_transport(expecting(pcrs={0: pcr0}))
    with httpx.Client(transport=transport) as client:
        return client.get(f"https://127.0.0.1:{port}/").text


def with_httpx_async(port: int, pcr0: bytes) -> str:
    async def get() -> str:
        transport = enclave.httpx_async_transport(expecting(pcrs={0: pcr0}))
        async with httpx.AsyncClient(transport=transport) as client:
            return (await client.get(f"https://127.0.0.1:{port}/")).text

    return asyncio.run(get())


def with_urllib(port: int, pcr0: bytes) -> str:
    url = f"https://127.0.0.1:{port}/"
    with urllib.request.urlopen(url, context=expecting(pcrs={0: pcr0})) as response:
        return str(response.read().decode())


def with_http_client(port: int, pcr0: bytes) -> str:
    connection = http.client.HTTPSConnection(
        "127.0.0.1", port, context=expecting(pcrs={0: pcr0}), timeout=TEST_TIMEOUT
    )
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def with_asyncio(port: int, pcr0: bytes) -> str:
    async def get() -> str:
        context = expecting(pcrs={0: pcr0})
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="localhost"
        )
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        response = await reader.read(1000)
        writer.close()
        await writer.wait_closed()
        return response.decode()[-2:]

    return asyncio.run(get())


CLIENTS = [
    with_connect,
    with_requests,
    with_httpx,
    with_httpx_async,
    with_urllib,
    with_http_client,
    with_asyncio,
]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_proven_enclave_is_talked_to(
    made: Served, client: Callable[[int, bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1" if client is with_urllib else "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert client(made.port, IMAGE) == RESPONSE.decode()[-2:]
    assert made.documents.made == 1, "one document for each connection"


@pytest.mark.parametrize("client", CLIENTS)
def test_another_image_gets_no_request(
    made: Served, behind: Program, client: Callable[[int, bytes], str]
) -> None:
    with pytest.raises((AttestationError, urllib.error.URLError), match="PCR0"):
        client(made.port, OTHER)
    made.until(lambda: not made.server.connections)
    assert behind.seen == []


def test_http_urls_are_rejected(made: Served) -> None:
    url = f"http://127.0.0.1:{made.port}/"
    with (
        enclave.requests_session(expecting()) as session,
        pytest.raises(AttestedTlsError, match="https"),
    ):
        session.get(url)
    with (
        httpx.Client(transport=enclave.httpx_transport(expecting())) as client,
        pytest.raises(AttestedTlsError, match="https"),
    ):
        client.get(url)

    async def get() -> None:
        transport = enclave.httpx_async_transport(expecting())
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get(url)

    with pytest.raises(AttestedTlsError, match="https"):
        asyncio.run(get())


def test_a_redirect_to_http_is_not_followed() -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"
        )

    with (
        program(Program(handle)) as behind,
        served(behind.port) as made,
        enclave.requests_session(expecting()) as session,
        pytest.raises(AttestedTlsError, match="https"),
    ):
        session.get(f"https://127.0.0.1:{made.port}/")


def test_requests_through_a_proxy_are_rejected(made: Served) -> None:
    with (
        enclave.requests_session(expecting()) as session,
        pytest.raises(ConfigurationError, match="proxies"),
    ):
        session.get(f"https://127.0.0.1:{made.port}/", proxies={"https": "http://127.0.0.1:9"})


def test_clients_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsock_proxy.service.extras.find_spec", lambda _: None)
    for make in (enclave.requests_session, enclave.httpx_transport, enclave.httpx_async_transport):
        with pytest.raises(ConfigurationError, match="not installed") as caught:
            make(expecting())
        extra = "requests" if make is enclave.requests_session else "httpx"
        assert caught.value.hint == install_command(extra)


def test_connections_that_fail_are_of_the_family() -> None:
    with pytest.raises(DialError):
        enclave.connect("127.0.0.1", unused_port(), pcrs={0: IMAGE})
    with (
        program(Program(lambda plain: plain.sendall(b"SSH-2.0-x\r\n"))) as behind,
        pytest.raises(AttestedTlsError, match=r"TLS with tcp://127.0.0.1:\d+ failed: WRONG"),
    ):
        enclave.connect("127.0.0.1", behind.port, pcrs={0: IMAGE})
    with pytest.raises(ConfigurationError):
        enclave.connect("127.0.0.1", 1, pcrs={})


def test_a_connection_that_is_cut_off_is_no_end() -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"the beginning")
        connection.recv(1000)

    with (
        program(Program(handle)) as behind,
        served(behind.port) as made,
        enclave.connect(
            "127.0.0.1", made.port, pcrs={0: IMAGE}, root_fingerprint=ROOT, timeout=TEST_TIMEOUT
        ) as tls,
    ):
        tls.sendall(b"x")
        assert tls.recv(100) == b"the beginning"

        async def cut() -> None:
            for connection in tuple(made.server.connections):
                connection.abort()

        made.run(cut())
        with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
            tls.recv(100)


def test_requests_keeps_one_connection(made: Served) -> None:
    with enclave.requests_session(expecting()) as session:
        for _ in range(5):
            assert session.get(f"https://127.0.0.1:{made.port}/").status_code == 200
    assert made.documents.made == 1
    assert isinstance(session, requests.Session)
