"""An endpoint in a thread of its own, and clients that say exactly what they are told to."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enclave.kms.client import KmsResponse
from enclave.serve.calls import Calls
from enclave.serve.pooled import PooledRandom
from enclave.serve.readiness import Readiness
from enclave.serve.server import EndpointServer
from tests.loops import LoopThread, loop_thread
from tests.sockets import read_all
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Mapping

    from enclave.serve.connection import Limits


PLAIN = b'{"NumberOfBytes":4}'
HEAD = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Amz-Target: TrentService.GenerateRandom\r\n"


def request(body: bytes = PLAIN, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return HEAD + lines + b"Content-Length: %d\r\n\r\n" % len(body) + body


def get(path: bytes) -> bytes:
    return b"GET %s HTTP/1.1\r\nHost: 127.0.0.1:8009\r\n\r\n" % path


def signed_for(region: str, body: bytes = PLAIN) -> bytes:
    credential = b"Credential=AKID/20260101/%s/kms/aws4_request" % region.encode()
    return request(body, b"Authorization: AWS4-HMAC-SHA256 " + credential + b", Signature=0")


class Kms:
    """Stands for `Agent.call`: responds at once, or, when held, once it is let go."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error: Exception | None = None
        self.entered = threading.Semaphore(0)
        self._open = threading.Event()
        self._open.set()

    def hold(self) -> None:
        self._open.clear()

    def let_go(self) -> None:
        self._open.set()

    def __call__(self, operation: str, parameters: Mapping[str, Any], **_: object) -> KmsResponse:
        self.calls.append((operation, dict(parameters)))
        self.entered.release()
        assert self._open.wait(TEST_TIMEOUT)
        if self.error is not None:
            raise self.error
        size = int(parameters.get("NumberOfBytes") or 0)
        return KmsResponse({"Plaintext": bytes(size)}, f"kms-{size}")


class Served(LoopThread):
    """A running endpoint.

    Attributes:
        port: on 127.0.0.1.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, port: int, endpoint: EndpointServer, calls: Calls
    ) -> None:
        super().__init__(loop)
        self.port = port
        self.endpoint = endpoint
        self.calls = calls

    def connect(self, *, receive_buffer: int | None = None) -> socket.socket:
        client = socket.socket()
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(TEST_TIMEOUT)
        client.connect(("127.0.0.1", self.port))
        return client

    def exchange(self, data: bytes) -> Response:
        """Send bytes, and read one response."""
        with self.connect() as client:
            client.sendall(data)
            return read_response(client)

    def converse(self, data: bytes) -> bytes:
        """Send bytes and the end, and read until the other side's end."""
        with self.connect() as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return read_all(client)


def _made(
    call: Callable[[str, Mapping[str, Any]], KmsResponse],
) -> Callable[..., KmsResponse]:
    return lambda operation, parameters, **_: call(operation, parameters)


def fetching(fetch: Callable[[int], bytes]) -> Callable[..., KmsResponse]:
    """Return what makes the calls of a pool."""
    return lambda _operation, parameters, **_: KmsResponse(
        {"Plaintext": fetch(parameters["NumberOfBytes"])}, "kms"
    )


@contextlib.contextmanager
def served(
    call: Callable[[str, Mapping[str, Any]], KmsResponse],
    *,
    probe: Callable[[], object] = lambda: None,
    fetch: Callable[[int], bytes] | None = None,
    uniform: Callable[[float, float], float] = random.uniform,
    limits: Limits | None = None,
    readiness: Mapping[str, float] | None = None,
    most: int = 4,
    max_waiting: int = 256,
    deadline: float = TEST_TIMEOUT,
    clock_drift: Callable[[], float | None] = lambda: None,
    regions: Mapping[str, Callable[[str, Mapping[str, Any]], KmsResponse]] | None = None,
) -> Iterator[Served]:
    """Serve on a free port of 127.0.0.1 for the length of a ``with`` block."""
    with contextlib.ExitStack() as stack:
        loop = stack.enter_context(loop_thread("endpoint"))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        async def start() -> Served:
            pool = (
                None
                if fetch is None
                else PooledRandom(fetching(fetch), deadline=TEST_TIMEOUT, uniform=uniform)
            )
            calls = Calls(
                {name: _made(each) for name, each in (regions or {"eu-central-1": call}).items()},
                most=most,
                deadline=deadline,
                max_waiting=max_waiting,
                pool=pool,
            )
            endpoint = EndpointServer(
                calls,
                Readiness(probe, **(readiness or {})),
                limits=limits,
                clock_drift=clock_drift,
                sweep=0.02,
            )
            endpoint.accept_from(listener)
            if pool is not None:
                stack.callback(loop.loop.call_soon_threadsafe, pool.close)
            return Served(loop.loop, listener.getsockname()[1], endpoint, calls)

        made: Served = loop.run(start())
        try:
            yield made
        finally:
            loop.loop.call_soon_threadsafe(made.calls.close)
            made.close(made.endpoint)


@dataclass
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> str:
        return str(json.loads(self.body)["__type"])

    @property
    def message(self) -> str:
        fields = json.loads(self.body)
        return str(fields.get("message") or fields.get("Message") or "")


def read_response(client: socket.socket) -> Response:
    """One response; only for clients that have sent one request, as it may read further."""
    response = http.client.HTTPResponse(client)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Response(response.status, headers, response.read())


def reset(client: socket.socket) -> None:
    """Close a connection such that the other end notices."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
