"""The parent's log sink for developers: it prints the enclave's log lines on standard error."""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import TYPE_CHECKING

from parent.logs.component import LogSink
from parent.logs.settings import LogSettings
from vsock_proxy.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vsock_proxy.net.addresses import Address


_STOP_WITHIN = 5.0
"""Seconds for lines that have been sent and not yet printed."""


class _StandardError:
    """A sink; see `parent.logs.sinks.Sink`."""

    def write(self, enclave: str, cid: int | None, line: str) -> None:  # noqa: ARG002
        sys.stderr.write(f"{enclave}: {line}\n")

    def close(self) -> None:
        pass


@contextlib.contextmanager
def print_logs(address: Address) -> Iterator[None]:
    """Print the log lines sent to an address, for the length of a ``with`` block.

    If another process listens there already, it gets them.
    """
    # High limits: a developer wants all lines.
    settings = LogSettings(
        cids=None,
        listen=address,
        lines_per_second=100_000,
        bytes_per_second=1 << 30,
        connections=1024,
        connections_per_second=1000,
    )
    sink = LogSink(settings, sink=_StandardError())
    with contextlib.ExitStack() as stack:
        # A signal must reach another thread: in the sink's it would not reach `child.pass_through`.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            sink.start()
        except ListenError:
            pass
        else:
            stack.callback(sink.stop, _STOP_WITHIN)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield
