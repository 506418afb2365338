"""Being the process in front of COMMAND: signals go through, and nothing is left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

_PR_SET_CHILD_SUBREAPER = 36
_PASSED_ON = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_AWAITED = (*_PASSED_ON, signal.SIGCHLD)
_KILLED_WITHIN = 5.0
"""Seconds; only a process stuck in the kernel outlives SIGKILL by that much."""


@contextlib.contextmanager
def in_front() -> Iterator[None]:
    """Hold signals back for `pass_through`, and adopt COMMAND's orphans.

    A daemon that COMMAND forks off becomes our child: so Yama (kernel.yama.ptrace_scope 1)
    goes on to let us look into it, and `end_orphans` finds it. For the main thread of a
    process that has no other business, before it starts COMMAND.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def pass_through(command: subprocess.Popen[Any], services: set[int]) -> None:
    """Pass signals on until COMMAND ends, and reap orphans."""
    while command.poll() is None:
        received = signal.sigwaitinfo(_AWAITED)
        if received.si_signo == signal.SIGCHLD:
            _reap(_children() - services - {command.pid})
        elif received.si_code <= 0:
            # From a process. What comes from the kernel (SI_KERNEL) comes from the terminal,
            # which tells the whole foreground group, COMMAND included.
            command.send_signal(received.si_signo)


def end_orphans(services: set[int]) -> None:
    """Kill what COMMAND left running: an enclave ends with its first program."""
    deadline = time.monotonic() + _KILLED_WITHIN
    while (orphans := _children() - services) and time.monotonic() < deadline:
        for orphan in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan, signal.SIGKILL)
        _reap(orphans)  # Their children become ours: so look again.
        signal.sigtimedwait((signal.SIGCHLD,), 0.05)


def _reap(children: set[int]) -> None:
    for child in children:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, os.WNOHANG)


def _children() -> set[int]:
    """Processes whose parent we are, by /proc/PID/task/TID/children (proc(5))."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.update(map(int, (task / "children").read_text().split()))
    return found
