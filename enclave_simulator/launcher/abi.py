"""What the kernel's headers say: numbers, structures and system call tables.

Only what the launcher uses. Sources: <linux/seccomp.h>, <linux/audit.h>, <linux/nsm.h>,
<linux/vm_sockets.h>, <asm/unistd_64.h> for x86_64 and <asm-generic/unistd.h> for aarch64.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from dataclasses import dataclass

# --- seccomp user notification (<linux/seccomp.h>, seccomp_unotify(2)) ---

SECCOMP_RET_ERRNO = 0x0005_0000
SECCOMP_RET_USER_NOTIF = 0x7FC0_0000
SECCOMP_RET_ALLOW = 0x7FFF_0000

SECCOMP_USER_NOTIF_FLAG_CONTINUE = 1
SECCOMP_ADDFD_FLAG_SETFD = 1
SECCOMP_ADDFD_FLAG_SEND = 2

SECCOMP_IOCTL_NOTIF_RECV = 0xC050_2100
SECCOMP_IOCTL_NOTIF_SEND = 0xC018_2101
SECCOMP_IOCTL_NOTIF_ID_VALID = 0x4008_2102
SECCOMP_IOCTL_NOTIF_ADDFD = 0x4018_2103
SECCOMP_IOCTL_NOTIF_SET_FLAGS = 0x4008_2104
SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP = 1

NOTIFICATION = struct.Struct("=QIIiIQ6Q")
"""struct seccomp_notif: id, pid, flags, then nr, arch, instruction pointer, six arguments."""

RESPONSE = struct.Struct("=QqiI")
"""struct seccomp_notif_resp: id, val, error, flags."""

TPM_DESCRIPTORS = range(0x300, 0x400)
"""Numbers of open TPMs in a program, by which a filter tells them; below the usual limit."""

ADDFD = struct.Struct("=QIIII")
"""struct seccomp_notif_addfd: id, flags, srcfd, newfd, newfd_flags."""

ERESTARTSYS = 512
"""In the kernel only (<linux/errno.h>): with a signal pending it becomes a restart or EINTR,
whichever the handler's SA_RESTART asks for."""

# --- the NSM's driver (<linux/nsm.h>) ---

NSM_IOCTL_RAW = 0xC020_0A00
NSM_IOCTL_MAGIC = 0x0A
NSM_REQUEST_MAX_SIZE = 0x1000
NSM_RESPONSE_MAX_SIZE = 0x3000
NSM_RAW = struct.Struct("=QQQQ")
"""struct nsm_raw: request address and length, response address and length."""

# --- vsock (<linux/vm_sockets.h>) ---

AF_VSOCK = 40
VMADDR_CID_ANY = VMADDR_PORT_ANY = 0xFFFF_FFFF
VMADDR_CID_LOCAL = 1
VMADDR_FLAG_TO_HOST = 1
SOCKADDR_VM = struct.Struct("=HHIIB3x")
"""struct sockaddr_vm: family, reserved, port, cid, flags."""

IOCTL_VM_SOCKETS_GET_LOCAL_CID = 0x7B9

SO_VM_SOCKETS_BUFFER_SIZE = 0
SO_VM_SOCKETS_BUFFER_MIN_SIZE = 1
SO_VM_SOCKETS_BUFFER_MAX_SIZE = 2
SO_VM_SOCKETS_CONNECT_TIMEOUT = 6
SO_VM_SOCKETS_CONNECT_TIMEOUT_NEW = 8
SO_DOMAIN = 39
SO_PASSRIGHTS = 83
"""Whether a UNIX socket takes SCM_RIGHTS (Linux 6.16 and later)."""

# --- files ---

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
DEVICE_MODE = stat.S_IFCHR | 0o666
MISC_MAJOR = 10

STATX = struct.Struct("=IIQIIIHxxQQQQ64xIIII112x")
"""struct statx up to stx_dev_minor: mask, blksize, attributes, nlink, uid, gid, mode, ino,
size, blocks, attributes_mask, four timestamps, rdev major and minor, dev major and minor."""

STATX_BASIC_STATS = 0x7FF


@dataclass(frozen=True)
class Architecture:
    """One system call ABI.

    Attributes:
        audit: AUDIT_ARCH_* as seccomp sees it.
        syscalls: numbers by name; names an ABI lacks are not in it.
        stat: struct stat as 64-bit programs get it.
    """

    audit: int
    syscalls: dict[str, int]
    stat: struct.Struct

    def device_stat(self, minor: int) -> bytes:
        """Return a struct stat of a character device that everybody may read and write."""
        rdev = os.makedev(MISC_MAJOR, minor)
        if self is X86_64:
            return self.stat.pack(0, minor, 1, DEVICE_MODE, 0, 0, rdev, 0, 4096, 0)
        return self.stat.pack(0, minor, DEVICE_MODE, 1, 0, 0, rdev, 0, 4096, 0)


X86_64 = Architecture(
    audit=0xC000_003E,
    syscalls={
        "stat": 4, "lstat": 6, "newfstatat": 262, "statx": 332,
        "access": 21, "faccessat": 269, "faccessat2": 439,
        "open": 2, "creat": 85, "openat": 257, "openat2": 437,
        "ioctl": 16, "read": 0,
        "socket": 41, "connect": 42, "accept": 43, "accept4": 288, "bind": 49,
        "getsockname": 51, "getpeername": 52, "setsockopt": 54, "getsockopt": 55,
        "shutdown": 48, "socketpair": 53,
        "sendto": 44, "sendmsg": 46, "recvfrom": 45, "recvmsg": 47,
        "io_uring_setup": 425, "prctl": 157,
    },
    stat=struct.Struct("=QQQIII4xQqqq72x"),
)  # fmt: skip

AARCH64 = Architecture(
    audit=0xC000_00B7,
    syscalls={
        "newfstatat": 79, "statx": 291,
        "faccessat": 48, "faccessat2": 439,
        "openat": 56, "openat2": 437,
        "ioctl": 29, "read": 63,
        "socket": 198, "connect": 203, "accept": 202, "accept4": 242, "bind": 200,
        "getsockname": 204, "getpeername": 205, "setsockopt": 208, "getsockopt": 209,
        "shutdown": 210, "socketpair": 199,
        "sendto": 206, "sendmsg": 211, "recvfrom": 207, "recvmsg": 212,
        "io_uring_setup": 425, "prctl": 167,
    },
    stat=struct.Struct("=QQIIIIQ8xqi4xq56x"),
)  # fmt: skip

ARCHITECTURES = {"x86_64": X86_64, "aarch64": AARCH64}
"""By `os.uname().machine`."""


def signed(value: int) -> int:
    """Return the low half of a register as the C int that the kernel takes it for."""
    value &= 0xFFFF_FFFF
    return value - 0x1_0000_0000 if value & 0x8000_0000 else value


# --- system calls that Python has no name for ---

_libc = ctypes.CDLL(None, use_errno=True)
_SYS_PIDFD_GETFD = 438  # the same on every architecture (since Linux 5.6)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """Duplicate another process's file descriptor; it is close-on-exec here.

    Raises:
        OSError: as pidfd_getfd(2) says.
    """
    result: int = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
