"""accept and accept4: the only calls that may have to wait, until a client connects."""

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
from enclave_simulator.launcher.kept import KeptConnections, is_readable
from enclave_simulator.launcher.notification import Listener, Outcome, Syscall
from enclave_simulator.launcher.process import has_free_descriptor, status
from enclave_simulator.launcher.program_sockets import Access, inode_of, refuse_descriptors
from enclave_simulator.launcher.sockets import UNBOUND, VsockSocket, VsockTable

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
        deadline: monotonic seconds, from SO_RCVTIMEO; None without one.
    """

    call: Syscall
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
        self._kept = KeptConnections()

    @property
    def waiting(self) -> bool:
        """Whether any thread waits in accept."""
        return bool(self._waiting)

    def close(self) -> None:
        """Close what is held for waiting threads."""
        for fd in list(self._waiting):
            self._forget(fd)
        self._kept.close()

    @property
    def keeping(self) -> bool:
        """Whether any connection is kept for the next accept."""
        return bool(self._kept)

    def release(self) -> None:
        """Close the connections that are kept for listeners that no longer exist."""
        self._kept.release()

    def accept(self, call: Syscall, flags: int) -> int | Outcome:
        """accept4(2); `flags` are its last argument."""
        if flags & ~_FLAGS:
            return -errno.EINVAL
        with contextlib.ExitStack() as held:
            listening = held.enter_context(self._access.borrow(call))
            if not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return -errno.EINVAL
            if not has_free_descriptor(call.thread):
                return -errno.EMFILE  # Before anything is accepted: it stays in the queue.
            accept = _Accept(call, listening, flags, _receive_deadline(listening))
            if self._available(listening):
                return self._take(accept)
            fd = listening.fileno()
            if not os.get_blocking(fd):
                return -errno.EAGAIN
            self._epoll.register(fd, select.EPOLLIN)
            self._waiting[fd] = accept
            held.pop_all()
        return Outcome.LATER

    def ready(self, fd: int) -> None:
        """Give a waiting thread the connection that is there, unless another one took it."""
        accept = self._waiting.get(fd)
        if accept is not None and self._available(accept.listening):
            try:
                result = self._take(accept)
            except OSError as e:
                result = -(e.errno or errno.EIO)
            self._finish(fd, result)

    def check_waiting(self) -> None:
        """Resume threads that a signal, stop or timeout should wake; forget those that are gone.

        The kernel notifies the supervisor of none, so the supervisor polls.
        """
        for fd, accept in list(self._waiting.items()):
            if not self._listener.waits(accept.call):
                self._forget(fd)
            elif _interrupted(accept.call):
                # There is no restart of an accept with a timeout (sock_intr_errno, <net/sock.h>).
                restart = accept.deadline is None
                self._finish(fd, -(abi.ERESTARTSYS if restart else errno.EINTR))
            elif accept.deadline is not None and time.monotonic() >= accept.deadline:
                self._finish(fd, -errno.EAGAIN)

    def _take(self, accept: _Accept) -> int | Outcome:
        """Accept a connection that is there and hand it over."""
        call, inode = accept.call, inode_of(accept.listening)
        if not self._listener.waits(call):
            return 0
        connection, name = self._kept.take(inode, accept.listening)
        with contextlib.ExitStack() as held:
            held.enter_context(connection)
            known = self._table.sockets.get(inode) or VsockSocket()
            ours = self._table.accepted(known, os.fsencode(name))
            if call.arguments[1]:
                code = self._access.write_address(call, ours.remote or UNBOUND)
                if code:
                    return code
            self._table.sockets.add(inode_of(connection), ours)
            connection.setblocking(not accept.flags & socket.SOCK_NONBLOCK)
            refuse_descriptors(connection)
            log.debug("accept %s from %s", ours.local, ours.remote)
            try:
                return self._access.hand_over(call, connection, accept.flags)
            except OSError as e:
                # The connection is for the next accept: a signal came first, or another thread has
                # taken the last descriptor.
                self._kept.keep(inode, accept.listening, (connection, name))
                held.pop_all()
                return 0 if isinstance(e, FileNotFoundError) else -(e.errno or errno.EIO)

    def _available(self, listening: socket.socket) -> bool:
        return self._kept.available(inode_of(listening)) or is_readable(listening)

    def _finish(self, fd: int, result: int | Outcome) -> None:
        call = self._waiting[fd].call
        self._forget(fd)
        self._listener.answer(call, result)

    def _forget(self, fd: int) -> None:
        accept = self._waiting.pop(fd)
        self._epoll.unregister(fd)
        accept.listening.close()


def _receive_deadline(listening: socket.socket) -> float | None:
    value = listening.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL_SIZE)
    seconds, micros = (int.from_bytes(value[at : at + 8], "little") for at in (0, 8))
    if not seconds and not micros:
        return None
    return time.monotonic() + seconds + micros / _SECOND


def _interrupted(call: Syscall) -> bool:
    """Return whether the kernel wants to interrupt a thread, and cannot.

    With SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, the first signal, stop or freeze turns the
    interruptible wait into one that only SIGKILL interrupts, and stays pending. So the kernel may
    see ERESTARTSYS, as from a system call of its own.
    """
    try:
        return status(call.thread).state == "D"
    except OSError:
        return False  # It is dying: the next look finds it gone.
