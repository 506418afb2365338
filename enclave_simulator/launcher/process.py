"""What /proc and pidfds tell about a thread that waits in a system call."""

from __future__ import annotations

import errno
import os
import re
from typing import NamedTuple

from enclave_simulator.launcher import abi

_PIDFD_THREAD = os.O_EXCL  # since Linux 6.9
_UNIX_SOCKET = re.compile(rb"\S+: (?:[0-9A-F]+ ){5} *([0-9]{1,20})")
"""Address, references, protocol, flags, type, state and inode, which is padded; a name follows."""

_OPEN_FILES = re.compile(rb"^Max open files +([0-9]+)", re.MULTILINE)


def socket_inode(thread: int, fd: int) -> int | None:
    """Return the inode of the socket behind a thread's descriptor; None if it is not a socket.

    The inode is what stays the same when a descriptor is duplicated, inherited or sent. The
    link is only read, not followed: following could block on a dead network file system.
    """
    if fd < 0:
        return None
    try:
        target = os.readlink(f"/proc/{thread}/fd/{fd}")  # noqa: PTH115 (no Path in the hot end)
    except (FileNotFoundError, ProcessLookupError):
        return None
    if not target.startswith("socket:["):
        return None
    return int(target[len("socket:[") : -1])


def live_unix_sockets() -> set[int]:
    """Inodes of all AF_UNIX sockets of this network namespace (proc(5), /proc/net/unix).

    The kernel prints names as they are. So a line end in one, which any program may bind to, begins
    a line that is no socket's, or looks like one: then its number is in the result as well.
    """
    with open("/proc/net/unix", "rb") as f:  # noqa: PTH123 (the same)
        return {int(found[1]) for line in f if (found := _UNIX_SOCKET.match(line))}


def has_free_descriptor(thread: int) -> bool:
    """Return whether a thread's process may open another file (RLIMIT_NOFILE).

    Raises:
        OSError: the thread is gone.
    """
    with open(f"/proc/{thread}/limits", "rb") as f:  # noqa: PTH123 (the same)
        found = _OPEN_FILES.search(f.read())
    if found is None:
        return True  # "unlimited"
    limit = int(found[1])
    # Those above a limit that was lowered take no place below it.
    return sum(int(name) < limit for name in os.listdir(f"/proc/{thread}/fd")) < limit  # noqa: PTH208


def started(process: int) -> int:
    """Return when a process was started, in clock ticks since boot: no two of one id are the same.

    Raises:
        OSError: it is gone.
    """
    with open(f"/proc/{process}/stat", "rb") as f:  # noqa: PTH123 (the same)
        # The second field is a name in parentheses, of any bytes; this is the 22nd.
        return int(f.read().rpartition(b")")[2].split()[19])


def borrow(thread: int, fd: int) -> int:
    """Duplicate a thread's file descriptor into this process.

    Raises:
        OSError: EBADF where it has none, ESRCH where it died, EPERM where the kernel refuses.
    """
    try:
        pidfd = os.pidfd_open(thread, _PIDFD_THREAD)
    except OSError as e:
        if e.errno != errno.EINVAL:
            raise
        pidfd = os.pidfd_open(status(thread).process)
    try:
        return abi.pidfd_getfd(pidfd, fd)
    finally:
        os.close(pidfd)


class Status(NamedTuple):
    """From /proc/TID/status.

    Attributes:
        process: the thread group's id.
        state: S for an interruptible wait, D for one that only SIGKILL interrupts, and others
            (proc(5)).
    """

    process: int
    state: str


def status(thread: int) -> Status:
    """Read a thread's status.

    Raises:
        OSError: the thread is gone.
    """
    with open(f"/proc/{thread}/status", "rb") as f:  # noqa: PTH123 (polled while accept waits)
        fields = dict(line.split(b":", 1) for line in f)
    return Status(process=int(fields[b"Tgid"]), state=fields[b"State"].split()[0].decode())
