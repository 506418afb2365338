"""The TPM device: commands in, responses out. `DevTpm` is ``/dev/tpmrm0`` or ``/dev/tpm0``.

Production code opens no others, whatever its options, variables and files are. A device is opened
for one attestation at a time and closed again: ``/dev/tpm0`` admits one opener only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from typing import TYPE_CHECKING, Protocol

from enclave import forking
from enclave.clock import Clock, SystemClock
from enclave.errors import TpmBusyError, TpmTimeoutError, TpmUnavailableError
from enclave.nitrotpm.messages import MAX_MESSAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

MANAGED, DIRECT = "/dev/tpmrm0", "/dev/tpm0"
"""With the kernel's resource manager, which lets programs share the TPM, and without it."""

_PAUSE = 0.05
"""Seconds between two attempts to open the device, or to lock it."""

_HINTS = {
    errno.ENOENT: "an instance has a NitroTPM if its AMI was registered with --tpm-support v2.0; "
    "the kernel needs the tpm_crb or tpm_tis driver",
    errno.EACCES: "this user may not open it: run as root, or add the user to the device's group "
    "(often tss)",
    errno.EINVAL: "the driver rejected the command",
    errno.ETIME: "the TPM did not respond to the driver: stop and start the instance",
    errno.EPIPE: "the driver has lost the TPM: stop and start the instance",
}
_HINTS[errno.ENXIO] = _HINTS[errno.ENODEV] = _HINTS[errno.ENOENT]
_HINTS[errno.EPERM] = _HINTS[errno.EACCES]
_HINTS[errno.ETIMEDOUT] = _HINTS[errno.ETIME]
_BUSY = (errno.EBUSY, errno.EAGAIN)


class TpmChannel(Protocol):
    """An open TPM device, which no other program like this one uses at the same time."""

    def exchange(self, command: bytes, *, timeout: float) -> bytes:
        """Send one command of 10..4096 bytes; return its response, unread.

        Raises:
            TpmTimeoutError: there is none after `timeout` seconds. The channel is of no use then.
            TpmUnavailableError: the driver failed.
        """
        ...


class TpmDevice(Protocol):
    """A TPM that can be opened. Tests pass their own; production uses `DevTpm`.

    Attributes:
        path: its name, for messages.
    """

    @property
    def path(self) -> str:
        """See the class."""
        ...

    def open(self, *, timeout: float) -> AbstractContextManager[TpmChannel]:
        """Open it for one attestation, alone among the programs that go through this class.

        Raises:
            TpmBusyError: others held it for `timeout` seconds.
            TpmUnavailableError: there is none, or this user may not open it.
        """
        ...


class DevTpm:
    """One of the Linux driver's two devices. Threads and processes may share it.

    Args:
        managed: through the kernel's resource manager.
    """

    def __init__(
        self,
        *,
        managed: bool = True,
        _open: Callable[[str, int], int] = os.open,
        _lock: Callable[[int, int], object] = fcntl.flock,
        _clock: Clock | None = None,
    ) -> None:
        # The underscored arguments are for this class's own tests: no hardware, no waiting.
        self.path = MANAGED if managed else DIRECT
        self._open = _open
        self._lock = _lock
        self._clock = _clock or SystemClock()

    @contextlib.contextmanager
    def open(self, *, timeout: float) -> Iterator[TpmChannel]:
        """See `TpmDevice.open`.

        The lock (flock) is on the device's own inode: it needs no directory, holds for every user,
        and is gone with the process that has it. It does not reach into a container that has a
        node of its own for the same TPM.
        """
        deadline = self._clock.monotonic() + timeout
        channel = _Channel(self._opened(deadline), self.path)
        try:
            self._locked(channel.fd, deadline)
            yield channel
        finally:
            channel.close()

    def _opened(self, deadline: float) -> int:
        while True:
            try:
                return self._open(self.path, os.O_RDWR | os.O_CLOEXEC)
            except OSError as e:
                if e.errno not in _BUSY:
                    raise _unavailable(f"cannot open {self.path}", e) from e
                self._pause(deadline, "held open by another program")

    def _locked(self, fd: int, deadline: float) -> None:
        while True:
            try:
                self._lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                if e.errno not in _BUSY:
                    raise _unavailable(f"cannot lock {self.path}", e) from e
                self._pause(deadline, "locked by another attestation")
            else:
                return

    def _pause(self, deadline: float, why: str) -> None:
        if self._clock.monotonic() >= deadline:
            raise TpmBusyError(f"{self.path} is {why}")
        self._clock.sleep(_PAUSE)


class _Channel:
    """An open descriptor, and at most one thread that is in the driver with it.

    The driver cannot be waited for with a timeout: it holds a lock while the TPM works (up to two
    minutes), for which poll() and close() wait as well (drivers/char/tpm/tpm-dev-common.c). So a
    thread of its own is in the driver, and closes the descriptor if it comes back too late.
    """

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self._path = path
        self._guard = threading.Lock()
        self._is_late = False
        forking.register(self)

    def _after_fork(self) -> None:
        """See `forking.ForkAware`: a child that keeps the descriptor open would keep the TPM."""
        self._guard = threading.Lock()
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def exchange(self, command: bytes, *, timeout: float) -> bytes:
        """See `TpmChannel.exchange`."""
        if self.fd < 0 or self._is_late:
            raise TpmUnavailableError(f"{self._path} is closed")
        responses: list[bytes | OSError] = []
        done = threading.Event()
        # Descriptor in the argument: after a fork, self.fd is the child's.
        thread = threading.Thread(
            target=self._in_driver, args=(self.fd, command, responses, done), daemon=True
        )
        try:
            thread.start()
        except RuntimeError as e:
            raise TpmUnavailableError(
                f"no thread to use {self._path} with: {e}",
                hint="the limit of threads or of memory is reached",
            ) from e
        is_done = False
        try:
            is_done = done.wait(timeout)
        finally:
            # An interrupt as well: closed here, the number would be another file's for the thread.
            if not is_done:
                with self._guard:
                    self._is_late = not done.is_set()
        if self._is_late:
            raise TpmTimeoutError(f"{self._path} sent no response within {timeout:.3g} s")
        [response] = responses
        if isinstance(response, OSError):
            if response.errno in _BUSY:
                raise TpmBusyError(f"{self._path} failed: {os.strerror(response.errno)}")
            raise _unavailable(f"{self._path} failed", response) from response
        return response

    def _in_driver(
        self, fd: int, command: bytes, responses: list[bytes | OSError], done: threading.Event
    ) -> None:
        try:
            # Blocking: the driver returns from the write when the response is there.
            os.write(fd, command)
            responses.append(os.read(fd, MAX_MESSAGE))
        except OSError as e:
            responses.append(e)
        with self._guard:
            done.set()
            is_late = self._is_late
        if is_late:
            self._close(fd)

    def close(self) -> None:
        """Close it, or leave that to the thread that is still in the driver."""
        fd, self.fd = self.fd, -1
        if fd >= 0 and not self._is_late:
            self._close(fd)

    def _close(self, fd: int) -> None:
        # Unlocked by name: a program forked in between may still have the descriptor.
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _unavailable(what: str, error: OSError) -> TpmUnavailableError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return TpmUnavailableError(f"{what}: {reason}", hint=_HINTS.get(error.errno or 0, ""))
