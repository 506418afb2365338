"""A handler for Python's logging that sends records to the parent's log sink."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from enclave.logs.options import DEFAULT_SINK, FLUSH
from enclave.logs.outbox import LIMIT, LONGEST
from enclave.logs.sender import send_to_sink
from vsock_proxy.service.log_lines import LineSplitter

if TYPE_CHECKING:
    from vsock_proxy.net.addresses import Address
    from vsock_proxy.net.dialing import Dialer


class SinkHandler(logging.Handler):
    """Sends records to the log sink on the parent, which is not trusted; never waits for it.

    ``logging.getLogger().addHandler(SinkHandler())``. The lines of one record, such as a
    traceback, stay together. A thread sends: a process that forks must make its handlers
    afterwards.

    Args:
        to: the sink.
        buffer: bytes buffered while the sink is slow or unreachable; beyond it the oldest lines
            are dropped, and the sink is told how many.
        dialer: makes the connections; production code leaves it out.

    Raises:
        AgentError: the system has no more threads.
    """

    def __init__(
        self, to: Address = DEFAULT_SINK, *, buffer: int = LIMIT, dialer: Dialer | None = None
    ) -> None:
        super().__init__()
        self._sender = send_to_sink(to, limit=buffer, dialer=dialer)

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        try:
            text = self.format(record).encode("utf-8", "backslashreplace")
        except Exception:  # noqa: BLE001 (as in all handlers of logging)
            self.handleError(record)
        else:
            self._sender.put(LineSplitter(LONGEST).feed(text + b"\n"))

    def close(self) -> None:
        """Send what is buffered, for at most 5 seconds; called when Python exits."""
        super().close()
        self._sender.close(FLUSH)
