"""Opens and closes listening sockets."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

from vsock_proxy.errors import ListenError
from vsock_proxy.net.addresses import Address, HybridAddress, TcpAddress, UnixAddress, VsockAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKLOG = 1024
"""Connections the kernel may queue before it refuses; more than any burst seen."""


def listen(address: Address, *, backlog: int = BACKLOG) -> socket.socket:
    """Open a listening stream socket.

    A UNIX socket that a dead process left behind is replaced; one that is in use is not.

    Raises:
        ListenError: the address is in use, not permitted, or of a family this machine lacks.
    """
    if isinstance(address, HybridAddress):
        address = address.listening
    try:
        match address:
            case VsockAddress(cid, port):
                return _bound(socket.AF_VSOCK, (cid, port), backlog)
            case UnixAddress(path):
                _remove_stale(path)
                return _bound(socket.AF_UNIX, path, backlog)
            case TcpAddress(host, port):
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                return _bound(family, (host, port), backlog)
    except OSError as e:
        reason = os.strerror(e.errno) if e.errno else str(e)
        raise ListenError(str(address), reason, hint=_hint(address, e.errno)) from e


@contextlib.contextmanager
def listening(address: Address, *, backlog: int = BACKLOG) -> Iterator[socket.socket]:
    """Listen for the duration of a ``with`` block."""
    with listen(address, backlog=backlog) as server:
        bound = local_address(server)  # The socket may be closed within the block.
        try:
            yield server
        finally:
            _remove(bound)


def close_listener(server: socket.socket) -> None:
    """Close a listening socket, if it is open; a UNIX socket's path is removed first.

    Not afterwards: then it may be a successor's.
    """
    if server.fileno() >= 0:
        _remove(local_address(server))
        server.close()


def _remove(bound: Address) -> None:
    if isinstance(bound, UnixAddress):
        with contextlib.suppress(OSError):
            os.unlink(bound.path)  # noqa: PTH108 (a path, not a Path, is what we have)


def local_address(server: socket.socket) -> Address:
    """Return the address a socket is bound to, with the real port instead of 0."""
    name = server.getsockname()
    if server.family == socket.AF_UNIX:
        return UnixAddress(os.fsdecode(name))
    if server.family in (socket.AF_INET, socket.AF_INET6):
        return TcpAddress(name[0], name[1])
    return VsockAddress(*name)


def _bound(
    family: int, name: tuple[int, int] | tuple[str, int] | str, backlog: int
) -> socket.socket:
    server = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family in (socket.AF_INET, socket.AF_INET6):
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Linux's default, which net.ipv6.bindv6only changes: [::] takes IPv4 as well.
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(name)
        server.listen(backlog)
    except BaseException:
        server.close()
        raise
    return server


def _remove_stale(path: str) -> None:
    """Remove a socket that no process listens on, so that a crashed daemon can be restarted."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # noqa: FBT003
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)  # noqa: PTH108
        except BlockingIOError:
            return  # Its backlog is full, so it is in use: bind reports that.


def _hint(address: Address, code: int | None) -> str:
    if code in (errno.EADDRINUSE, errno.EEXIST):
        return "the address is in use: stop the other program, or choose another address"
    if code in (errno.EACCES, errno.EPERM):
        return "this user may not listen there: choose another address, or another user"
    if isinstance(address, VsockAddress) and code in (errno.EAFNOSUPPORT, errno.ENODEV):
        return "this machine has no vsock: on a parent instance, load the vsock module"
    return ""
