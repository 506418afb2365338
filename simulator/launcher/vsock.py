"""AF_VSOCK as a program sees it, on AF_UNIX sockets: the life cycle of connections.

Errors are those of net/vmw_vsock/af_vsock.c with the virtio transport.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.launcher import abi, memory
from simulator.launcher.notification import Call, Listener, Outcome
from simulator.launcher.process import borrow, socket_inode, status
from simulator.launcher.sockets import UNBOUND, VsockSocket, VsockTable, refuse
from vsock_proxy.addresses import VsockAddress

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

_TYPE_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_SOCKADDR_MAX = 128  # struct sockaddr_storage, the most the kernel copies
_TIMEVAL_SIZE = 16
_SECOND = 1_000_000  # microseconds


@dataclass
class _Accept:
    """A thread in a blocking accept.

    Attributes:
        listening: our duplicate of its socket.
        flags: of accept4.
        deadline: monotonic seconds, from SO_RCVTIMEO; None waits for ever.
    """

    call: Call
    listening: socket.socket
    flags: int
    deadline: float | None


class Vsock:
    """Handlers for the system calls about sockets, and the accepts that wait."""

    def __init__(self, listener: Listener, table: VsockTable, epoll: select.epoll) -> None:
        self._listener = listener
        self._table = table
        self._epoll = epoll
        self._accepts: dict[int, _Accept] = {}
        self.handlers: dict[str, Callable[[Call], int | Outcome]] = {
            "socket": self._socket,
            "bind": self._bind,
            "connect": self._connect,
            "accept": lambda call: self._accept(call, 0),
            "accept4": lambda call: self._accept(call, abi.signed(call.arguments[3])),
            "getsockname": self._getsockname,
            "getpeername": self._getpeername,
            "getsockopt": self._getsockopt,
            "setsockopt": self._setsockopt,
        }

    @property
    def waiting(self) -> bool:
        """Whether any thread waits in accept."""
        return bool(self._accepts)

    def close(self) -> None:
        """Give up what is held for waiting threads."""
        for fd in list(self._accepts):
            self._forget(fd)

    # --- the calls ---

    def _socket(self, call: Call) -> int | Outcome:
        kind, protocol = abi.signed(call.arguments[1]), abi.signed(call.arguments[2])
        flags, kind = kind & _TYPE_FLAGS, kind & ~_TYPE_FLAGS
        if protocol not in (0, abi.AF_VSOCK):
            return -errno.EPROTONOSUPPORT
        if kind == socket.SOCK_DGRAM:
            return -errno.ENODEV  # no transport of an enclave has datagrams
        if kind != socket.SOCK_STREAM:
            return -errno.ESOCKTNOSUPPORT
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as created:
            created.setblocking(not flags & socket.SOCK_NONBLOCK)
            self._table.sockets.add(_inode(created), VsockSocket())
            return self._give(call, created, flags)

    def _bind(self, call: Call) -> int | Outcome:
        ours = self._find(call)
        if ours is None:
            return Outcome.CONTINUE
        wanted = self._read_address(call)
        if ours.local != UNBOUND:
            return -errno.EINVAL
        self._table.check_local(wanted.cid)
        with self._borrow(call) as bound:
            port = self._table.claim(_inode(bound), wanted.port)
            path = self._table.listening_path(port)
            # The name may be left over from a socket that is gone: `claim` has looked.
            Path(path).unlink(missing_ok=True)
            bound.bind(path)
        ours.local = VsockAddress(wanted.cid, port)
        log.debug("bind %s: %s", ours.local, path)
        return 0

    def _connect(self, call: Call) -> int | Outcome:
        ours = self._find(call)
        if ours is None:
            return Outcome.CONTINUE
        remote = self._read_address(call)
        if ours.remote is not None:
            return -errno.EISCONN
        with self._borrow(call) as connecting:
            code = self._dial(connecting, ours, remote)
            if os.get_blocking(connecting.fileno()):
                return -code
            # The virtio transport never connects or fails at once, and programs should meet
            # here what they meet there: there are some that do not notice an immediate error.
            ours.error = code
            _wake_pollers(connecting)
        return -errno.EINPROGRESS

    def _dial(self, connecting: socket.socket, ours: VsockSocket, remote: VsockAddress) -> int:
        """Connect a program's socket; 0 or the error that vsock would end with."""
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
        ours.remote = remote
        return 0

    def _accept(self, call: Call, flags: int) -> int | Outcome:
        ours = self._find(call)
        if ours is None:
            return Outcome.CONTINUE
        if flags & ~_TYPE_FLAGS:
            return -errno.EINVAL
        listening = self._borrow(call)
        accept = _Accept(call, listening, flags, _receive_deadline(listening))
        fd = listening.fileno()
        if not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            result: int | Outcome = -errno.EINVAL
        elif _readable(listening):
            result = self._take(accept)
        elif not os.get_blocking(fd):
            result = -errno.EAGAIN
        else:
            self._accepts[fd] = accept
            self._epoll.register(fd, select.EPOLLIN)
            return Outcome.LATER
        listening.close()
        return result

    def _getsockname(self, call: Call) -> int | Outcome:
        ours = self._find(call)
        if ours is None:
            return Outcome.CONTINUE
        return self._write_address(call, ours.local)

    def _getpeername(self, call: Call) -> int | Outcome:
        ours = self._find(call)
        if ours is None:
            return Outcome.CONTINUE
        if ours.remote is None:
            return -errno.ENOTCONN
        return self._write_address(call, ours.remote)

    def _getsockopt(self, call: Call) -> int | Outcome:
        ours = self._find(call)
        if ours is None:
            return Outcome.CONTINUE
        _, level, option, value_at, size_at, _ = call.arguments
        size = _read_int(call, size_at)
        match abi.signed(level), abi.signed(option):
            case socket.SOL_SOCKET, socket.SO_ERROR:
                if not ours.error:
                    return Outcome.CONTINUE
                value = ours.error.to_bytes(4, "little")[: max(size, 0)]
                ours.error = 0
            case socket.SOL_SOCKET, abi.SO_DOMAIN:
                value = abi.AF_VSOCK.to_bytes(4, "little")[: max(size, 0)]
            case abi.AF_VSOCK, name if name in ours.options:
                value = ours.options[name]
            case _:
                return -errno.ENOPROTOOPT
        if size < len(value):
            return -errno.EINVAL
        if self._listener.waits(call):
            memory.write(call.thread, value_at, value)
            memory.write(call.thread, size_at, len(value).to_bytes(4, "little"))
        return 0

    def _setsockopt(self, call: Call) -> int | Outcome:
        ours = self._find(call)
        if ours is None:
            return Outcome.CONTINUE
        _, _, option, value_at, size, _ = call.arguments
        option = abi.signed(option)
        if option not in ours.options:
            return -errno.ENOPROTOOPT
        expected = len(ours.options[option])
        if abi.signed(size) < expected:
            return -errno.EINVAL
        # Kept for getsockopt; a UNIX socket has its own buffers and connects at once.
        ours.options[option] = memory.read(call.thread, value_at, expected)
        return 0

    # --- accepts that wait ---

    def ready(self, fd: int) -> None:
        """A connection is there for a waiting thread, unless another one took it."""
        accept = self._accepts.get(fd)
        if accept is not None and _readable(accept.listening):
            self._finish(fd, self._guarded_take(accept))

    def check_waiting(self) -> None:
        """Let those go on that a signal or a timeout should wake; forget the dead.

        The kernel announces neither to the supervisor: a received call is interrupted by
        fatal signals only (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV). So this is asked often.
        """
        for fd, accept in list(self._accepts.items()):
            if not self._listener.waits(accept.call):
                self._forget(fd)
            elif code := _interruption(accept):
                self._finish(fd, -code)
            elif accept.deadline is not None and time.monotonic() >= accept.deadline:
                self._finish(fd, -errno.EAGAIN)

    def _guarded_take(self, accept: _Accept) -> int | Outcome:
        try:
            return self._take(accept)
        except OSError as e:
            return -(e.errno or errno.EIO)

    def _take(self, accept: _Accept) -> int | Outcome:
        """Accept a connection that is there and hand it over."""
        call = accept.call
        if not self._listener.waits(call):
            return 0
        connection, name = accept.listening.accept()
        with connection:
            port = self._port_of(accept.listening)
            ours = self._table.accepted(port, os.fsencode(name))
            if call.arguments[1]:
                self._write_address(call, ours.remote or UNBOUND)
            self._table.sockets.add(_inode(connection), ours)
            connection.setblocking(not accept.flags & socket.SOCK_NONBLOCK)
            log.debug("accept %s from %s", ours.local, ours.remote)
            return self._give(call, connection, accept.flags)

    def _port_of(self, listening: socket.socket) -> int:
        known = self._table.sockets.get(_inode(listening))
        return known.local.port if known else abi.VMADDR_PORT_ANY

    def _finish(self, fd: int, result: int | Outcome) -> None:
        call = self._accepts[fd].call
        self._forget(fd)
        self._listener.answer(call, result)

    def _forget(self, fd: int) -> None:
        accept = self._accepts.pop(fd)
        self._epoll.unregister(fd)
        accept.listening.close()

    # --- helpers ---

    def _find(self, call: Call) -> VsockSocket | None:
        if not len(self._table.sockets):
            return None
        inode = socket_inode(call.thread, abi.signed(call.arguments[0]))
        return None if inode is None else self._table.sockets.get(inode)

    def _borrow(self, call: Call) -> socket.socket:
        """Our duplicate of the socket a call is about.

        Raises:
            OSError: the thread is gone, or has put something else in its place meanwhile.
        """
        borrowed = socket.socket(fileno=borrow(call.thread, abi.signed(call.arguments[0])))
        if self._table.sockets.get(_inode(borrowed)) is None or not self._listener.waits(call):
            borrowed.close()
            raise refuse(errno.EBADF)
        return borrowed

    def _give(self, call: Call, given: socket.socket, flags: int) -> Outcome:
        return self._listener.hand_over(
            call, given.fileno(), close_on_exec=bool(flags & socket.SOCK_CLOEXEC)
        )

    def _read_address(self, call: Call) -> VsockAddress:
        """The address argument of bind and connect (vsock_addr_validate)."""
        size = abi.signed(call.arguments[2])
        if not abi.SOCKADDR_VM.size <= size <= _SOCKADDR_MAX:
            raise refuse(errno.EINVAL)
        data = memory.read(call.thread, call.arguments[1], abi.SOCKADDR_VM.size)
        family, _, port, cid, flags = abi.SOCKADDR_VM.unpack(data)
        if family != abi.AF_VSOCK or flags & ~abi.VMADDR_FLAG_TO_HOST:
            raise refuse(errno.EINVAL)
        return VsockAddress(cid, port)

    def _write_address(self, call: Call, address: VsockAddress) -> int:
        """Fill in an address and its true size, which may be more than fits (accept(2))."""
        _, address_at, size_at, *_ = call.arguments
        size = _read_int(call, size_at)
        if size < 0:
            return -errno.EINVAL
        data = abi.SOCKADDR_VM.pack(abi.AF_VSOCK, 0, address.port, address.cid, 0)
        if self._listener.waits(call):
            memory.write(call.thread, address_at, data[:size])
            memory.write(call.thread, size_at, len(data).to_bytes(4, "little"))
        return 0


