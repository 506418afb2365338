"""Processes of the benchmark of attested TLS: the program, plain TLS, and clients.

``python -m tests.programs.bench.ingress_peers ROLE ARGUMENTS``; each prints a line when it is
ready, or its figures as JSON.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
import threading
import time
from datetime import UTC, datetime

from enclave.attested_tls.binding import PATH
from enclave.attested_tls.identity import make_identity, server_context

BODY = b"x" * 256
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
SECONDS = 60.0


class Program(asyncio.Protocol):
    """The program behind TLS: one response for each request, which comes in one piece."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment] # it is one

    def data_received(self, _data: bytes) -> None:
        self._transport.write(RESPONSE)


async def program(path: str) -> None:
    """Be the program, on a UNIX socket."""
    await asyncio.get_running_loop().create_unix_server(Program, path)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def plain_tls(path: str, target: str) -> None:
    """End TLS and relay to the program, as asyncio's streams do it; key and version are ours."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_unix_connection(target)
        await asyncio.gather(pump(reader, outer), pump(inner, writer), return_exceptions=True)

    context = server_context(make_identity("localhost", datetime.now(UTC)))
    await asyncio.start_unix_server(serve, path, ssl=context)
    print("ready", flush=True)
    await asyncio.Event().wait()


class Client:
    """One client; a thread calls it."""

    def __init__(self, path: str, *, document: bool) -> None:
        self._path = path
        self._document = document
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3

    def connect(self) -> ssl.SSLSocket:
        """Connect, and ask for a document; it is not verified."""
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(SECONDS)
        connected.connect(self._path)
        tls = self._context.wrap_socket(connected)
        if self._document:
            nonce = os.urandom(32).hex().encode()
            ask = b"GET %s?nonce=%s HTTP/1.1\r\nHost: localhost\r\n\r\n"
            self._exchange(tls, ask % (PATH.encode(), nonce), 4000)
        return tls

    def once(self) -> None:
        """Make a connection for one request."""
        with self.connect() as tls:
            self.request(tls)

    def request(self, tls: ssl.SSLSocket) -> None:
        """Make one request on a connection."""
        self._exchange(tls, REQUEST, len(RESPONSE))

    def _exchange(self, tls: ssl.SSLSocket, request: bytes, least: int) -> None:
        tls.sendall(request)
        received = b""
        while len(received) < least:
            if not (data := tls.recv(1 << 16)):
                raise ConnectionError("closed")
            received += data
        if not received.startswith(b"HTTP/1.1 200 "):
            raise ValueError(received[:100])


def load(path: str, what: str, clients: str, count: str) -> None:
    """Make connections (``new``, or ``document``), or requests on ``kept`` ones.

    The clock starts with a line on stdin: kept connections are made before it.
    """
    each = int(count) // int(clients)
    client = Client(path, document=what == "document")
    ready, go = threading.Barrier(int(clients) + 1), threading.Event()

    def kept() -> None:
        with client.connect() as tls:
            ready.wait()
            go.wait()
            for _ in range(each):
                client.request(tls)

    def new() -> None:
        ready.wait()
        go.wait()
        for _ in range(each):
            client.once()

    work = kept if what == "kept" else new
    threads = [threading.Thread(target=work, daemon=True) for _ in range(int(clients))]
    for thread in threads:
        thread.start()
    ready.wait(SECONDS)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    go.set()
    for thread in threads:
        thread.join()
    print(each * int(clients) / (time.perf_counter() - began), flush=True)


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    if role == "load":
        load(*arguments)
    else:
        asyncio.run(program(*arguments) if role == "program" else plain_tls(*arguments))
