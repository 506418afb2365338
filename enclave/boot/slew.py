"""Correct a small drift of the system clock gradually (adjtime(3))."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Timeval(ctypes.Structure):
    """A struct timeval: microseconds are 0..999999, seconds may be negative."""

    _fields_ = (("tv_sec", ctypes.c_long), ("tv_usec", ctypes.c_long))


def slew_clock(seconds: float, *, _adjtime: Callable[..., int] | None = None) -> None:
    """Have the kernel move the clock by `seconds`, 0.5 ms in each second, never backwards.

    It replaces a correction that is still going on. Needs CAP_SYS_TIME.

    Raises:
        OSError: the kernel refused.
    """
    adjtime = _adjtime or ctypes.CDLL(None, use_errno=True).adjtime
    delta = Timeval(*divmod(round(seconds * 1e6), 1_000_000))
    if adjtime(ctypes.byref(delta), None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
