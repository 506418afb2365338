"""Runs nitro-cli: no shell, no input, bounded output, a deadline, and cancellation."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol

from parent.enclaves.nitro_cli import NitroCliError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_OUTPUT = 256 * 1024
"""Bytes of each of stdout and stderr; four enclaves with all their metadata take a few KiB."""

PASSED = ("PATH", "HOME", "LANG", "RUST_LOG", "NITRO_CLI_SOCKETS_PATH", "NITRO_CLI_LOGS_PATH")
"""The variables that nitro-cli gets: it needs no credentials, and leaves a daemon behind."""


@dataclass(frozen=True, slots=True)
class Completed:
    """The result of a command that exited."""

    status: int
    stdout: bytes
    stderr: bytes


class CommandRunner(Protocol):
    """Runs commands of nitro-cli, one at a time."""

    def run(self, arguments: Sequence[str], timeout: float) -> Completed:
        """Run one command.

        Raises:
            NitroCliError: it could not be started, took longer than `timeout` seconds, printed too
                much, or was cancelled.
        """
        ...

    def cancel(self) -> None:
        """Kill the command that runs, and start no other; from any thread."""
        ...


def passed_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an environment that nitro-cli gets."""
    return {name: environment[name] for name in PASSED if name in environment}


def spawn(
    program: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start nitro-cli with pipes on stdout and stderr.

    In a session of its own: an interrupt from a terminal is for the daemon, which then ends its
    enclaves in order.

    Raises:
        NitroCliError: it cannot be started.
    """
    try:
        return subprocess.Popen(  # noqa: S603 (a list, from our own settings; no shell)
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
        )
    except OSError as e:
        missing = isinstance(e, FileNotFoundError)
        raise NitroCliError(
            f"cannot run {program}: {e.strerror}",
            hint="on Amazon Linux 2023: dnf install aws-nitro-enclaves-cli" if missing else "",
        ) from e


class Subprocess:
    """Runs the real program."""

    def __init__(
        self, program: str = "nitro-cli", environment: Mapping[str, str] | None = None
    ) -> None:
        self._program = program
        self._environment = passed_environment(os.environ) if environment is None else environment
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._cancelled = False

    def run(self, arguments: Sequence[str], timeout: float) -> Completed:
        """Run one command; see `CommandRunner`."""
        deadline = time.monotonic() + timeout
        with self._lock:
            if self._cancelled:
                raise NitroCliError(f"nitro-cli {arguments[0]}: cancelled: shutting down")
            self._process = process = spawn(self._program, arguments, self._environment)
        try:
            stdout, stderr = self._read(process, arguments[0], deadline)
            status = process.wait()
        finally:
            with self._lock:
                self._process = None
            end(process)
        if self._cancelled:
            raise NitroCliError(f"nitro-cli {arguments[0]}: cancelled")
        return Completed(status, stdout, stderr)

    def cancel(self) -> None:
        """Kill the command that runs; see `CommandRunner`."""
        with self._lock:
            self._cancelled = True
            if self._process:
                _kill(self._process)

    @staticmethod
    def _read(
        process: subprocess.Popen[bytes], command: str, deadline: float
    ) -> tuple[bytes, bytes]:
        """Return everything that it prints until it exits.

        Its exit counts, not the end of its pipes: nitro-cli leaves a daemon behind, which closes
        them, but not at once.
        """
        with contextlib.ExitStack() as stack:
            ended = os.pidfd_open(process.pid)
            stack.callback(os.close, ended)
            selector = stack.enter_context(selectors.DefaultSelector())
            selector.register(ended, selectors.EVENT_READ)
            parts: dict[int, bytearray] = {}
            for pipe in (process.stdout, process.stderr):
                descriptor = _descriptor(pipe)
                os.set_blocking(descriptor, False)
                selector.register(descriptor, selectors.EVENT_READ)
                parts[descriptor] = bytearray()
            over = False
            while not over:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise NitroCliError(
                        f"nitro-cli {command}: timed out; it was killed",
                        hint="see /var/log/nitro_enclaves",
                    )
                over = any(key.fd == ended for key, _ in ready)
                for descriptor, part in parts.items():
                    if not _drain(descriptor, part) and descriptor in selector.get_map():
                        selector.unregister(descriptor)
                    if len(part) > MAX_OUTPUT:
                        raise NitroCliError(
                            f"nitro-cli {command}: printed over {MAX_OUTPUT} bytes; it was killed"
                        )
            stdout, stderr = parts.values()
            return bytes(stdout), bytes(stderr)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process of `spawn` if it still runs, and leave nothing of it behind."""
    if process.poll() is None:
        _kill(process)
        process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    # The group, not only the process: not the enclave's daemon, which has its own session.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _descriptor(pipe: IO[bytes] | None) -> int:
    if pipe is None:  # `spawn` asks for pipes.
        raise ValueError("no pipe")
    return pipe.fileno()


def _drain(descriptor: int, part: bytearray) -> bool:
    """Read what has arrived, at most one step over the limit; return False at the end."""
    while len(part) <= MAX_OUTPUT:
        try:
            data = os.read(descriptor, 65536)
        except BlockingIOError:
            return True
        if not data:
            return False
        part += data
    return True
