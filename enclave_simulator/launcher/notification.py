"""The supervisor's end of seccomp's user notification (seccomp_unotify(2)): receive a system call,
respond to it, hand over a file descriptor.
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
    """What a handler returns if it does not return the call's result."""

    CONTINUE = enum.auto()  # not ours: the kernel runs the call unchanged
    ANSWERED = enum.auto()  # the handler has responded itself
    LATER = enum.auto()  # the thread waits on; a handler has kept the call


class Syscall(NamedTuple):
    """One system call of one thread, which waits for its result.

    Attributes:
        id: the kernel's name for this very wait.
        thread: thread id in the supervisor's PID namespace; 0 if it is in none of ours.
        number: the system call's number.
        arguments: the six registers, unsigned.
        architecture: AUDIT_ARCH_* of the ABI that it was made by.
    """

    id: int
    thread: int
    number: int
    arguments: tuple[int, ...]
    architecture: int


class Listener:
    """A seccomp notification file descriptor, which it owns."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        # Linux 6.6 and later: wake the other side on this processor; halves the round trip.
        with contextlib.suppress(OSError):
            fcntl.ioctl(
                fd, abi.SECCOMP_IOCTL_NOTIF_SET_FLAGS, abi.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
            )

    def receive(self) -> Syscall | None:
        """Return the next call, or None if its thread died or was interrupted meanwhile."""
        buffer = bytearray(abi.NOTIFICATION.size)  # the kernel insists on zeros
        try:
            fcntl.ioctl(self.fd, abi.SECCOMP_IOCTL_NOTIF_RECV, buffer)
        except OSError as e:
            if e.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        identity, thread, _, number, architecture, _, *arguments = abi.NOTIFICATION.unpack(buffer)
        return Syscall(identity, thread, number, tuple(arguments), architecture)

    def answer(self, call: Syscall, result: int | Outcome) -> bool:
        """Let the thread go on: with a result, with ``-errno``, or into the kernel.

        Returns:
            Whether the thread has got it: it may have died, or been interrupted by a signal.
        """
        if result is Outcome.CONTINUE:
            response = abi.RESPONSE.pack(call.id, 0, 0, abi.SECCOMP_USER_NOTIF_FLAG_CONTINUE)
        elif isinstance(result, int):
            response = abi.RESPONSE.pack(call.id, max(result, 0), min(result, 0), 0)
        else:
            return True
        try:
            fcntl.ioctl(self.fd, abi.SECCOMP_IOCTL_NOTIF_SEND, response)
        except FileNotFoundError:
            return False
        return True

    def waits(self, call: Syscall) -> bool:
        """Return whether the thread still waits for this call's result.

        Call this after reading memory and before anything with an effect: the thread may have
        died, and its id may be another one's by now (seccomp_unotify(2), "Caveats").
        """
        try:
            fcntl.ioctl(self.fd, abi.SECCOMP_IOCTL_NOTIF_ID_VALID, call.id.to_bytes(8, "little"))
        except FileNotFoundError:
            return False
        return True

    def hand_over(self, call: Syscall, fd: int, *, close_on_exec: bool, number: int = 0) -> Outcome:
        """Duplicate `fd` into the thread's process and return its number there from the call.

        One step in the kernel: either both happen or neither does. With a `number` it gets this
        one, whatever had it.

        Raises:
            OSError: EMFILE if the process has no room; ENOENT if the thread is gone or interrupted.
        """
        flags = os.O_CLOEXEC if close_on_exec else 0
        send = abi.SECCOMP_ADDFD_FLAG_SEND | (abi.SECCOMP_ADDFD_FLAG_SETFD if number else 0)
        request = abi.ADDFD.pack(call.id, send, fd, number, flags)
        fcntl.ioctl(self.fd, abi.SECCOMP_IOCTL_NOTIF_ADDFD, request)
        return Outcome.ANSWERED

    def close(self) -> None:
        """Close: the kernel fails every call that stops from now on with ENOSYS."""
        os.close(self.fd)
