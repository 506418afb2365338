"""Python's logging, straight to the parent's log sink."""

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
    """Sends records to the log sink of the parent, which is not trusted; never waits for it.

    ``logging.getLogger().addHandler(SinkHandler())``. A record of many lines, such as a
    traceback, is sent in one piece. A thread does the sending: a process that forks makes its
    handlers afterwards.
    """

    def __init__(
        self, to: Address = DEFAULT_SINK, *, buffer: int = LIMIT, dialer: Dialer | None = None
    ) -> None:
        """Make one.

        Args:
            to: the sink.
            buffer: bytes that wait while it is slow or away, at most; beyond it the oldest lines
                are left out, and the sink is told how many.
            dialer: what it is connected to with; production code leaves it out.
        """
        super().__init__()
        self._sender = send_to_sink(to, limit=buffer, dialer=dialer)

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        try:
            text = self.format(record).encode("utf-8", "backslashreplace")
        except Exception:  # noqa: BLE001 (as every handler of logging's)
            self.handleError(record)
        else:
            self._sender.put(LineSplitter(LONGEST).feed(text + b"\n"))

    def close(self) -> None:
        """Send what waits, for at most `FLUSH` seconds; logging does this when Python ends."""
        super().close()
        self._sender.close(FLUSH)
