"""Bookkeeping of simulated vsock sockets and their addresses. No I/O.

A simulated socket is an AF_UNIX stream socket. Where vsock has the address (cid, port), its
UNIX socket has a name that ends in ``<cid>_<port>``: a path in the enclave's folder for one that
can be connected to, an abstract name (which leaves no file) for the connecting side. So the
side that accepts reads its peer's address off the peer's name.
"""

from __future__ import annotations

import enum
import errno
import os
import re
import struct
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from enclave_simulator.launcher import abi
from vsock_proxy.net.addresses import VMADDR_CID_PARENT, VsockAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

UNBOUND = VsockAddress(abi.VMADDR_CID_ANY, abi.VMADDR_PORT_ANY)
_FIRST_FREE_PORT = 1024  # below are the reserved ones (net/vmw_vsock/af_vsock.c)
_NAME = re.compile(rb".*/([0-9]{1,10})_([0-9]{1,10})", re.DOTALL)


def refuse(code: int) -> OSError:
    """Return the error that a system call ends with."""
    return OSError(code, os.strerror(code))


class Inodes(Generic[T]):
    """A table of sockets by inode, from which those that no longer exist are removed.

    The kernel does not notify of a socket that a program closes. So `alive` gives all inodes in use
    whenever the table has doubled, which makes the cost per socket constant.
    """

    def __init__(self, alive: Callable[[], set[int]], sweep_at: int = 256) -> None:
        self._alive = alive
        self._least = self._sweep_at = sweep_at
        self._known: dict[int, T] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, inode: int, value: T) -> None:
        """Add a socket."""
        if len(self._known) >= self._sweep_at:
            self.sweep()
        self._known[inode] = value

    def get(self, inode: int) -> T | None:
        """Return what is known of a socket."""
        return self._known.get(inode)

    def sweep(self) -> None:
        """Remove the sockets that are gone."""
        alive = self._alive()
        self._known = {inode: value for inode, value in self._known.items() if inode in alive}
        self._sweep_at = max(self._least, 2 * len(self._known))


class State(enum.Enum):
    """The kernel's socket_state (<linux/net.h>)."""

    UNCONNECTED = enum.auto()
    CONNECTING = enum.auto()  # here: a non-blocking connect was refused
    CONNECTED = enum.auto()
    DISCONNECTING = enum.auto()  # this side has called shutdown


_U64, _TIMEVAL = struct.Struct("=Q"), struct.Struct("=qq")
_MICROS = 1_000_000
_DEFAULT_TIMEOUT = 2 * _MICROS


@dataclass
class Options:
    """The SO_VM_SOCKETS_* options, kept for getsockopt alone: a UNIX socket has its own buffers,
    and connects at once. Accepted sockets have those of their listener.
    """

    size: int = 256 * 1024
    least: int = 128
    most: int = 256 * 1024
    timeout: int = _DEFAULT_TIMEOUT

    def get(self, option: int) -> bytes:
        """Return an option as getsockopt does.

        Raises:
            OSError: ENOPROTOOPT.
        """
        match option:
            case abi.SO_VM_SOCKETS_BUFFER_SIZE:
                return _U64.pack(self.size)
            case abi.SO_VM_SOCKETS_BUFFER_MIN_SIZE:
                return _U64.pack(self.least)
            case abi.SO_VM_SOCKETS_BUFFER_MAX_SIZE:
                return _U64.pack(self.most)
            case abi.SO_VM_SOCKETS_CONNECT_TIMEOUT | abi.SO_VM_SOCKETS_CONNECT_TIMEOUT_NEW:
                return _TIMEVAL.pack(*divmod(self.timeout, _MICROS))
            case _:
                raise refuse(errno.ENOPROTOOPT)

    def set(self, option: int, value: bytes) -> None:
        """Set an option to as many bytes as `get` returns of it.

        Raises:
            OSError: ENOPROTOOPT, or ERANGE.
        """
        match option:
            case abi.SO_VM_SOCKETS_CONNECT_TIMEOUT | abi.SO_VM_SOCKETS_CONNECT_TIMEOUT_NEW:
                seconds, micros = _TIMEVAL.unpack(value)
                if seconds < 0 or micros >= _MICROS:
                    raise refuse(errno.ERANGE)
                self.timeout = seconds * _MICROS + max(micros, 0) or _DEFAULT_TIMEOUT
                return
            case abi.SO_VM_SOCKETS_BUFFER_SIZE:
                (self.size,) = _U64.unpack(value)
            case abi.SO_VM_SOCKETS_BUFFER_MIN_SIZE:
                (self.least,) = _U64.unpack(value)
            case abi.SO_VM_SOCKETS_BUFFER_MAX_SIZE:
                (self.most,) = _U64.unpack(value)
            case _:
                raise refuse(errno.ENOPROTOOPT)
        self.size = min(max(self.size, self.least), self.most)


