"""Sends a program's output to the parent, from its start to its end."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

from enclave.cli import console
from enclave.logs import child
from enclave.logs.capture import Capture
from enclave.logs.sender import Descriptor, Sender, send_to_sink
from vsock_proxy.service.console import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from enclave.errors import AgentError
    from enclave.logs.child import Program
    from enclave.logs.options import LogOptions
    from enclave.logs.sender import Outcome

SHOWN: Final = 10
"""Lines that could not be sent: so many of the last are printed on standard error."""


def follow(program: Program, options: LogOptions) -> int:
    """Send a program's output until it ends; return its exit code, 128+N after signal N.

    Problems with the sink are printed on standard error.
    """
    stderr = None
    if options.also_stderr:
        stderr = Sender("standard error", lambda: Descriptor(2), limit=options.buffer)

    def report(text: str) -> None:
        if stderr:
            # One writer, so that lines stay whole there too.
            stderr.put([f"{console.PROG}: warning: {printable(text)}".encode()])
        else:
            _warn(text)

    sink = send_to_sink(options.to, limit=options.buffer, report=report)
    senders = [sink, *([stderr] if stderr else [])]

    def put(lines: list[bytes]) -> None:
        for sender in senders:
            sender.put(lines)

    capture = Capture(program.pipes, put)
    code = child.wait(program.pid)
    capture.stop()
    deadline = time.monotonic() + options.flush
    outcome = sink.close(options.flush)
    if stderr:
        stderr.close(max(deadline - time.monotonic(), 1.0))
    _report(outcome, options, show=stderr is None)
    return code


def send_error(error: AgentError, options: LogOptions) -> None:
    """Send the error because of which no program was started."""
    sink = send_to_sink(options.to)
    lines = [f"error: {error}", *([f"hint: {error.hint}"] if error.hint else [])]
    sink.put(f"{console.PROG}: {printable(line)}".encode() for line in lines)
    sink.close(options.flush)


def _report(outcome: Outcome, options: LogOptions, *, show: bool) -> None:
    if outcome.unsent:
        _warn(
            f"logs: {len(outcome.unsent)} lines could not be sent to {options.to} within "
            f"{options.flush:g} s, {outcome.dropped} were dropped before",
            outcome.unsent[-SHOWN:] if show else [],
        )
    elif not outcome.confirmed:
        _warn(f"logs: {options.to} may not have read the last lines")


def _warn(text: str, lines: Iterable[bytes] = ()) -> None:
    """Warn on standard error; if that fails too, go on.

    Unbuffered: Python would try again at exit, and change the exit status.
    """
    data = f"{console.PROG}: warning: {printable(text)}\n".encode() + b"".join(lines)
    stderr = Descriptor(2)
    with contextlib.suppress(OSError):
        while data:
            data = data[stderr.write(data) :]
