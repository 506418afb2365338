"""``/dev/nsm`` and ``/dev/vsock`` as a program sees them: opening, looking at, ioctl.

An open device is an unconnected UNIX socket: it can be polled, duplicated and inherited, cannot
be sought, and answers `read` with EINVAL, all as the NSM's driver does.
"""

from __future__ import annotations

import enum
import errno
import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from enclave_simulator.launcher import abi, memory
from enclave_simulator.launcher.notification import Call, Listener, Outcome
from enclave_simulator.launcher.process import socket_inode

if TYPE_CHECKING:
    from collections.abc import Callable

    from enclave_simulator.launcher.sockets import Inodes

log = logging.getLogger(__name__)


class NsmDevice(Protocol):
    """What answers the NSM's messages; one at a time, as the driver sees to it."""

    def exchange(self, request: bytes) -> bytes:
        """Answer one CBOR request of 1..4096 bytes with at most 12288 bytes."""
        ...


class Device(enum.Enum):
    """The devices there are, with the minor numbers that `stat` shows (any would do)."""

    NSM = 144
    VSOCK = 121


_PATHS = {b"/dev/nsm": Device.NSM, b"/dev/vsock": Device.VSOCK}
_ENDS = (b"nsm", b"vsock")


class Devices:
    """Handlers for the system calls about files."""

    def __init__(
        self,
        listener: Listener,
        architecture: abi.Architecture,
        nsm: NsmDevice,
        cid: int,
        opened: Inodes[Device],
    ) -> None:
        self._listener = listener
        self._architecture = architecture
        self._nsm = nsm
        self._cid = cid
        self._opened = opened
        self.handlers: dict[str, Callable[[Call], int | Outcome]] = {
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

    def _open(self, call: Call, folder: int, path: int, flags: int) -> int | Outcome:
        device = _device(call, folder, path)
        if device is None:
            return Outcome.CONTINUE
        if flags & os.O_CREAT and flags & os.O_EXCL:
            return -errno.EEXIST
        if flags & os.O_DIRECTORY:
            return -errno.ENOTDIR
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
            opened.setblocking(not flags & os.O_NONBLOCK)
            self._opened.add(os.fstat(opened.fileno()).st_ino, device)
            log.debug("open /dev/%s", device.name.lower())
            return self._listener.hand_over(
                call, opened.fileno(), close_on_exec=bool(flags & os.O_CLOEXEC)
            )

    def _openat2(self, call: Call) -> int | Outcome:
        if _device(call, call.arguments[0], call.arguments[1]) is None:
            return Outcome.CONTINUE
        # struct open_how begins with the flags, 64 bits wide (<linux/openat2.h>).
        flags = int.from_bytes(memory.read(call.thread, call.arguments[2], 8), "little")
        return self._open(call, call.arguments[0], call.arguments[1], flags)

    def _stat(self, call: Call, folder: int, path: int, result: int) -> int | Outcome:
        device = _device(call, folder, path)
        if device is None:
            return Outcome.CONTINUE
        return self._write(call, result, self._architecture.device_stat(device.value))

    def _statx(self, call: Call) -> int | Outcome:
        device = _device(call, call.arguments[0], call.arguments[1])
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

    def _access(self, call: Call, folder: int, path: int, mode: int) -> int | Outcome:
        if _device(call, folder, path) is None:
            return Outcome.CONTINUE
        return -errno.EACCES if mode & os.X_OK else 0

    def _write(self, call: Call, address: int, data: bytes) -> int | Outcome:
        if self._listener.waits(call):
            memory.write(call.thread, address, data)
        return 0

    def _ioctl(self, call: Call) -> int | Outcome:
        inode = socket_inode(call.thread, abi.signed(call.arguments[0]))
        device = None if inode is None else self._opened.get(inode)
        command = call.arguments[1] & 0xFFFF_FFFF
        match device, command:
            case Device.NSM, abi.NSM_IOCTL_RAW:
                return self._exchange(call, call.arguments[2])
            case Device.NSM, _:
                return -errno.EINVAL
            case Device.VSOCK, abi.IOCTL_VM_SOCKETS_GET_LOCAL_CID:
                return self._write(call, call.arguments[2], self._cid.to_bytes(4, "little"))
            case _:
                return Outcome.CONTINUE

    def _exchange(self, call: Call, address: int) -> int:
        """NSM_IOCTL_RAW, check for check as drivers/misc/nsm.c has it."""
        thread = call.thread
        request_at, request_size, response_at, response_size = abi.NSM_RAW.unpack(
            memory.read(thread, address, abi.NSM_RAW.size)
        )
        if request_size > abi.NSM_REQUEST_MAX_SIZE:
            return -errno.EMSGSIZE
        request = memory.read(thread, request_at, request_size)
        if not request:
            # The real device wedges and the driver gives up after 120 s: this is its answer.
            return -errno.ETIMEDOUT
        if not self._listener.waits(call):
            return 0
        response = self._nsm.exchange(request)[: abi.NSM_RESPONSE_MAX_SIZE]
        # The driver truncates silently and says how much it wrote.
        response = response[:response_size]
        memory.write(thread, response_at, response)
        memory.write(
            thread,
            address,
            abi.NSM_RAW.pack(request_at, request_size, response_at, len(response)),
        )
        log.debug("NSM request of %d bytes, response of %d", len(request), len(response))
        return 0


def _device(call: Call, folder: int, path: int) -> Device | None:
    """The device a path leads to. Links are not followed: nothing links to these."""
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
        return None  # A bad pointer or descriptor: the kernel will say so itself.
    return _PATHS.get(b"/" + os.path.normpath(text).lstrip(b"/"))
