"""accept and accept4: the one call that may have to wait for something else than us."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import time
from dataclasses import dataclass

from enclave_simulator.launcher import abi
from enclave_simulator.launcher.notification import Call, Listener, Outcome
from enclave_simulator.launcher.process import status
from enclave_simulator.launcher.program_sockets import Access, inode_of
from enclave_simulator.launcher.sockets import UNBOUND, VsockTable

log = logging.getLogger(__name__)

_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
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


class Accepts:
    """Answers accepts, and keeps those that wait."""

    def __init__(
        self, listener: Listener, access: Access, table: VsockTable, epoll: select.epoll
    ) -> None:
        self._listener = listener
        self._access = access
        self._table = table
        self._epoll = epoll
        self._waiting: dict[int, _Accept] = {}

    @property
    def waiting(self) -> bool:
        """Whether any thread waits in accept."""
        return bool(self._waiting)

    def close(self) -> None:
        """Give up what is held for waiting threads."""
        for fd in list(self._waiting):
            self._forget(fd)

    def accept(self, call: Call, flags: int) -> int | Outcome:
        """accept4(2); `flags` are its last argument."""
        if flags & ~_FLAGS:
            return -errno.EINVAL
        with contextlib.ExitStack() as held:
            listening = held.enter_context(self._access.borrow(call))
            if not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return -errno.EINVAL
            accept = _Accept(call, listening, flags, _receive_deadline(listening))
            if _readable(listening):
                return self._take(accept)
            fd = listening.fileno()
            if not os.get_blocking(fd):
                return -errno.EAGAIN
            self._epoll.register(fd, select.EPOLLIN)
            self._waiting[fd] = accept
            held.pop_all()
        return Outcome.LATER

    def ready(self, fd: int) -> None:
        """A connection is there for a waiting thread, unless another one took it."""
        accept = self._waiting.get(fd)
        if accept is not None and _readable(accept.listening):
            try:
                result = self._take(accept)
            except OSError as e:
                result = -(e.errno or errno.EIO)
            self._finish(fd, result)

    def check_waiting(self) -> None:
        """Let those go on that a signal or a timeout should wake; forget the dead.

        The kernel announces neither to the supervisor: a received call is interrupted by
        fatal signals only (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV). So this is asked often.
        """
        for fd, accept in list(self._waiting.items()):
            if not self._listener.waits(accept.call):
                self._forget(fd)
            elif code := _interruption(accept):
                self._finish(fd, -code)
            elif accept.deadline is not None and time.monotonic() >= accept.deadline:
                self._finish(fd, -errno.EAGAIN)

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
                code = self._access.write_address(call, ours.remote or UNBOUND)
                if code:
                    return code
            self._table.sockets.add(inode_of(connection), ours)
            connection.setblocking(not accept.flags & socket.SOCK_NONBLOCK)
            log.debug("accept %s from %s", ours.local, ours.remote)
            return self._access.hand_over(call, connection, accept.flags)

    def _port_of(self, listening: socket.socket) -> int:
        known = self._table.sockets.get(inode_of(listening))
        return known.local.port if known else abi.VMADDR_PORT_ANY

    def _finish(self, fd: int, result: int | Outcome) -> None:
        call = self._waiting[fd].call
        self._forget(fd)
        self._listener.answer(call, result)

    def _forget(self, fd: int) -> None:
        accept = self._waiting.pop(fd)
        self._epoll.unregister(fd)
        accept.listening.close()


def _readable(listening: socket.socket) -> bool:
    """Whether accept would return at once: the socket is the program's and may be blocking."""
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    return bool(poll.poll(0))


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
