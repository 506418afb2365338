"""One worker process as the agent sees it: started, asked with a deadline, killed."""

from __future__ import annotations

import contextlib
import os
import selectors
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

SAID_LIMIT = 4096
"""Bytes of what C prints that are kept: the last ones."""

DISCONNECTED = "Disconnected."
"""What the SDK prints when its connection ends."""

_LAST_WORDS = 1.0
"""Seconds that an answer may still take after that: it may have come just before."""

_REAPED_WITHIN = 5.0  # seconds


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
        """Start it and wait until its client is connected.

        Args:
            client: the fields of `ClientOptions`; they travel by the pipe, not by argv or
                environment, which others can read.
            environ: its environment.
            seconds: it may take.
            command: the worker's program; tests bring their own.

        Raises:
            SdkWorkerError: it hung or died.
            WorkerFailure: it said why it could not.
        """
        ends = time.monotonic() + seconds
        self._said = bytearray()
        self._connected = True
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
            raise SdkWorkerError(f"cannot start the SDK's client: {e.strerror}") from e
        self._selector = selectors.DefaultSelector()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None  # noqa: S101 (for mypy: asked for above)
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ)
        try:
            self.ask({"client": dict(client)}, seconds=ends - time.monotonic())
        except BaseException:
            self.kill()
            raise

    def ask(self, message: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
        """Send one message and return what comes back.

        After an error other than `WorkerFailure` the worker is of no more use.

        Raises:
            SdkWorkerError: no answer within `seconds`, or it died.
            SdkConnectionEndedError: its connection ended, and no answer came.
            WorkerFailure: it says that it failed.
            DecodingError: the message is too long.
        """
        ends = time.monotonic() + seconds
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 (for mypy)
        frame = frames.encode({**message, "seconds": max(seconds, 0.001)})
        with contextlib.suppress(BrokenPipeError):  # that it died shows when reading
            stdin.write(frame)
        head = self._read(frames.HEAD, ends, seconds)
        try:
            length = frames.body_length(head)
            answer = frames.decode(self._read(length, ends, seconds))
        except DecodingError as e:
            raise SdkWorkerError(f"the worker with the SDK's client babbles: {e}") from e
        if "error" in answer:
            raise WorkerFailure(str(answer["error"]), str(answer.get("hint", "")), self.said())
        return answer

    def said(self) -> str:
        """The last of what C printed since the last time, for a person to read."""
        self._drain()
        text = self._said.decode("utf-8", "replace")
        self._said.clear()
        self._connected &= DISCONNECTED not in text
        return text

    def is_fit(self) -> bool:
        """Whether it may be asked again: it lives, and KMS has not closed the connection.

        The SDK never reconnects, and waits for ever on a connection that is no more; but it
        prints a line when one ends.
        """
        self.said()
        return self._connected and self._process.poll() is None

    def kill(self) -> None:
        """End it, whatever it does, and reap it."""
        if self._process.poll() is None:
            self._process.kill()
        # It ends at once, unless a driver holds it; then Python reaps it at a later start.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAPED_WITHIN)
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _read(self, size: int, ends: float, seconds: float) -> bytes:
        data = bytearray()
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101 (for mypy)
        disconnected = False
        while len(data) < size:
            left = ends - time.monotonic()
            if left <= 0 and disconnected:
                raise SdkConnectionEndedError("the connection of the SDK's client ended")
            if left <= 0:
                raise SdkWorkerError(
                    f"the SDK's client gave no answer within {seconds:.3g} s, and was ended",
                    hint="it hangs where KMS is very quick, or silent",
                )
            ready = {key.fileobj for key, _ in self._selector.select(left)}
            if self._process.stderr in ready:
                self._drain()
                if not disconnected and DISCONNECTED.encode() in self._said:
                    disconnected = True
                    ends = min(ends, time.monotonic() + _LAST_WORDS)
            if stdout in ready:
                piece = stdout.read(size - len(data))
                if piece == b"":
                    raise self._death()
                data += piece or b""
        return bytes(data)

    def _drain(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None  # noqa: S101 (for mypy)
        while not stderr.closed and (piece := stderr.read(SAID_LIMIT)):
            self._said += piece
            del self._said[:-SAID_LIMIT]
        if stderr.fileno() in self._selector.get_map() and piece == b"":
            self._selector.unregister(stderr)  # or it would be ready for ever

    def _death(self) -> SdkWorkerError:
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return SdkWorkerError("the SDK's client closed its answers")
        how = f"ended with {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
        return SdkWorkerError(
            f"the process with the SDK's client {how}",
            hint="version 0.4.4 crashes on an answer without CiphertextForRecipient",
        )


class WorkerFailure(Exception):  # noqa: N818 (never leaves this package: the client translates it)
    """What a worker says of a call that failed, and what C printed meanwhile."""

    def __init__(self, message: str, hint: str, said: str) -> None:
        super().__init__(message)
        self.hint = hint
        self.said = said
