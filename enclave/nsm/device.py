"""The NSM device: bytes in, bytes out. `DevNsm` is ``/dev/nsm``.

Production code opens no other, whatever its options, variables and files are.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
from array import array
from typing import TYPE_CHECKING, Protocol, Self

from enclave import forking
from enclave.errors import NsmError, NsmResponseError, NsmUnavailableError
from enclave.nsm.messages import MAX_REQUEST, MAX_RESPONSE

if TYPE_CHECKING:
    from collections.abc import Callable

PATH = "/dev/nsm"

NSM_IOCTL_RAW = 0xC0200A00
"""``_IOWR(0x0A, 0, struct nsm_raw)`` (<linux/nsm.h>)."""

WAIT_SECONDS = 130.0
"""How long a thread waits for another one's exchange: just over the 120 s after which the driver
gives up on the NSM (drivers/misc/nsm.c, ``NSM_DEFAULT_TIMEOUT_MSECS``)."""

# struct nsm_raw: address and length of the request, then of the response.
_RAW = struct.Struct("=QQQQ")

_HINTS = {
    errno.ENOENT: (
        "outside an enclave, run it under the simulator: enclave-simulator run -- COMMAND; "
        "inside one, the kernel needs the nsm driver (CONFIG_NSM, Linux 6.8 and later)"
    ),
    errno.EACCES: f"this user may not open {PATH}: check its mode (the driver makes it 0666)",
    errno.EBUSY: "another program holds the NSM: stop it, or retry",
    errno.ETIMEDOUT: "the NSM did not respond to the driver within 120 s: restart the enclave",
    errno.ENOTTY: f"{PATH} is not the NSM device: something else has its name",
    errno.EINVAL: "the driver does not know this ioctl: the kernel's nsm driver is not AWS's",
}
_HINTS[errno.ENXIO] = _HINTS[errno.ENODEV] = _HINTS[errno.ENOENT]
_HINTS[errno.EPERM] = _HINTS[errno.EACCES]


class NsmDevice(Protocol):
    """A device that requests go to. Tests pass their own; production uses `DevNsm`."""

    def exchange(self, request: bytes) -> bytes:
        """Send one request of 1..4096 bytes; return its response, 1..12288 bytes.

        Raises:
            NsmError: there is no response.
        """
        ...


class DevNsm:
    """The Linux driver's ``/dev/nsm``.

    Threads may share one: the driver takes one request at a time, and so does this. After a
    fork each process opens its own. A context manager.
    """

    def __init__(
        self,
        *,
        _open: Callable[[str, int], int] = os.open,
        _ioctl: Callable[[int, int, bytearray, bool], int] = fcntl.ioctl,
        _wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        """Open it.

        Raises:
            NsmUnavailableError: there is none, or this user may not open it.
        """
        # The underscored arguments are for this class's own tests: no hardware, no waiting.
        self._ioctl = _ioctl
        self._wait_seconds = _wait_seconds
        # Held during the whole exchange. The driver's own lock would keep requests apart as well,
        # but a wait there has no timeout, and a descriptor must not be closed in use.
        self._lock = threading.Lock()
        forking.register(self)
        try:
            self._fd = _open(PATH, os.O_RDWR | os.O_CLOEXEC)
        except OSError as e:
            raise _unavailable(f"cannot open {PATH}", e) from e

    def _after_fork(self) -> None:
        """See `forking.ForkAware`: another thread may have been in the middle of an exchange."""
        self._lock = threading.Lock()

    def exchange(self, request: bytes) -> bytes:
        """See `NsmDevice.exchange`.

        At most 120 s, which is the driver's limit, and as much again behind another thread.

        Raises:
            NsmError: the request has a size that the driver must not be given.
            NsmUnavailableError: the device is closed or busy, or the driver failed.
            NsmResponseError: the driver reports an impossible length.
        """
        # The driver passes an empty request on, gets no response, and is stuck for 120 s.
        if not 0 < len(request) <= MAX_REQUEST:
            raise NsmError(f"an NSM request of {len(request)} bytes, not 1..{MAX_REQUEST}")
        if not self._lock.acquire(timeout=self._wait_seconds):
            raise NsmUnavailableError(
                f"{PATH} was busy with another thread's request for {self._wait_seconds:g} s",
                hint=_HINTS[errno.ETIMEDOUT],
            )
        try:
            return self._exchange(request)
        finally:
            self._lock.release()

    def _exchange(self, request: bytes) -> bytes:
        if self._fd < 0:
            raise NsmUnavailableError(f"{PATH} is closed")
        sent = array("B", request)
        received = array("B", bytes(MAX_RESPONSE))
        raw = bytearray(_RAW.pack(*sent.buffer_info(), *received.buffer_info()))
        try:
            self._ioctl(self._fd, NSM_IOCTL_RAW, raw, True)  # noqa: FBT003 (fcntl takes no keyword)
        except OSError as e:
            raise _unavailable(f"{PATH} failed", e) from e
        length = _RAW.unpack(raw)[3]
        if not 0 < length <= MAX_RESPONSE:
            raise NsmResponseError(f"{PATH} returned {length} bytes, not 1..{MAX_RESPONSE}")
        return received[:length].tobytes()

    def close(self) -> None:
        """Close it, once the request under way is done (120 s at most). May be repeated."""
        with self._lock:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _unavailable(what: str, error: OSError) -> NsmUnavailableError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return NsmUnavailableError(f"{what}: {reason}", hint=_HINTS.get(error.errno or 0, ""))
