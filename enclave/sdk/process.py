"""One worker process as the agent sees it: start it, exchange messages with a deadline, kill it."""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from enclave.errors import DecodingError
from enclave.sdk import frames
from enclave.sdk.errors import SdkConnectionEndedError, SdkWorkerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMMAND = (sys.executable, "-P", "-m", "enclave.sdk.worker")

PRINTED_LIMIT = 4096
"""Bytes of what C prints that are kept: the last ones."""

DISCONNECTED = "Disconnected."
"""What the SDK prints when its connection ends (source/rest.c)."""

_RESPONSE_GRACE = 1.0
"""Seconds that a response may still take after that: it may have come just before."""

_REAP_TIMEOUT = 5.0  # seconds


class Worker:
    """A worker with its own KMS client. For one thread at a time."""

    def __init__(
        self,
        client: Mapping[str, Any],
        *,
        environ: Mapping[str, str],
        seconds: float,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Start the worker and wait until its client is connected.

        Args:
            client: the fields of `ClientOptions`. They go through the pipe: other processes can
                read argv and the environment.
            environ: the worker's environment.
            seconds: timeout of the start.
            command: the worker's program; tests bring their own.

        Raises:
            SdkWorkerError: the worker hung or died.
            WorkerFailure: it reported an error.
        """
        deadline = time.monotonic() + seconds
        self._printed = bytearray()
        self._connected = True
        self._command = command
        try:
            self._process = subprocess.Popen(  # noqa: S603 (our own program)
                command,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        except OSError as e:
            raise SdkWorkerError(
                f"cannot start the worker with the SDK's client: {e.strerror}",
                hint="are there too many processes or open files?",
            ) from e
        self._selector = selectors.DefaultSelector()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None  # noqa: S101 (for mypy: requested above)
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ)
        try:
            self.exchange({"client": dict(client)}, seconds=deadline - time.monotonic())
        except BaseException:
            self.kill()
            raise

    def exchange(self, message: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
        """Send one message and return the response.

        After an error other than `WorkerFailure` the worker must be killed.

        Raises:
            SdkWorkerError: no response within `seconds`, or the worker died.
            SdkConnectionEndedError: its connection ended before a response.
            WorkerFailure: the worker reported an error.
            DecodingError: the message is too long.
        """
        deadline = time.monotonic() + seconds
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 (for mypy)
        frame = frames.encode({**message, "seconds": max(seconds, 0.001)})
        with contextlib.suppress(BrokenPipeError):  # reading reports that the worker died
            stdin.write(frame)
        head = self._read(frames.HEAD, deadline, seconds)
        try:
            length = frames.body_length(head)
            response = frames.decode(self._read(length, deadline, seconds))
        except DecodingError as e:
            raise SdkWorkerError(f"invalid message from the SDK worker: {e}") from e
        if "error" in response:
            raise WorkerFailure(
                str(response["error"]),
                hint=str(response.get("hint", "")),
                type=str(response.get("type", "")),
                printed=self.take_printed(),
            )
        return response

    def take_printed(self) -> str:
        """Return the last of what C printed since the last call of this method."""
        self._drain()
        text = self._printed.decode("utf-8", "replace")
        self._printed.clear()
        self._connected &= DISCONNECTED not in text
        return text

    def is_usable(self) -> bool:
        """Return whether the worker lives and its connection to KMS has not ended.

        The SDK never reconnects, and waits for ever on a connection that has ended; but it prints
        a line when one ends.
        """
        self.take_printed()
        return self._connected and self._process.poll() is None

    def kill(self) -> None:
        """Kill the worker and reap it."""
        if self._process.poll() is None:
            self._process.kill()
        # It dies at once, unless it is inside a driver; then Python reaps it at a later start.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAP_TIMEOUT)
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _read(self, size: int, deadline: float, seconds: float) -> bytes:
        data = bytearray()
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101 (for mypy)
        disconnected = False
        while len(data) < size:
            left = deadline - time.monotonic()
            if left <= 0 and disconnected:
                raise SdkConnectionEndedError("the connection of the SDK's client ended")
            if left <= 0:
                raise SdkWorkerError(
                    f"no response from the SDK's client within {seconds:.3g} s; it was killed",
                    hint="it hangs if KMS is very quick, or silent; --engine sdk does not",
                )
            ready = {key.fileobj for key, _ in self._selector.select(left)}
            if self._process.stderr in ready:
                self._drain()
                if not disconnected and DISCONNECTED.encode() in self._printed:
                    disconnected = True
                    deadline = min(deadline, time.monotonic() + _RESPONSE_GRACE)
            if stdout in ready:
                piece = stdout.read(size - len(data))
                if piece == b"":
                    raise self._death()
                data += piece or b""
        return bytes(data)

    def _drain(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None  # noqa: S101 (for mypy)
        while not stderr.closed and (piece := stderr.read(PRINTED_LIMIT)):
            self._printed += piece
            del self._printed[:-PRINTED_LIMIT]
        if stderr.fileno() in self._selector.get_map() and piece == b"":
            self._selector.unregister(stderr)  # at its end it would be ready for ever

    def _death(self) -> SdkWorkerError:
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return SdkWorkerError("the worker with the SDK's client closed its pipe")
        if code >= 0:
            return SdkWorkerError(
                f"the worker with the SDK's client exited with {code}",
                hint="if it cannot start, this shows why: "
                f"{shlex.join(map(str, self._command))} < /dev/null",
            )
        return SdkWorkerError(
            f"the worker with the SDK's client was killed by {signal.Signals(-code).name}",
            hint="version 0.4.4 crashes on a response without CiphertextForRecipient, among "
            "others; --engine sdk does not",
        )


class WorkerFailure(Exception):  # noqa: N818 (never leaves this package: the client translates it)
    """An error that a worker reports.

    Attributes:
        hint: of the error.
        type: the name of its class.
        printed: what C printed meanwhile.
    """

    def __init__(self, message: str, *, hint: str, type: str, printed: str) -> None:
        super().__init__(message)
        self.hint = hint
        self.type = type
        self.printed = printed
