"""``/dev/tpm0`` and ``/dev/tpmrm0``: an open one is a socket whose other end is here.

Linux's driver has no ioctl; `write`, `read` and `poll` are the interface, and a seccomp filter
cannot hand these over without stopping every file of the program. So opening stops, and what the
program gets is one end of a pair of stream sockets: it writes a command, polls, and reads the
response, in parts if it likes. See drivers/char/tpm/tpm-dev-common.c and docs/adr/0024.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import select
import socket
import struct
import termios
from pathlib import Path
from typing import Protocol

from enclave_simulator.launcher import abi
from enclave_simulator.launcher.notification import Listener, Outcome, Syscall
from enclave_simulator.launcher.process import socket_inode
from vsock_proxy.net.sockets import wait_ready

log = logging.getLogger(__name__)

MAX_MESSAGE = 4096
"""Bytes in a command or response (drivers/char/tpm/tpm.h, ``TPM_BUFSIZE``)."""

_MOST_OPEN = 64
"""Devices open at the same time: the supervisor has a descriptor for each."""


class TpmDevice(Protocol):
    """Responds to a TPM's commands, one at a time."""

    def exchange(self, command: bytes) -> bytes:
        """Return the response, of at most 4096 bytes, to a command of 10..4096 bytes."""
        ...


class TpmDevices:
    """The open devices of one program and its descendants.

    Args:
        listener: where the calls come from.
        tpm: responds to commands.
        epoll: the supervisor's, in which the sockets are registered.
    """

    def __init__(self, listener: Listener, tpm: TpmDevice, epoll: select.epoll) -> None:
        self._listener = listener
        self._tpm = tpm
        self._epoll = epoll
        self._open: dict[int, socket.socket] = {}
        self._inodes: dict[int, int] = {}
        self._alone: int | None = None

    def open(self, call: Syscall, flags: int, *, alone: bool) -> int | Outcome:
        """Hand over an open device.

        Args:
            call: the system call.
            flags: of open(2).
            alone: ``/dev/tpm0``, which admits one opener at a time.
        """
        if alone and self._alone is not None:
            if not self._is_closed(self._alone):
                return -errno.EBUSY
            self._end(self._alone)
        if len(self._open) >= _MOST_OPEN:
            return -errno.ENOMEM
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                theirs.setblocking(not flags & os.O_NONBLOCK)
                ours.setblocking(False)  # noqa: FBT003 (its only argument)
                outcome = self._listener.hand_over(
                    call,
                    theirs.fileno(),
                    close_on_exec=bool(flags & os.O_CLOEXEC),
                    number=_free_number(call.thread),
                )
            except BaseException:
                ours.close()
                raise
            self._inodes[os.fstat(theirs.fileno()).st_ino] = ours.fileno()
        self._open[ours.fileno()] = ours
        if alone:
            self._alone = ours.fileno()
        self._epoll.register(ours, select.EPOLLIN)
        log.debug("open /dev/%s", "tpm0" if alone else "tpmrm0")
        return outcome

    def read(self, call: Syscall) -> int | Outcome:
        """Let a read go on if there is a response, or will be; return 0 if not, as the driver."""
        inode = socket_inode(call.thread, abi.signed(call.arguments[0]))
        fd = None if inode is None else self._inodes.get(inode)
        if fd is None:
            return Outcome.CONTINUE
        if wait_ready(fd, select.POLLIN, 0):
            self.ready(fd)  # the command that the response is wanted of
        if fd not in self._open:
            return Outcome.CONTINUE  # closed: the kernel tells
        unread = fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4))
        return Outcome.CONTINUE if int.from_bytes(unread, "little") else 0

    def owns(self, fd: int) -> bool:
        """Return whether a descriptor in the supervisor's epoll is an open device's."""
        return fd in self._open

    def ready(self, fd: int) -> None:
        """Read a command, and send the response; or see that the last reference was closed."""
        ours = self._open[fd]
        try:
            command = ours.recv(MAX_MESSAGE + 1)
            if not 10 <= len(command) <= MAX_MESSAGE:
                self._end(fd)  # closed; or what the driver rejects
                return
            (size,) = struct.unpack_from(">I", command, 2)
            if size != len(command):
                # The driver takes more than the command says, and rejects less, with EINVAL. Here
                # it is too late for that.
                if size > len(command):
                    log.warning(
                        "a TPM command of %d bytes says %d: the driver fails with EINVAL, here the "
                        "device is closed",
                        len(command), size,
                    )  # fmt: skip
                    self._end(fd)
                    return
                command = command[:size]
            response = self._tpm.exchange(command)
            ours.send(response)
        except BlockingIOError:
            return  # a read has had it carried out already
        except OSError as e:
            log.debug("a TPM device is closed: %s", e)
            self._end(fd)
        except Exception:
            # As everywhere in the supervisor: a fault must not make the program hang.
            log.exception("simulating a TPM command failed")
            self._end(fd)

    def close(self) -> None:
        """Close all of them."""
        for fd in list(self._open):
            self._end(fd)

    def _is_closed(self, fd: int) -> bool:
        """Return whether the last reference was closed, which epoll may be yet to tell."""
        try:
            return not self._open[fd].recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _end(self, fd: int) -> None:
        if self._alone == fd:
            self._alone = None
        ours = self._open.pop(fd)
        self._inodes = {inode: each for inode, each in self._inodes.items() if each != fd}
        self._epoll.unregister(ours)
        ours.close()


def _free_number(thread: int) -> int:
    """Return a free number of `abi.TPM_DESCRIPTORS` in a thread's process; 0: the kernel's choice.

    Reading by another number (a duplicate's) waits if no response is pending.
    """
    limits = Path(f"/proc/{thread}/limits").read_text(encoding="ascii")
    soft = next(line for line in limits.splitlines() if line.startswith("Max open files")).split()[
        3
    ]
    for number in abi.TPM_DESCRIPTORS:
        if soft.isdigit() and number >= int(soft):
            break
        if not os.path.lexists(f"/proc/{thread}/fd/{number}"):
            return number
    return 0
