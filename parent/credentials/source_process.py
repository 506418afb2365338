"""Runs the credential source in a process of its own, which can be killed at any time.

botocore's chain runs the program that a profile names, asks on the terminal for the code of an MFA
device, reads files, looks up names: each can hang, and a thread cannot be interrupted. This
process (`source`) has no input and no terminal, and is killed with all that it started when its
time is over.
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

from parent.credentials.model import Credentials, CredentialsError, checked_credentials

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT: Final = 75.0
"""Seconds; the slowest of what botocore does by itself, three attempts at STS, takes 45."""


class SourceProcess:
    """Runs the source, one process at a time.

    Args:
        timeout: seconds for one run.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._cancelled = False

    def load(self, profile: str | None, *, now: datetime) -> Credentials:
        """Return credentials from botocore's chain; see `source.load`.

        Raises:
            CredentialsError: there are none, or invalid ones, or no response came in time.
        """
        with self._lock:
            if self._cancelled:
                raise CredentialsError("cancelled: shutting down", kind="stopped")
            process = self._process = self._start([] if profile is None else [profile])
        try:
            output, _ = process.communicate(timeout=self._timeout)
        except subprocess.TimeoutExpired:
            raise CredentialsError(
                f"no response from the source within {self._timeout:g} s; its process was killed",
                kind="timeout",
                hint="does a program in the profile's credential_process hang?",
            ) from None
        finally:
            with self._lock:
                self._process = None
            _end(process)
        return _read(output, process.returncode, now)

    def cancel(self) -> None:
        """Kill the process that runs, and start no other; from any thread."""
        with self._lock:
            self._cancelled = True
            if self._process:
                _kill(self._process)

    def _start(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603 (a list, from our own settings; no shell)
                # -P: no module is imported from the folder that the daemon was started in.
                [sys.executable, "-P", "-m", "parent.credentials.source", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Without a terminal; and one signal ends all of it.
            )
        except OSError as e:
            raise CredentialsError(
                f"cannot start the credential source: {e.strerror}", kind="internal"
            ) from e


def _read(output: bytes, status: int, now: datetime) -> Credentials:
    try:
        found = json.loads(output)
    except ValueError:
        raise CredentialsError(
            f"the credential source exited with status {status} and no output", kind="internal"
        ) from None
    if "error" in found:
        raise CredentialsError(found["error"], kind=found["kind"], hint=found["hint"])
    expiration = found["expiration"] and datetime.fromisoformat(found["expiration"])
    return checked_credentials(
        found["access_key_id"],
        found["secret_access_key"],
        found["session_token"],
        expiration,
        source=found["source"],
        now=now,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    _kill(process)
    process.wait()
    if process.stdout:
        process.stdout.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        # With all that it started. It is not reaped yet, so its number was not used again.
        os.killpg(process.pid, signal.SIGKILL)
