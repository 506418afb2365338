"""Asks for credentials in a process of its own, which can be ended whatever it is doing.

botocore's chain runs the program that a profile names, asks on the terminal for the code of an MFA
device, reads files, looks up names: each can hang, and a thread cannot be interrupted. This
process (`upstream`) has no input and no terminal, so nobody is asked for anything, and it is ended
with all that it started when its time is over.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import datetime
from typing import TYPE_CHECKING, Final

from parent.credentials.model import Credentials, CredentialsError, whole_credentials

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT: Final = 75.0
"""Seconds; the slowest of what botocore does by itself, three attempts at STS, takes 45."""


class Asker:
    """Asks, one question at a time."""

    def __init__(self, timeout: float = TIMEOUT) -> None:
        """Make one; `timeout` seconds are for a whole question."""
        self._timeout = timeout
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._cancelled = False

    def load(self, profile: str | None, *, now: datetime) -> Credentials:
        """Ask the chain; see `upstream.load`.

        Raises:
            CredentialsError: there are none, or none that are good, or no answer came in time.
        """
        with self._lock:
            if self._cancelled:
                raise CredentialsError("not asked, for this is the end", kind="stopped")
            process = self._process = self._start([] if profile is None else [profile])
        try:
            answer, _ = process.communicate(timeout=self._timeout)
        except subprocess.TimeoutExpired:
            raise CredentialsError(
                f"no answer within {self._timeout:g} s, and whoever was asked was ended",
                kind="timeout",
                hint="does a program in the profile's credential_process hang?",
            ) from None
        finally:
            with self._lock:
                self._process = None
            _end(process)
        return _read(answer, process.returncode, now)

    def cancel(self) -> None:
        """End the question that is being asked, and refuse what comes; from any thread."""
        with self._lock:
            self._cancelled = True
            if self._process:
                _kill(self._process)

    def _start(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603 (a list, from our own settings; no shell)
                # -P: what lies in the folder that the daemon was started in is no module of ours.
                [sys.executable, "-P", "-m", "parent.credentials.source", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Without a terminal; and one signal ends all of it.
            )
        except OSError as e:
            raise CredentialsError(f"cannot ask: {e.strerror}", kind="internal") from e


def _read(answer: bytes, status: int, now: datetime) -> Credentials:
    try:
        told = json.loads(answer)
    except ValueError:
        raise CredentialsError(
            f"whoever was asked ended with status {status} and no answer", kind="internal"
        ) from None
    if "error" in told:
        raise CredentialsError(told["error"], kind=told["kind"], hint=told["hint"])
    expiration = told["expiration"] and datetime.fromisoformat(told["expiration"])
    return whole_credentials(
        told["access_key"],
        told["secret_key"],
        told["token"],
        expiration,
        source=told["source"],
        now=now,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    _kill(process)
    process.wait()
    if process.stdout:
        process.stdout.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        # With all that it started. It is not reaped, so that its number is nobody else's.
        os.killpg(process.pid, signal.SIGKILL)
