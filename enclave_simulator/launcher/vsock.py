"""AF_VSOCK as a program sees it, on AF_UNIX sockets: the life cycle of connections.

Errors are those of net/vmw_vsock/af_vsock.c with the virtio transport.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from enclave_simulator.launcher import abi, memory
from enclave_simulator.launcher.notification import Listener, Outcome, Syscall
from enclave_simulator.launcher.program_sockets import (
    Access,
    inode_of,
    read_int,
    refuse_descriptors,
)
from enclave_simulator.launcher.sockets import UNBOUND, State, VsockSocket, VsockTable
from vsock_proxy.net.addresses import VsockAddress

if TYPE_CHECKING:
    from collections.abc import Callable

    from enclave_simulator.launcher.accept_calls import Accepts

log = logging.getLogger(__name__)

_SO_ERROR = (socket.SOL_SOCKET, socket.SO_ERROR)
_TYPE_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_TYPES = 11
"""SOCK_MAX (<linux/net.h>): above every type of socket there is."""

_NO_PEER = struct.pack("=Iii", 0, -1, -1)
"""struct ucred: a kernel's vsock does not say what process is at the other end."""


class Vsock:
    """Handlers for the system calls about sockets."""

    def __init__(
        self, listener: Listener, access: Access, table: VsockTable, accepts: Accepts
    ) -> None:
        self._listener = listener
        self._access = access
        self._table = table
        self.handlers: dict[str, Callable[[Syscall], int | Outcome]] = {
            "socket": self._socket,
            "bind": self._if_ours(self._bind),
            "connect": self._if_ours(self._connect),
            "shutdown": self._if_ours(_shutdown),
            "accept": self._if_ours(lambda call, _: accepts.accept(call, 0)),
            "accept4": self._if_ours(
                lambda call, _: accepts.accept(call, abi.signed(call.arguments[3]))
            ),
            "getsockname": self._if_ours(self._getsockname),
            "getpeername": self._if_ours(self._getpeername),
            "getsockopt": self._if_ours(self._getsockopt),
            "setsockopt": self._if_ours(self._setsockopt),
            # They stop if their flags have MSG_OOB.
            **dict.fromkeys(("sendto", "sendmsg"), self._if_ours(lambda *_: -errno.EOPNOTSUPP)),
            **dict.fromkeys(("recvfrom", "recvmsg"), self._if_ours(_receive_urgent)),
        }

    def _if_ours(
        self, handler: Callable[[Syscall, VsockSocket], int | Outcome]
    ) -> Callable[[Syscall], int | Outcome]:
        """Leave other sockets to the kernel: return a handler that does."""

        def handle(call: Syscall) -> int | Outcome:
            ours = self._access.find(call)
            return Outcome.CONTINUE if ours is None else handler(call, ours)

        return handle

    def _socket(self, call: Syscall) -> int | Outcome:
        kind, protocol = abi.signed(call.arguments[1]), abi.signed(call.arguments[2])
        flags, kind = kind & _TYPE_FLAGS, kind & ~_TYPE_FLAGS
        if not 0 <= kind < _TYPES:
            return -errno.EINVAL
        if protocol not in (0, abi.AF_VSOCK):
            return -errno.EPROTONOSUPPORT
        if kind == socket.SOCK_DGRAM:
            return -errno.ENODEV  # no transport of an enclave has datagrams
        if kind != socket.SOCK_STREAM:
            return -errno.ESOCKTNOSUPPORT
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as created:
            created.setblocking(not flags & socket.SOCK_NONBLOCK)
            refuse_descriptors(created)
            self._table.sockets.add(inode_of(created), VsockSocket())
            return self._access.hand_over(call, created, flags)

    def _bind(self, call: Syscall, ours: VsockSocket) -> int | Outcome:
        wanted = self._access.read_address(call)
        return self._once(call, ours, wanted, lambda: self._do_bind(call, ours, wanted))

    def _do_bind(self, call: Syscall, ours: VsockSocket, wanted: VsockAddress) -> int:
        if ours.local != UNBOUND:
            return -errno.EINVAL
        self._table.check_local(wanted.cid)
        with self._access.borrow(call) as bound:
            port = self._table.claim(inode_of(bound), wanted.port)
            path = self._table.listening_path(port)
            # The name may be left over from a socket that is gone: `claim` has looked.
            Path(path).unlink(missing_ok=True)
            bound.bind(path)
        ours.local = VsockAddress(wanted.cid, port)
        log.debug("bind %s: %s", ours.local, path)
        return 0

    def _connect(self, call: Syscall, ours: VsockSocket) -> int | Outcome:
        remote = self._access.read_address(call)
        return self._once(call, ours, remote, lambda: self._do_connect(call, ours, remote))

    def _do_connect(self, call: Syscall, ours: VsockSocket, remote: VsockAddress) -> int:
        if ours.state is State.CONNECTED:
            return -errno.EISCONN
        with self._access.borrow(call) as connecting:
            blocking = os.get_blocking(connecting.fileno())
            if ours.state is State.CONNECTING:
                return -_connect_again(ours, blocking=blocking)
            listens = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if ours.state is State.DISCONNECTING or listens:
                return -errno.EINVAL
            ours.error = 0
            code = self._dial(connecting, ours, remote)
            if blocking:
                return -code
            # The virtio transport never connects or fails at once, and programs should meet
            # here what they meet there: there are some that do not notice an immediate error.
            ours.error = code
            if code == errno.ECONNRESET:  # after a timeout, the socket may try again
                ours.state = State.CONNECTING
            _wake_pollers(connecting)
        return -errno.EINPROGRESS

    def _once(
        self,
        call: Syscall,
        ours: VsockSocket,
        address: VsockAddress,
        act: Callable[[], int],
    ) -> Outcome:
        """Do something once, although before Linux 5.19 a signal may have the call restarted."""
        made = call.number, address
        if ours.undelivered is not None and ours.undelivered[0] == made:
            result = ours.undelivered[1]
        else:
            result = act()
        delivered = self._listener.answer(call, result)
        ours.undelivered = None if delivered else (made, result)
        return Outcome.ANSWERED

    def _dial(self, connecting: socket.socket, ours: VsockSocket, remote: VsockAddress) -> int:
        """Connect a program's socket; return 0, or the error that vsock would end with."""
        fd = connecting.fileno()
        blocking = os.get_blocking(fd)
        try:
            path = self._table.path_to(remote)
            if ours.local == UNBOUND:
                port = self._table.free_port()
                connecting.bind(self._table.connecting_name(remote, port))
                ours.local = VsockAddress(abi.VMADDR_CID_ANY, port)
            # A UNIX socket connects at once, or waits while the other side's queue is full.
            # Where a UNIX socket would wait, vsock is reset: so never wait.
            os.set_blocking(fd, False)
            connecting.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError, PermissionError) as e:
            log.debug("connect %s: refused: %s: %s", remote, path, e.strerror)
            return errno.ECONNRESET
        except TimeoutError:
            log.debug("connect %s: timed out: no such CID", remote)
            return errno.ETIMEDOUT
        finally:
            os.set_blocking(fd, blocking)
        log.debug("connect %s: %s", remote, path)
        ours.remote, ours.state = remote, State.CONNECTED
        return 0

    def _getsockname(self, call: Syscall, ours: VsockSocket) -> int | Outcome:
        return self._access.write_address(call, ours.local)

    def _getpeername(self, call: Syscall, ours: VsockSocket) -> int | Outcome:
        if ours.remote is None or ours.state is not State.CONNECTED:
            return -errno.ENOTCONN
        return self._access.write_address(call, ours.remote)

    def _getsockopt(self, call: Syscall, ours: VsockSocket) -> int | Outcome:
        _, level, option, value_at, size_at, _ = call.arguments
        if abi.signed(level) not in (socket.SOL_SOCKET, abi.AF_VSOCK):
            return -errno.ENOPROTOOPT
        size = read_int(call, size_at)
        match abi.signed(level), abi.signed(option):
            case socket.SOL_SOCKET, socket.SO_ERROR:
                if not ours.error:
                    return Outcome.CONTINUE
                value = ours.error.to_bytes(4, "little")[: max(size, 0)]
            case socket.SOL_SOCKET, abi.SO_DOMAIN:
                value = abi.AF_VSOCK.to_bytes(4, "little")[: max(size, 0)]
            case socket.SOL_SOCKET, socket.SO_PEERCRED:
                value = _NO_PEER[: max(size, 0)]
            case abi.AF_VSOCK, name:
                value = ours.options.get(name)
            case _:
                return -errno.ENOPROTOOPT
        if size < len(value):
            return -errno.EINVAL
        if self._listener.waits(call):
            memory.write(call.thread, value_at, value)
            memory.write(call.thread, size_at, len(value).to_bytes(4, "little"))
        delivered = self._listener.answer(call, 0)
        if delivered and (abi.signed(level), abi.signed(option)) == _SO_ERROR:
            ours.error = 0
        return Outcome.ANSWERED

    def _setsockopt(self, call: Syscall, ours: VsockSocket) -> int | Outcome:
        _, level, option, value_at, size, _ = call.arguments
        if abi.signed(level) != abi.AF_VSOCK:
            return -errno.ENOPROTOOPT
        option = abi.signed(option)
        expected = len(ours.options.get(option))
        if abi.signed(size) < expected:
            return -errno.EINVAL
        ours.options.set(option, memory.read(call.thread, value_at, expected))
        return 0


