"""A server in threads on a listening socket, for simulated metadata and credential services."""

from __future__ import annotations

import contextlib
import http.server
import logging
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)


class Server(http.server.ThreadingHTTPServer):
    """Serves on a listening socket, which it owns."""

    daemon_threads = False
    """`server_close` waits for the others only."""

    def __init__(
        self, listener: socket.socket, handler: type[http.server.BaseHTTPRequestHandler]
    ) -> None:
        super().__init__(("", 0), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a client in a thread of its own."""
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a client's connection."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a client that left before its response; print the traceback of any other error."""
        error = sys.exception()
        if isinstance(error, ConnectionError | TimeoutError):
            log.debug("a client left: %s", error)
        else:
            super().handle_error(request, client_address)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Serve in a thread of its own meanwhile; at the end, no connection and thread is left."""
        thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            thread.join()
            with self._lock:
                for client in self._open:
                    with contextlib.suppress(OSError):  # it has left
                        client.shutdown(socket.SHUT_RDWR)
            self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    """Responds with one body; each read and write times out after 10 seconds."""

    timeout = 10.0

    def respond(self, status: int, body: bytes, kind: str = "text/plain", **headers: str) -> None:
        """Send a whole response; in the names of further headers, ``_`` stands for ``-``."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log to the simulator's own log: ``--verbose`` shows it.

        The base class needs an IP address, which a UNIX client does not have.
        """
        log.debug(format, *args)
