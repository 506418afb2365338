"""``/dev/nsm``, ``/dev/vsock`` and a TPM as a program sees them: opening, looking at, ioctl.

If the program has a /dev of its own, the kernel opens them and only their ioctls stop here. If not,
every call with a path does, and an open device is an unconnected UNIX socket: it can be polled,
duplicated and inherited, cannot be sought, and fails `read` with EINVAL, as with the NSM's driver.

A TPM is opened here in either case, and `tpm_device` serves it.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import logging
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from enclave_simulator.launcher import abi, memory
from enclave_simulator.launcher.notification import Listener, Outcome, Syscall
from enclave_simulator.launcher.process import borrow, socket_inode
from enclave_simulator.launcher.sockets import Inodes, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from enclave_simulator.launcher.tpm_device import TpmDevices

log = logging.getLogger(__name__)


class NsmDevice(Protocol):
    """Responds to the NSM's requests; one at a time, as under the driver."""

    def exchange(self, request: bytes) -> bytes:
        """Return the response, of at most 12288 bytes, to a CBOR request of 1..4096 bytes."""
        ...


class Device(enum.Enum):
    """The devices, with the minor numbers that `stat` shows (arbitrary ones)."""

    NSM = 144
    VSOCK = 121
    TPM0 = 224
    TPMRM0 = 225


TPMS = (Device.TPM0, Device.TPMRM0)
_PATHS = {f"/dev/{device.name.lower()}".encode(): device for device in Device}
_ENDS = tuple(device.name.lower().encode() for device in Device)
_NAMES = {device.name.lower(): device for device in Device}
_UNDELIVERED_MOST = 64
"""Threads of which the last response is kept, if a signal kept it from them."""


