"""The hostile parent: what listens behind CID 3, and an NSM whose responses are attacked.

It does what an `Attack` says, and is honest otherwise.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from enclave_simulator.attack.log_sink import LogSink
from enclave_simulator.attack.model import (
    Act,
    CredentialsExchange,
    Cut,
    Ignore,
    Place,
    Recorded,
    Repeat,
    Send,
    Stall,
    encode_http,
)
from enclave_simulator.attack.requests import RequestError, read_request
from enclave_simulator.attack.responses import ATTACKERS_HOST
from enclave_simulator.attack.table import INJECTED
from enclave_simulator.attack.world import CONTEXT, World
from enclave_simulator.kms.messages import Response
from enclave_simulator.nsm import SimulatedNsm, request_name
from vsock_proxy.net.addresses import VMADDR_CID_PARENT, Address, TcpAddress, UnixAddress
from vsock_proxy.net.listening import close_listener, listen, local_address
from vsock_proxy.net.ports import CREDENTIALS_PORT, LOG_PORT, PROXY_PORT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from typing import Self

    from enclave_simulator.attack.certificates import Certificates
    from enclave_simulator.attack.model import Attack
    from enclave_simulator.authority import Authority

MOST_CONNECTIONS: Final = 64
"""Connections at the same time; a program that connects in a loop gets no more."""

_PATIENCE: Final = 300.0
"""Seconds for a client that neither sends nor receives; `close` ends it before that."""

_FIRST_BYTES: Final = 4096
_TLS_HANDSHAKE: Final = b"\x16"  # the type of a record (RFC 8446, section 5.1)
_NO_TLS: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_JOINED_WITHIN: Final = 10.0


class HostileParent:
    """One run's hostile parent. A context manager.

    Attributes:
        world: KMS, its secrets, and what the program is given.
        attack: what is done.
        ca_pem: the CA that the program trusts.
        nsm: the enclave's NSM.
        evidence: what showed that the attack worked, or empty.
        proxy: where it listens in vsock-proxy's place.
        credentials: where it listens in the credential service's place.
        log: where it listens in the log sink's place.
        attested: attested calls that KMS accepted.
    """

    def __init__(
        self,
        authority: Authority,
        certificates: Certificates,
        attack: Attack,
        *,
        folder: Path | None = None,
        recorded: Recorded | None = None,
        context: Mapping[str, str] = CONTEXT,
    ) -> None:
        """Listen.

        Args:
            authority: certifies the NSM's documents.
            certificates: has the CA that the program trusts.
            attack: what is done.
            folder: where UNIX sockets named CID_PORT stand for vsock; None listens on 127.0.0.1.
            recorded: an envelope of an earlier run.
            context: the encryption context that the program names.
        """
        self.world = World(authority.root_pem, attack, recorded, context)
        self.attack = attack
        self.ca_pem = certificates.ca_pem
        self.evidence = ""
        self.attested = 0
        self._met = threading.Event()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.nsm = HostileNsm(SimulatedNsm(authority, now=self.world.now), attack, self._met)
        kind, protocol = attack.certificate, "http/1.1" if attack.on_http2 is None else "h2"
        self._tls = None if kind == "none" else certificates.server_context(kind, protocol)
        if attack.place in (Place.INPUT, Place.CLOCK) and not attack.jump:
            self._met.set()
        self._sink = LogSink()
        self._listeners: list[socket.socket] = []
        self.proxy = self._listen(folder, PROXY_PORT, self._serve_kms)
        self.credentials = self._listen(folder, CREDENTIALS_PORT, self._serve_credentials)
        self.log = self._listen(folder, LOG_PORT, self._serve_log)

    @property
    def met(self) -> bool:
        """Whether the program has come to where the attack is made."""
        return self._met.is_set()

    def logged(self) -> bytes:
        """Return the beginning of what a program that has ended sent to the log sink."""
        return self._sink.logged(_JOINED_WITHIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, abort all connections, and wait for the threads."""
        self._stopped.set()
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            close_listener(listener)
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            threads = list(self._threads)
        for thread in threads:
            thread.join(_JOINED_WITHIN)

    def _listen(
        self, folder: Path | None, port: int, serve: Callable[[socket.socket], None]
    ) -> Address:
        address: Address = (
            TcpAddress("127.0.0.1", 0)
            if folder is None
            else UnixAddress(f"{folder}/{VMADDR_CID_PARENT}_{port}")
        )
        listener = listen(address)
        self._listeners.append(listener)
        self._start(self._accept, listener, serve)
        return local_address(listener)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        with self._lock:
            self._threads = [each for each in self._threads if each.is_alive()]
            self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if not self._places.acquire(blocking=False):
                connection.close()
                continue
            with self._lock:
                self._open.add(connection)
            self._start(self._handle, connection, serve)

    def _handle(self, connection: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        try:
            if not self._stopped.is_set():
                connection.settimeout(_PATIENCE)
                # What a client does to its connection is no error of ours.
                with contextlib.suppress(OSError, RequestError):
                    serve(connection)
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()
            self._places.release()

    # KMS, behind the proxy's port

    def _serve_kms(self, raw: socket.socket) -> None:
        if self.attack.on_connection is not None:
            if raw.recv(_FIRST_BYTES):
                self._met.set()
                self._do(raw, self.attack.on_connection)
            return
        if self.attack.place is Place.TLS:
            self._met.set()
        if self._tls is None:
            if raw.recv(1, socket.MSG_PEEK) == _TLS_HANDSHAKE:
                raw.sendall(_NO_TLS)
            else:
                self._converse(raw)
            return
        # Not `with`: after a `Cut` no close_notify may be sent, and `close` sends none.
        connection = self._tls.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._open.discard(raw)
            self._open.add(connection)
        try:
            connection.do_handshake()
            if self.attack.on_http2 is not None:
                self._met.set()
                if connection.selected_alpn_protocol() == "h2":
                    self._do(connection, self.attack.on_http2)
                    return
            self._converse(connection)
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _converse(self, connection: socket.socket) -> None:
        left = b""
        while not self._stopped.is_set():
            request, left = read_request(connection, left)
            if request is None:
                return
            if self.world.has_jumped:
                self._met.set()
            if INJECTED.lower() in request.headers:
                self.evidence = "sent a header that was injected through the credentials"
            response, exchange = self.world.respond(request)
            acts: Iterable[Act] = (Send(encode_http(response)),)
            if exchange is not None:
                self.attested += 1
                if self.attack.on_request is not None:
                    host = request.headers.get("host")
                    exchange = replace(exchange, redirected=host == ATTACKERS_HOST)
                    honest, acts = acts, tuple(self.attack.on_request(exchange))
                    if acts != honest:
                        self._met.set()
            if not self._do(connection, acts):
                return

    # The credential service, and the log sink

    def _serve_credentials(self, connection: socket.socket) -> None:
        request, _ = read_request(connection, b"")
        if request is None:
            return
        redirected = request.headers.get("host") == ATTACKERS_HOST
        if redirected:
            self.evidence = "asked another host for credentials, since it was redirected there"
        of = self.world.input.credentials
        document = {
            "AccessKeyId": of.access_key_id,
            "SecretAccessKey": of.secret_access_key,
            "Token": of.session_token,
            "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600)),
        }
        honest = encode_http(
            Response(200, json.dumps(document).encode(), "application/json"), "Connection: close"
        )
        acts: Iterable[Act] = (Send(honest),)
        if self.attack.on_credentials is not None:
            self._met.set()
            acts = self.attack.on_credentials(CredentialsExchange(honest, redirected))
        self._do(connection, acts)

    def _serve_log(self, connection: socket.socket) -> None:
        if self.attack.on_log is not None:
            self._met.set()
            self._do(connection, self.attack.on_log)
            return
        self._sink.read(connection)

    # Acts

    def _do(self, connection: socket.socket, acts: Iterable[Act]) -> bool:
        """Do what an attack says; return whether the connection goes on."""
        for act in acts:
            match act:
                case Send(data):
                    connection.sendall(data)
                case Repeat(data, pause):
                    while not self._stopped.wait(pause):
                        connection.sendall(data)
                    return False
                case Stall():
                    while not self._stopped.is_set() and connection.recv(_FIRST_BYTES):
                        pass
                    return False
                case Ignore():
                    self._stopped.wait()
                    return False
                case Cut():
                    return False
        return True


class HostileNsm:
    """An NSM whose responses an attack may replace. Thread-safe."""

    def __init__(self, nsm: SimulatedNsm, attack: Attack, met: threading.Event) -> None:
        self._nsm = nsm
        self._attack = attack
        self._met = met

    def exchange(self, request: bytes) -> bytes:
        """Return the response to one request; see `SimulatedNsm.exchange`."""
        honest = self._nsm.exchange(request)
        if self._attack.nsm is None:
            return honest
        response = self._attack.nsm(request_name(request), honest)
        if response != honest:
            self._met.set()
        return response
