"""Reading and writing the memory of a thread that waits in a system call.

process_vm_readv(2) rather than /proc/PID/mem: it names the thread each time, so there is no
open file that could still show the memory of the program before an exec.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

_PAGE: Final = 4096
"""The smallest page there is; reads stop at its multiples so that a string that ends just
before an unmapped page is read."""

PATH_MAX = 4096


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_uint64), ("length", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)
_TRANSFER = (ctypes.c_int, ctypes.POINTER(_Iovec), ctypes.c_ulong,
             ctypes.POINTER(_Iovec), ctypes.c_ulong, ctypes.c_ulong)  # fmt: skip
_libc.process_vm_readv.argtypes = _TRANSFER
_libc.process_vm_readv.restype = ctypes.c_ssize_t
_libc.process_vm_writev.argtypes = _TRANSFER
_libc.process_vm_writev.restype = ctypes.c_ssize_t


def read(thread: int, address: int, size: int) -> bytes:
    """Exactly `size` bytes; the caller has bounded it.

    Raises:
        OSError: EFAULT for a bad address, ESRCH for a dead thread, EPERM where the kernel
            does not let this process look.
    """
    if size == 0:
        return b""
    data = _read_some(thread, address, size)
    if len(data) < size:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    return data


def read_string(thread: int, address: int, limit: int = PATH_MAX) -> bytes:
    """Read a C string, without its NUL.

    Raises:
        OSError: as `read`; ENAMETOOLONG where no NUL comes within `limit` bytes.
    """
    text = b""
    while len(text) < limit:
        # Most paths are short: ask for little, and never across a page's end.
        size = min(128 if not text else _PAGE, _PAGE - address % _PAGE, limit - len(text))
        part = _read_some(thread, address, size)
        text_part, nul, _ = part.partition(b"\0")
        text += text_part
        if nul:
            return text
        if len(part) < size:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        address += size
    raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def write(thread: int, address: int, data: bytes) -> None:
    """All of `data`.

    Raises:
        OSError: as `read`.
    """
    if not data:
        return
    buffer = ctypes.create_string_buffer(data, len(data))
    local = _Iovec(ctypes.addressof(buffer), len(data))
    remote = _Iovec(address, len(data))
    written = _libc.process_vm_writev(thread, local, 1, remote, 1, 0)
    _check(written)
    if written < len(data):
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))


def _read_some(thread: int, address: int, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    local = _Iovec(ctypes.addressof(buffer), size)
    remote = _Iovec(address, size)
    count: int = _libc.process_vm_readv(thread, local, 1, remote, 1, 0)
    _check(count)
    return buffer.raw[:count]


def _check(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
