"""What the relay asks of TCP sockets. A listener hands all of it on to what it accepts (Linux)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vsock_proxy.streams import Stream

KEEPALIVE_IDLE = 60
KEEPALIVE_INTERVAL = 10
KEEPALIVE_PROBES = 6
"""A peer that vanished is noticed after 60 + 6 x 10 s without a byte from it."""

INTERNET = (socket.AF_INET, socket.AF_INET6)


def set_tcp_options(tcp: Stream) -> None:
    """No delay for small writes, and urgent bytes in line: a relay loses none."""
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def set_keepalive(tcp: Stream) -> None:
    """Have the kernel ask a silent peer whether it is still there."""
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