class Devices:
    """Handlers for the system calls about files."""

    def __init__(
        self,
        listener: Listener,
        architecture: abi.Architecture,
        nsm: NsmDevice | None,
        cid: int,
        opened: Inodes[Device],
        rdev: int | None = None,
        tpm: TpmDevices | None = None,
    ) -> None:
        """Prepare.

        Args:
            listener: where the calls come from.
            architecture: the program's.
            nsm: responds to requests; None: there is no /dev/nsm.
            cid: the enclave's context id.
            opened: open devices by inode, without a /dev of the program's own.
            rdev: with one: the number of the device that /dev/nsm and /dev/vsock are nodes of.
            tpm: serves /dev/tpm0 and /dev/tpmrm0; None: there are none.
        """
        self._listener = listener
        self._architecture = architecture
        self._nsm = nsm
        self._cid = cid
        self._opened = opened
        self._rdev = rdev
        self._tpm = tpm
        self._undelivered: dict[int, tuple[bytes, bytes]] = {}
        self.handlers: dict[str, Callable[[Syscall], int | Outcome]] = {
            "open": lambda c: self._open(c, abi.AT_FDCWD, c.arguments[0], c.arguments[1]),
            "creat": lambda c: self._open(c, abi.AT_FDCWD, c.arguments[0], os.O_CREAT),
            "openat": lambda c: self._open(c, c.arguments[0], c.arguments[1], c.arguments[2]),
            "openat2": self._openat2,
            "stat": lambda c: self._stat(c, abi.AT_FDCWD, c.arguments[0], c.arguments[1]),
            "lstat": lambda c: self._stat(c, abi.AT_FDCWD, c.arguments[0], c.arguments[1]),
            "newfstatat": lambda c: self._stat(c, *c.arguments[:3]),
            "statx": self._statx,
            "access": lambda c: self._access(c, abi.AT_FDCWD, *c.arguments[:2]),
            "faccessat": lambda c: self._access(c, *c.arguments[:3]),
            "faccessat2": lambda c: self._access(c, *c.arguments[:3]),
            "ioctl": self._ioctl,
        }

    def _device(self, call: Syscall, folder: int, path: int) -> Device | None:
        """Return the device a path leads to, if the program has it and it is not the kernel's.

        Raises:
            OSError: ENOENT for a device that the machine may have and the program has not.
        """
        device = _device(call, folder, path)
        if device is None or (self._rdev is not None and device not in TPMS):
            return None
        needed = {Device.NSM: self._nsm, Device.VSOCK: self}.get(device, self._tpm)
        if needed is None:
            raise refuse(errno.ENOENT)
        return device

    def _open(self, call: Syscall, folder: int, path: int, flags: int) -> int | Outcome:
        device = self._device(call, folder, path)
        if device is None:
            return Outcome.CONTINUE
        if flags & os.O_CREAT and flags & os.O_EXCL:
            return -errno.EEXIST
        if flags & os.O_DIRECTORY:
            return -errno.ENOTDIR
        if device in TPMS and self._tpm is not None:
            return self._tpm.open(call, flags, alone=device is Device.TPM0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
            opened.setblocking(not flags & os.O_NONBLOCK)
            self._opened.add(os.fstat(opened.fileno()).st_ino, device)
            log.debug("open /dev/%s", device.name.lower())
            return self._listener.hand_over(
                call, opened.fileno(), close_on_exec=bool(flags & os.O_CLOEXEC)
            )

    def _openat2(self, call: Syscall) -> int | Outcome:
        if self._device(call, call.arguments[0], call.arguments[1]) is None:
            return Outcome.CONTINUE
        # struct open_how begins with the flags, 64 bits wide (<linux/openat2.h>).
        flags = int.from_bytes(memory.read(call.thread, call.arguments[2], 8), "little")
        return self._open(call, call.arguments[0], call.arguments[1], flags)

    def _stat(self, call: Syscall, folder: int, path: int, result: int) -> int | Outcome:
        device = self._device(call, folder, path)
        if device is None:
            return Outcome.CONTINUE
        return self._write(call, result, self._architecture.device_stat(device.value))

    def _statx(self, call: Syscall) -> int | Outcome:
        device = self._device(call, call.arguments[0], call.arguments[1])
        if device is None:
            return Outcome.CONTINUE
        minor = device.value
        return self._write(
            call,
            call.arguments[4],
            abi.STATX.pack(
                abi.STATX_BASIC_STATS, 4096, 0, 1, 0, 0, abi.DEVICE_MODE, minor, 0, 0, 0,
                abi.MISC_MAJOR, minor, 0, 0,
            ),
        )  # fmt: skip

    def _access(self, call: Syscall, folder: int, path: int, mode: int) -> int | Outcome:
        if self._device(call, folder, path) is None:
            return Outcome.CONTINUE
        return -errno.EACCES if mode & os.X_OK else 0

    def _write(self, call: Syscall, address: int, data: bytes) -> int | Outcome:
        if self._listener.waits(call):
            memory.write(call.thread, address, data)
        return 0

    def _ioctl(self, call: Syscall) -> int | Outcome:
        device = self._device_behind(call)
        command = call.arguments[1] & 0xFFFF_FFFF
        match device, command:
            case Device.NSM, abi.NSM_IOCTL_RAW if self._nsm is not None:
                return self._exchange(call, call.arguments[2], self._nsm)
            case Device.NSM, _:
                return -errno.EINVAL
            case Device.VSOCK, abi.IOCTL_VM_SOCKETS_GET_LOCAL_CID:
                return self._write(call, call.arguments[2], self._cid.to_bytes(4, "little"))
            case _:
                return Outcome.CONTINUE

    def _device_behind(self, call: Syscall) -> Device | None:
        """Return the device that a call's file descriptor has open."""
        if self._rdev is None:
            inode = socket_inode(call.thread, abi.signed(call.arguments[0]))
            return None if inode is None else self._opened.get(inode)
        try:
            fd = borrow(call.thread, abi.signed(call.arguments[0]))
        except PermissionError:
            raise
        except OSError:
            return None  # The kernel gives the error itself.
        try:
            status = os.fstat(fd)
            if not stat.S_ISCHR(status.st_mode) or status.st_rdev != self._rdev:
                return None
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
                return None
            # The name it was opened by: /dev/null may be the same device.
            name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))  # noqa: PTH115, PTH119
        finally:
            os.close(fd)
        return _NAMES.get(name)

    def _exchange(self, call: Syscall, address: int, nsm: NsmDevice) -> int | Outcome:
        """NSM_IOCTL_RAW, check for check as drivers/misc/nsm.c has it."""
        thread = call.thread
        request_at, request_size, response_at, response_size = abi.NSM_RAW.unpack(
            memory.read(thread, address, abi.NSM_RAW.size)
        )
        if request_size > abi.NSM_REQUEST_MAX_SIZE:
            return -errno.EMSGSIZE
        request = memory.read(thread, request_at, request_size)
        if not request:
            # The real device wedges, and the driver gives up after 120 s with this error.
            return -errno.ETIMEDOUT
        if not self._listener.waits(call):
            return 0
        # Before Linux 5.19 a signal may interrupt a request that has had its effect: the same one,
        # when it comes again, gets that response.
        earlier, response = self._undelivered.pop(thread, (b"", b""))
        if earlier != request:
            response = nsm.exchange(request)
        whole = response
        # The driver truncates silently and reports how much it wrote.
        response = response[: min(response_size, abi.NSM_RESPONSE_MAX_SIZE)]
        memory.write(thread, response_at, response)
        memory.write(
            thread,
            address,
            abi.NSM_RAW.pack(request_at, request_size, response_at, len(response)),
        )
        log.debug("NSM request of %d bytes, response of %d", len(request), len(response))
        if not self._listener.answer(call, 0):
            while len(self._undelivered) >= _UNDELIVERED_MOST:
                self._undelivered.pop(next(iter(self._undelivered)))
            self._undelivered[thread] = request, whole
        return Outcome.ANSWERED


def _device(call: Syscall, folder: int, path: int) -> Device | None:
    """Return the device a path leads to. Links are not followed: nothing links to these."""
    try:
        text = memory.read_string(call.thread, path)
        if not text.endswith(_ENDS):
            return None
        if not text.startswith(b"/"):
            folder = abi.signed(folder)
            place = "cwd" if folder == abi.AT_FDCWD else f"fd/{folder}"
            text = os.fsencode(Path(f"/proc/{call.thread}/{place}").readlink()) + b"/" + text
    except PermissionError:
        raise
    except OSError:
        return None  # A bad pointer or descriptor: the kernel gives the error itself.
    return _PATHS.get(b"/" + os.path.normpath(text).lstrip(b"/"))
