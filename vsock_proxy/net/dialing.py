"""Connects a socket to an address, blocking, with a timeout."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from typing import Any, Protocol

from vsock_proxy.errors import DialError
from vsock_proxy.net import http_connect, hybrid
from vsock_proxy.net.addresses import (
    Address,
    ConnectProxy,
    HybridAddress,
    TcpAddress,
    TunnelAddress,
    UnixAddress,
    VsockAddress,
)
from vsock_proxy.net.ports import CREDENTIALS_PORT, LOG_PORT
from vsock_proxy.net.resolving import look_up_within

_TUNNEL_HINT = "is the host on the parent's egress allowlist, and can the parent reach it?"

_SHORTEST = 0.001
"""Seconds. A timeout of 0 would mean non-blocking to Python, and no timeout to the kernel."""


class Dialer(Protocol):
    """Makes connections. Production code uses `SocketDialer`, tests their own."""

    def dial(self, address: Address, timeout: float) -> socket.socket:
        """Return a connected stream socket, within `timeout` seconds.

        The socket has `timeout` as its timeout, and TCP_NODELAY if it is a TCP socket.

        Raises:
            DialError: no connection; `reason` says why.
        """
        ...


class SocketDialer:
    """Connects vsock, UNIX and TCP sockets."""

    def dial(self, address: Address, timeout: float) -> socket.socket:
        """See `Dialer.dial`."""
        try:
            match address:
                case VsockAddress(cid, port):
                    return _connect(socket.AF_VSOCK, (cid, port), timeout)
                case UnixAddress(path):
                    return _connect(socket.AF_UNIX, path, timeout)
                case HybridAddress():
                    return _connect_hybrid(address, timeout)
                case TcpAddress(host, port):
                    return _connect_tcp(host, port, timeout)
        except TimeoutError as e:
            raise DialError(
                str(address), f"no response within {timeout:g} s", hint=_hint(address, None)
            ) from e
        except OSError as e:
            raise DialError(str(address), reason_of(e), hint=_hint(address, e.errno)) from e


class ConnectDialer:
    """Connects to TCP addresses through an HTTP proxy (`http_connect`), which looks names up.

    Args:
        proxy: where it listens.
        dialer: connects to it, and to addresses of other kinds.
    """

    def __init__(self, proxy: ConnectProxy, dialer: Dialer | None = None) -> None:
        self.proxy = proxy
        self._dialer = dialer or SocketDialer()

    def dial(self, address: Address, timeout: float) -> socket.socket:
        """See `Dialer.dial`."""
        if not isinstance(address, TcpAddress):
            return self._dialer.dial(address, timeout)
        tunnel = self.proxy.to(address.host, address.port)
        deadline = time.monotonic() + timeout
        connected = self._dialer.dial(tunnel.via, timeout)
        try:
            _connect_tunnel(connected, tunnel, deadline)
            connected.settimeout(timeout)
        except TimeoutError as e:
            connected.close()
            raise DialError(str(tunnel), f"no response within {timeout:g} s") from e
        except OSError as e:
            connected.close()
            raise DialError(str(tunnel), reason_of(e), hint=_TUNNEL_HINT) from e
        except BaseException:
            connected.close()
            raise
        return connected


def _connect_tunnel(connected: socket.socket, tunnel: TunnelAddress, deadline: float) -> None:
    reader = http_connect.HeadReader(socket.MSG_PEEK)
    connected.sendall(http_connect.request(tunnel.host, tunnel.port))
    try:
        head = reader.read(_WithDeadline(connected, deadline))
    except http_connect.RequestError as e:
        raise http_connect.TunnelRefusedError(0, e.reason) from e
    http_connect.check_response(head)


class _WithDeadline:
    """A socket whose every wait ends at one moment."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._connected = connected
        self._deadline = deadline

    def recv(self, count: int, flags: int = 0) -> bytes:
        self._connected.settimeout(max(self._deadline - time.monotonic(), _SHORTEST))
        return self._connected.recv(count, flags)


def _connect_tcp(host: str, port: int, timeout: float) -> socket.socket:
    """Try every address of a host, each with its share of the time."""
    deadline = time.monotonic() + timeout
    candidates = look_up_within(timeout, host, port)
    error = OSError("the name has no address")
    for tried, (family, name) in enumerate(candidates):
        share = (deadline - time.monotonic()) / (len(candidates) - tried)
        try:
            connected = _connect(family, name, max(share, _SHORTEST))
        except OSError as e:
            error = e
        else:
            connected.settimeout(timeout)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connected
    raise error


def _connect(family: int, name: tuple[Any, ...] | str, timeout: float) -> socket.socket:
    connecting = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == getattr(socket, "AF_UNIX", None):  # Windows has none
            _connect_unix(connecting, name, timeout)
        else:
            connecting.settimeout(timeout)
            connecting.connect(name)
        connecting.settimeout(timeout)
    except BaseException:
        connecting.close()
        raise
    return connecting


def _connect_hybrid(address: HybridAddress, timeout: float) -> socket.socket:
    deadline = time.monotonic() + timeout
    connected = _connect(socket.AF_UNIX, address.path, timeout)
    response = hybrid.Response()

    def recv(count: int) -> bytes:
        connected.settimeout(max(deadline - time.monotonic(), _SHORTEST))
        return connected.recv(count)

    try:
        connected.sendall(hybrid.request(address.port))
        response.read(recv)
        connected.settimeout(timeout)
    except BaseException:
        connected.close()
        raise
    return connected


def _connect_unix(connecting: socket.socket, name: tuple[Any, ...] | str, timeout: float) -> None:
    """Connect, and wait while the backlog is full.

    Python's timeout makes the connect non-blocking, which fails at once if the backlog is full,
    and no event tells when to retry (unix(7)). The kernel's own timeout waits.
    """
    _set_send_timeout(connecting, max(timeout, _SHORTEST))
    try:
        connecting.connect(name)
    except BlockingIOError:
        raise TimeoutError from None
    _set_send_timeout(connecting, 0)


def _set_send_timeout(unix: socket.socket, seconds: float) -> None:
    whole, rest = divmod(seconds, 1)
    timeval = struct.pack("@ll", int(whole), int(rest * 1e6))
    unix.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)


def reason_of(error: OSError) -> str:
    """Describe an error in a few words, without its number."""
    if isinstance(error, socket.gaierror):
        return f"the name does not resolve ({error.strerror})"
    if error.errno is None:
        return str(error)
    return os.strerror(error.errno)


_SERVICES = {
    CREDENTIALS_PORT: "enclave-parent, with a section `credentials`,",
    LOG_PORT: "enclave-parent, with a section `logs`,",
}


def _hint(address: Address, code: int | None) -> str:
    if isinstance(address, VsockAddress):
        if code in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
            return "this kernel has no vsock: run inside an enclave, or under the simulator"
        service = _SERVICES.get(address.port, "vsock-proxy")
        return f"is {service} running on the parent, on port {address.port}?"
    if isinstance(address, UnixAddress | HybridAddress):
        return "is something listening there, and may this user connect to it?"
    return ""
