"""The supervisor's end of seccomp's user notification: receive a call, answer it, hand over a
file descriptor (seccomp_unotify(2)).
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
from typing import NamedTuple

from enclave_simulator.launcher import abi


class Outcome(enum.Enum):
    """What a handler returns where it does not return the call's result."""

    CONTINUE = enum.auto()  # not ours: the kernel runs the call as if nobody had looked
    ANSWERED = enum.auto()  # the handler has answered: it handed over a file descriptor
    LATER = enum.auto()  # the thread goes on waiting; somebody keeps the call


class Call(NamedTuple):
    """One system call of one thread, which waits for an answer.

    Attributes:
        id: the kernel's name for this very wait.
        thread: thread id in the supervisor's PID namespace; 0 if it is in none of ours.
        number: the system call's number.
        arguments: the six registers, unsigned.
    """

    id: int
    thread: int
    number: int
    arguments: tuple[int, ...]


class Listener:
    """A seccomp notification file descriptor, which it owns."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        # Linux 6.6 and later: wake the other side on this processor; halves the round trip.
        with contextlib.suppress(OSError):
            fcntl.ioctl(
                fd, abi.SECCOMP_IOCTL_NOTIF_SET_FLAGS, abi.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
            )

    def receive(self) -> Call | None:
        """The next call, or None where its thread died or was interrupted meanwhile."""
        buffer = bytearray(abi.NOTIFICATION.size)  # the kernel insists on zeros
        try:
            fcntl.ioctl(self.fd, abi.SECCOMP_IOCTL_NOTIF_RECV, buffer)
        except OSError as e:
            if e.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        identity, thread, _, number, _, _, *arguments = abi.NOTIFICATION.unpack(buffer)
        return Call(identity, thread, number, tuple(arguments))

    def answer(self, call: Call, result: int | Outcome) -> None:
        """Let the thread go on: with a result, with ``-errno``, or into the kernel.

        A thread that is gone needs no answer: that is not an error.
        """
        if result is Outcome.CONTINUE:
            response = abi.RESPONSE.pack(call.id, 0, 0, abi.SECCOMP_USER_NOTIF_FLAG_CONTINUE)
        elif isinstance(result, int):
            response = abi.RESPONSE.pack(call.id, max(result, 0), min(result, 0), 0)
        else:
            return
        with contextlib.suppress(FileNotFoundError):
            fcntl.ioctl(self.fd, abi.SECCOMP_IOCTL_NOTIF_SEND, response)

    def waits(self, call: Call) -> bool:
        """Whether the thread still waits for this answer.

        To be asked after reading memory and before anything with an effect: the thread may
        have died, and its id be somebody else's (seccomp_unotify(2), "Caveats").
        """
        try:
            fcntl.ioctl(self.fd, abi.SECCOMP_IOCTL_NOTIF_ID_VALID, call.id.to_bytes(8, "little"))
        except FileNotFoundError:
            return False
        return True

    def hand_over(self, call: Call, fd: int, *, close_on_exec: bool) -> Outcome:
        """Duplicate `fd` into the thread's process and return its number there from the call.

        One step in the kernel: either both happen or neither does.

        Raises:
            OSError: EMFILE where the process has no room; ENOENT where the thread is gone.
        """
        flags = os.O_CLOEXEC if close_on_exec else 0
        request = abi.ADDFD.pack(call.id, abi.SECCOMP_ADDFD_FLAG_SEND, fd, 0, flags)
        fcntl.ioctl(self.fd, abi.SECCOMP_IOCTL_NOTIF_ADDFD, request)
        return Outcome.ANSWERED

    def close(self) -> None:
        """Every call that stops from now on gets ENOSYS, says the kernel."""
        os.close(self.fd)