def _inode(opened: socket.socket) -> int:
    return os.fstat(opened.fileno()).st_ino


def _read_int(call: Call, address: int) -> int:
    return int.from_bytes(memory.read(call.thread, address, 4), "little", signed=True)


def _readable(listening: socket.socket) -> bool:
    """Whether accept would return at once: the socket is the program's and may be blocking."""
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    return bool(poll.poll(0))


def _wake_pollers(connecting: socket.socket) -> None:
    """Tell an edge-triggered epoll that something happened, as a connection's end does.

    A UNIX socket connects without a word to its own pollers; setting the size of the send
    buffer, to what it is, has the kernel wake them (sock_setsockopt, sk_write_space).
    """
    doubled = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    connecting.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, doubled // 2)


def _receive_deadline(listening: socket.socket) -> float | None:
    value = listening.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL_SIZE)
    seconds, micros = (int.from_bytes(value[at : at + 8], "little") for at in (0, 8))
    if not seconds and not micros:
        return None
    return time.monotonic() + seconds + micros / _SECOND


def _interruption(accept: _Accept) -> int:
    """The error that lets a thread handle its signal, or 0 where it has none."""
    thread = accept.call.thread
    try:
        now = status(thread)
    except OSError:
        return 0  # It is dying: the next look finds it gone.
    if not now.own_signals | now.shared_signals:
        return 0
    # A shared signal is taken by the first thread if it can, by any other one otherwise. Only
    # where the signal is surely this thread's may the kernel see ERESTARTSYS; and there is no
    # restart of an accept with a timeout (sock_intr_errno in <net/sock.h>).
    ours = now.own_signals or thread == now.process
    return abi.ERESTARTSYS if ours and accept.deadline is None else errno.EINTR
