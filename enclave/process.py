"""Keep this process's memory to itself: no core file, no reading by other processes of its user.

A program calls `protect_memory` as it starts; importing the library changes nothing.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys

log = logging.getLogger(__name__)

_PR_SET_DUMPABLE = 4
"""prctl(2), <linux/prctl.h>."""

_M_ARENA_MAX = -8
"""mallopt(3), <malloc.h> of glibc."""


def protect_memory() -> None:
    """Make this process not dumpable, and set its soft limit on core files to zero.

    A process that is not dumpable writes no core file, whatever the limit and wherever the kernel
    sends cores, and other processes of the same user cannot attach to it or read its memory
    (ptrace(2), "Ptrace access mode checking"); root can. Child processes keep the limit, and are
    dumpable again once they execute another program. docs/trust.md has the consequences. Elsewhere
    than on Linux it does nothing but warn.
    """
    if sys.platform != "linux":
        log.warning("cannot protect this process's memory: that takes Linux")
        return
    import resource  # noqa: PLC0415 (Windows has none)

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    except (OSError, ValueError) as e:
        log.warning("cannot switch core files off: %s", e)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        log.warning("cannot protect this process's memory: %s", os.strerror(ctypes.get_errno()))


def limit_heaps(count: int) -> None:
    """Have all threads share `count` heaps, where the C library (glibc) would make one for each.

    A heap keeps what its thread has freed: with the threads of an endpoint that is a megabyte of
    resident memory. In an enclave memory is set aside for good.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none, and one heap
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, count)
