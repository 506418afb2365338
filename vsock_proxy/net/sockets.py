"""Stream sockets for the relay, and the TCP options it sets.

`Stream` leaves out what `socket.socket` adds to the kernel's socket: a connection takes 65 us of
CPU, of which `socket.socket` would be 3. A listener passes its TCP options on to the sockets that
it accepts (Linux).
"""

from __future__ import annotations

import select
import socket

Stream = socket.SocketType
"""The base class of `socket.socket`: no enumerations for the family, no file objects."""

# macOS and Windows do not have the flag. The relay needs Linux; others import this module.
_OPTIONS = int(socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0))

KEEPALIVE_IDLE = 60
KEEPALIVE_INTERVAL = 10
KEEPALIVE_PROBES = 6
"""A peer that vanished is noticed 60 + 6 x 10 s after its last byte."""

INTERNET = (socket.AF_INET, socket.AF_INET6)


def open_stream(family: socket.AddressFamily) -> Stream:
    """Open a non-blocking stream socket. Raises OSError as `socket.socket` does."""
    return Stream(family, _OPTIONS)


def accept(listener: socket.socket, family: int) -> tuple[Stream, object]:
    """Accept a connection; return its non-blocking socket and its peer's address.

    Args:
        listener: a listening stream socket.
        family: of its addresses; looked up once by the caller, because that is slow.

    Raises:
        OSError: as `socket.accept` does.
    """
    # socket.accept calls this. It exists since Python 3.2, and has no public name.
    fd, peer = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001
    stream = Stream(family, socket.SOCK_STREAM, 0, fd)
    stream.setblocking(False)  # noqa: FBT003 (the standard library's signature)
    return stream, peer


def set_tcp_options(tcp: Stream) -> None:
    """Set no delay for small writes, and urgent bytes in line, so that none is lost."""
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def set_keepalive(tcp: Stream) -> None:
    """Have the kernel probe a silent peer."""
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def wait_ready(fd: int, events: int, seconds: float | None = None) -> bool:
    """Wait until a descriptor is ready, or in error; return whether it is.

    Unlike `select.select`, which raises ValueError for a descriptor of 1,024 and more.

    Args:
        fd: the descriptor.
        events: `select.POLLIN` or `select.POLLOUT`.
        seconds: the longest wait; None: for ever.
    """
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(None if seconds is None else 1000 * seconds))