@dataclass
class VsockSocket:
    """One simulated socket, in the kernel's terms (struct vsock_sock).

    Attributes:
        local: where it is bound, UNBOUND before.
        remote: its peer, once connected.
        state: what connect, shutdown and getpeername go by.
        error: of a failed non-blocking connect, until SO_ERROR is asked for; 0 for none.
        undelivered: the last bind or connect that a signal interrupted (before Linux 5.19): its
            number and address, and its result, which the same call gets when it comes again.
        options: those of its address family.
    """

    local: VsockAddress = UNBOUND
    remote: VsockAddress | None = None
    state: State = State.UNCONNECTED
    error: int = 0
    undelivered: tuple[tuple[int, VsockAddress], int] | None = None
    options: Options = field(default_factory=Options)


class VsockTable:
    """All simulated sockets of one enclave, and where addresses lead.

    One port is one socket, whatever CID it is bound to.

    Args:
        cid: the enclave's own context id.
        folder: where sockets that can be connected to are, as ``<cid>_<port>``.
        parent_ports: UNIX paths of services on the parent that are elsewhere.
        alive: inodes of all UNIX sockets that exist.
    """

    def __init__(
        self,
        cid: int,
        folder: str,
        parent_ports: Mapping[int, str],
        alive: Callable[[], set[int]],
    ) -> None:
        self.cid = cid
        self._folder = folder
        self._parent_ports = dict(parent_ports)
        self.sockets: Inodes[VsockSocket] = Inodes(alive)
        self._bound: dict[int, int] = {}
        self._next_port = _FIRST_FREE_PORT

    def claim(self, inode: int, wanted: int) -> int:
        """Bind a socket to a port; VMADDR_PORT_ANY takes a free one.

        Raises:
            OSError: EADDRINUSE.
        """
        if wanted in self._bound or len(self._bound) > 2 * len(self.sockets) + 256:
            self._sweep()
        if wanted == abi.VMADDR_PORT_ANY:
            wanted = self.free_port()
        elif wanted in self._bound:
            raise refuse(errno.EADDRINUSE)
        self._bound[wanted] = inode
        return wanted

    def free_port(self) -> int:
        """Return a port that no socket is bound to; upwards, as the kernel does it."""
        while self._next_port in self._bound:
            self._next_port += 1
        port = self._next_port
        self._next_port += 1
        return port

    def _sweep(self) -> None:
        """Free the ports of sockets that are gone."""
        self.sockets.sweep()
        self._bound = {p: i for p, i in self._bound.items() if self.sockets.get(i) is not None}

    def check_local(self, cid: int) -> None:
        """Check that a socket may be bound to this CID.

        Raises:
            OSError: EADDRNOTAVAIL.
        """
        if cid not in (abi.VMADDR_CID_ANY, abi.VMADDR_CID_LOCAL, self.cid):
            raise refuse(errno.EADDRNOTAVAIL)

    def listening_path(self, port: int) -> str:
        """Return the path of a socket of the enclave that is bound to this port."""
        return f"{self._folder}/{self.cid}_{port}"

    def connecting_name(self, remote: VsockAddress, port: int) -> str:
        """Return the abstract name from which the accepting side reads the peer's address."""
        return f"\0{self._folder}/{self._seen_from(remote)}_{port}"

    def path_to(self, remote: VsockAddress) -> str:
        """Return the UNIX path that an address leads to.

        Raises:
            OSError: ETIMEDOUT for a CID that does not exist: the hypervisor drops what is sent
                there. The kernel takes two seconds, this does not.
        """
        if remote.cid in (self.cid, abi.VMADDR_CID_LOCAL):
            return self.listening_path(remote.port)
        if remote.cid == VMADDR_CID_PARENT:
            default = f"{self._folder}/{remote.cid}_{remote.port}"
            return self._parent_ports.get(remote.port, default)
        raise refuse(errno.ETIMEDOUT)

    def accepted(self, listener: VsockSocket, peer_name: bytes) -> VsockSocket:
        """Return the accepted side of a connection to a listener from a UNIX socket of that name.

        A name that is not ours belongs to a service of the parent that connected by path.
        """
        name = _NAME.fullmatch(peer_name)
        if name is None:
            remote = VsockAddress(VMADDR_CID_PARENT, self.free_port())
        else:
            remote = VsockAddress(int(name[1]), int(name[2]))
        local = VsockAddress(self._seen_from(remote), listener.local.port)
        return VsockSocket(local, remote, state=State.CONNECTED, options=replace(listener.options))

    def _seen_from(self, remote: VsockAddress) -> int:
        """Over loopback both ends are VMADDR_CID_LOCAL."""
        return abi.VMADDR_CID_LOCAL if remote.cid == abi.VMADDR_CID_LOCAL else self.cid
