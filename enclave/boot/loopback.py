"""Bring `lo` up: Nitro's init does not, and 127.0.0.1 cannot be reached before."""

from __future__ import annotations

import fcntl
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
"""Read and set an interface's flags (netdevice(7); <linux/sockios.h>)."""

IFF_UP = 0x1

_IFREQ = struct.Struct("=16sh22x")
"""struct ifreq with its ifr_flags, 40 bytes on every 64-bit Linux (<linux/if.h>)."""


def raise_loopback(*, _ioctl: Callable[[socket.socket, int, bytes], bytes] = fcntl.ioctl) -> bool:
    """Bring `lo` up; return False if it was up already.

    Needs CAP_NET_ADMIN. The kernel adds the address 127.0.0.1/8 when the interface
    comes up without one (net/ipv4/devinet.c, ``inetdev_event``).

    Raises:
        OSError: the kernel refused.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        ifreq = _ioctl(any_socket, SIOCGIFFLAGS, _IFREQ.pack(b"lo", 0))
        flags: int = _IFREQ.unpack(ifreq)[1]
        if flags & IFF_UP:
            return False
        _ioctl(any_socket, SIOCSIFFLAGS, _IFREQ.pack(b"lo", flags | IFF_UP))
        return True
