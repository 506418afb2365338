"""Connecting to an address: the one place that turns an address into a connected socket."""

from __future__ import annotations

import errno
import os
import socket
from typing import Protocol

from vsock_proxy.addresses import Address, TcpAddress, UnixAddress, VsockAddress
from vsock_proxy.errors import DialError


class Dialer(Protocol):
    """Where connections come from. Tests hand in their own; production uses `SocketDialer`."""

    def dial(self, address: Address, timeout: float) -> socket.socket:
        """Connect a stream socket, in at most `timeout` seconds.

        The socket comes back connected, with `timeout` as its timeout and without Nagle's
        delay where the transport has one.

        Raises:
            DialError: no connection; its `reason` says why.
        """
        ...


class SocketDialer:
    """The operating system's sockets: vsock, UNIX and TCP."""

    def dial(self, address: Address, timeout: float) -> socket.socket:
        """See `Dialer.dial`."""
        try:
            match address:
                case VsockAddress(cid, port):
                    return _connect(socket.AF_VSOCK, (cid, port), timeout)
                case UnixAddress(path):
                    return _connect(socket.AF_UNIX, path, timeout)
                case TcpAddress(host, port):
                    connected = socket.create_connection((host, port), timeout)
                    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return connected
        except TimeoutError as e:
            raise DialError(
                str(address), f"no answer within {timeout:g} s", hint=_hint(address, None)
            ) from e
        except OSError as e:
            raise DialError(str(address), reason_of(e), hint=_hint(address, e.errno)) from e


def _connect(family: int, name: tuple[int, int] | str, timeout: float) -> socket.socket:
    connecting = socket.socket(family, socket.SOCK_STREAM)
    try:
        connecting.settimeout(timeout)
        connecting.connect(name)
    except BaseException:
        connecting.close()
        raise
    return connecting


def reason_of(error: OSError) -> str:
    """Say in a few words why the system refused, without its error number."""
    if isinstance(error, socket.gaierror):
        return f"the name does not resolve ({error.strerror})"
    if error.errno is None:
        return str(error)
    return os.strerror(error.errno)


def _hint(address: Address, code: int | None) -> str:
    if isinstance(address, VsockAddress):
        if code in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
            return "this kernel has no vsock: run inside an enclave, or under the simulator"
        return f"is vsock-proxy running on the parent, on port {address.port}?"
    if isinstance(address, UnixAddress):
        return "is something listening there, and may this user connect to it?"
    return ""
