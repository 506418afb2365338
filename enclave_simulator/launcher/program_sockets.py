"""Gives the supervisor access to a program's vsock sockets and socket addresses."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING

from enclave_simulator.launcher import abi, memory
from enclave_simulator.launcher.process import borrow, socket_inode
from enclave_simulator.launcher.sockets import VsockSocket, VsockTable, refuse
from vsock_proxy.net.addresses import VsockAddress

if TYPE_CHECKING:
    from enclave_simulator.launcher.notification import Listener, Outcome, Syscall

_SOCKADDR_MAX = 128  # struct sockaddr_storage, the most the kernel copies


class Access:
    """Shared by the handlers of socket calls. The socket is always the first argument."""

    def __init__(self, listener: Listener, table: VsockTable) -> None:
        self._listener = listener
        self._table = table

    def find(self, call: Syscall) -> VsockSocket | None:
        """Return what is known of the socket; None if it is not a simulated one."""
        if not len(self._table.sockets):
            return None
        inode = socket_inode(call.thread, abi.signed(call.arguments[0]))
        return None if inode is None else self._table.sockets.get(inode)

    def borrow(self, call: Syscall) -> socket.socket:
        """Return a duplicate of the socket that a call is about.

        Raises:
            OSError: the thread is gone, or has put something else in its place meanwhile.
        """
        borrowed = socket.socket(fileno=borrow(call.thread, abi.signed(call.arguments[0])))
        if self._table.sockets.get(inode_of(borrowed)) is None or not self._listener.waits(call):
            borrowed.close()
            raise refuse(errno.EBADF)
        return borrowed

    def hand_over(self, call: Syscall, given: socket.socket, flags: int) -> Outcome:
        """Return a new socket from the call; `flags` may hold SOCK_CLOEXEC."""
        return self._listener.hand_over(
            call, given.fileno(), close_on_exec=bool(flags & socket.SOCK_CLOEXEC)
        )

    def read_address(self, call: Syscall) -> VsockAddress:
        """Return the address argument of bind and connect (vsock_addr_validate)."""
        size = abi.signed(call.arguments[2])
        if not abi.SOCKADDR_VM.size <= size <= _SOCKADDR_MAX:
            raise refuse(errno.EINVAL)
        data = memory.read(call.thread, call.arguments[1], abi.SOCKADDR_VM.size)
        family, _, port, cid, flags = abi.SOCKADDR_VM.unpack(data)
        if family != abi.AF_VSOCK or flags & ~abi.VMADDR_FLAG_TO_HOST:
            raise refuse(errno.EINVAL)
        return VsockAddress(cid, port)

    def write_address(self, call: Syscall, address: VsockAddress) -> int:
        """Write an address and its true size, which may be more than fits (accept(2))."""
        _, address_at, size_at, *_ = call.arguments
        size = read_int(call, size_at)
        if size < 0:
            return -errno.EINVAL
        data = abi.SOCKADDR_VM.pack(abi.AF_VSOCK, 0, address.port, address.cid, 0)
        if self._listener.waits(call):
            memory.write(call.thread, address_at, data[:size])
            memory.write(call.thread, size_at, len(data).to_bytes(4, "little"))
        return 0


def inode_of(opened: socket.socket) -> int:
    """Return the inode, by which the tables know a socket."""
    return os.fstat(opened.fileno()).st_ino


def refuse_descriptors(opened: socket.socket) -> None:
    """Make a UNIX socket pass no file descriptors (SCM_RIGHTS): vsock passes none.

    Before Linux 6.16, it passes them.
    """
    with contextlib.suppress(OSError):
        opened.setsockopt(socket.SOL_SOCKET, abi.SO_PASSRIGHTS, 0)


def read_int(call: Syscall, address: int) -> int:
    """Return a C int in the program's memory."""
    return int.from_bytes(memory.read(call.thread, address, 4), "little", signed=True)