def _shutdown(call: Syscall, ours: VsockSocket) -> int | Outcome:
    """shutdown(2), which the kernel does: a UNIX socket would take it in any state."""
    if socket.SHUT_RD <= abi.signed(call.arguments[1]) <= socket.SHUT_RDWR:
        if ours.state is State.UNCONNECTED:
            return -errno.ENOTCONN
        ours.state = State.DISCONNECTING
    return Outcome.CONTINUE


def _receive_urgent(_call: Syscall, ours: VsockSocket) -> int:
    connected = ours.state in (State.CONNECTED, State.DISCONNECTING)
    return -(errno.EOPNOTSUPP if connected else errno.ENOTCONN)


def _connect_again(ours: VsockSocket, *, blocking: bool) -> int:
    """Return the error of another connect after a non-blocking one was refused.

    The kernel goes on with the first one. So a non-blocking connect never gets beyond
    EALREADY, and a blocking one returns the first one's error, or, if SO_ERROR has been read, waits
    in vain: the two seconds are not simulated.
    """
    if not blocking:
        return errno.EALREADY
    code = ours.error or errno.ETIMEDOUT
    ours.error, ours.state = 0, State.UNCONNECTED
    return code


def _wake_pollers(connecting: socket.socket) -> None:
    """Wake an edge-triggered epoll, as the end of a vsock connect does.

    A UNIX socket's connect wakes none of its own pollers. Setting the size of the send buffer, to
    its present value, does (sock_setsockopt, sk_write_space).
    """
    doubled = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    connecting.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, doubled // 2)
