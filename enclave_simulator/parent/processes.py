"""Service processes of the parent's side: start, wait until ready, stop."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import IO, TYPE_CHECKING

from vsock_proxy.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType, TracebackType
    from typing import Self

READY_WITHIN = 60.0
"""Seconds a service may take to start, on however loaded a machine."""

_STOP_WITHIN = 5.0
"""Seconds between SIGTERM and SIGKILL."""

_STATE_LIMIT = 4096
_STDERR_SHOWN = 2000

_OWN_ERROR = re.compile(r"[a-z-]+: error: (?P<error>.+)(?:\n[a-z-]+: hint: (?P<hint>.+))?")
"""Output of a command that ended with its own error."""

# PR_SET_PDEATHSIG: services must not outlive a launcher that is killed by SIGKILL. It is about the
# thread that started them, which may have ended already. Signals that the launcher has blocked
# would stay blocked.
_RUN = """\
import ctypes, importlib, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
module = sys.argv[2]
sys.argv = sys.argv[2:]
sys.exit(importlib.import_module(module).main())
"""


def exit_on_signals() -> None:
    """Make SIGINT, SIGTERM and SIGHUP exit with 128+N, through every `finally`.

    Further signals are ignored: they must not interrupt the clean-up. One that is ignored already,
    as by nohup, stays so, also for programs that are started from now on.
    """
    ending = [each for each in _ENDING if signal.getsignal(each) is not signal.SIG_IGN]

    def end(number: int, _frame: FrameType | None) -> None:
        for each in ending:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    for each in ending:
        signal.signal(each, end)


_ENDING = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


class ServiceError(AgentError):
    """A service process did not start."""


class Service:
    """A process that runs one of this project's commands. A context manager that stops it.

    The kernel kills it when the thread that started it ends.

    Attributes:
        process: the process.
        state: the variables of its READY=1 notification, by name (sd_notify(3)).
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        show_stderr: bool = False,
        output: IO[bytes] | None = None,
        ready_within: float = READY_WITHIN,
    ) -> None:
        """Start ``main`` of a module and wait until it notifies READY=1.

        Args:
            module: its `main` reads `sys.argv`, as a command does.
            arguments: the command's arguments.
            env: environment; None inherits this process's.
            show_stderr: pass its standard error on. Otherwise the end of it is the hint if the
                service does not start.
            output: a file, open for reading too, which gets its standard error instead.
            ready_within: seconds.

        Raises:
            ServiceError: it ended, or was not ready in time.
        """
        self.name = " ".join((module, *arguments[:1]))
        with contextlib.ExitStack() as held:
            stderr = output or held.enter_context(tempfile.TemporaryFile())
            path = held.enter_context(tempfile.TemporaryDirectory()) + "/notify"
            notified = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            notified.bind(path)
            self.process = subprocess.Popen(  # noqa: S603 (our own code, no shell)
                [sys.executable, "-c", _RUN, str(os.getpid()), module, *arguments],
                env={**(os.environ if env is None else env), "NOTIFY_SOCKET": path},
                stdin=subprocess.DEVNULL,
                # COMMAND's stdout is its own.
                stdout=sys.stderr if show_stderr else stderr,
                stderr=None if show_stderr else stderr,
                # A group of its own: ctrl-C at the terminal is for the launcher alone.
                process_group=0,
            )
            held.callback(self._end)
            self.state = self._await_ready(notified, ready_within, stderr)
            # The socket too: a service also notifies when it stops.
            self._held = held.pop_all()

    def _await_ready(
        self, notified: socket.socket, within: float, stderr: IO[bytes]
    ) -> dict[str, str]:
        deadline = time.monotonic() + within
        ended = os.pidfd_open(self.process.pid)
        try:
            poll = select.poll()
            poll.register(notified, select.POLLIN)
            poll.register(ended, select.POLLIN)
            while (left := deadline - time.monotonic()) > 0:
                happened = {fd for fd, _ in poll.poll(left * 1000)}
                if notified.fileno() in happened:
                    text = notified.recv(_STATE_LIMIT).decode(errors="replace")
                    state = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
                    if state.get("READY") == "1":
                        return state
                elif ended in happened:
                    code = self.process.wait()
                    output = _tail(stderr)
                    if own := _OWN_ERROR.fullmatch(output):
                        # Mostly about an option or a file of the user's: the words are right.
                        raise ServiceError(own["error"], hint=own["hint"] or "")
                    raise ServiceError(
                        f"{self.name} ended with {code} before it was ready", hint=output
                    )
        finally:
            os.close(ended)
        raise ServiceError(f"{self.name} was not ready within {within:g} s", hint=_tail(stderr))

    def close(self) -> None:
        """Stop the process, by SIGTERM, then by SIGKILL, and reap it."""
        self._held.close()

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_STOP_WITHIN)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _tail(stderr: IO[bytes]) -> str:
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - _STDERR_SHOWN))
    return stderr.read().decode(errors="replace").strip()
