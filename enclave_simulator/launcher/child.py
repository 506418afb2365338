"""Runs COMMAND as a child: signals are forwarded to it, and no process of it is left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsock_proxy.service.child import block_signals, next_signal

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

_PR_SET_CHILD_SUBREAPER = 36
_KILLED_WITHIN = 5.0
"""Seconds; only a process stuck in the kernel outlives SIGKILL by that much."""


def adopt_orphans() -> None:
    """Become the parent of processes that ours leave behind, so that `end_orphans` finds them."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@contextlib.contextmanager
def in_front() -> Iterator[None]:
    """Block signals for `pass_through`, and adopt COMMAND's orphans.

    A daemon that COMMAND forks becomes our child: so Yama (kernel.yama.ptrace_scope 1) still
    lets us access its memory, and `end_orphans` finds it. For the main thread of a process that
    does nothing else, before it starts COMMAND.
    """
    adopt_orphans()
    before = block_signals()
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def pass_through(command: subprocess.Popen[Any], services: set[int]) -> None:
    """Forward signals to COMMAND until it ends, and reap orphans."""
    while command.poll() is None:
        number = next_signal()
        if number == signal.SIGCHLD:
            _reap(_children() - services - {command.pid})
        else:
            command.send_signal(number)


def end_orphans(services: set[int]) -> None:
    """Kill processes that COMMAND left behind: an enclave ends with its first program."""
    deadline = time.monotonic() + _KILLED_WITHIN
    while (orphans := _children() - services) and time.monotonic() < deadline:
        for orphan in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan, signal.SIGKILL)
        _reap(orphans)  # Their children become ours: another round finds them.
        signal.sigtimedwait((signal.SIGCHLD,), 0.05)


def _reap(children: set[int]) -> None:
    for child in children:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, os.WNOHANG)


def _children() -> set[int]:
    """Return our child processes, from /proc/PID/task/TID/children (proc(5))."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.update(map(int, (task / "children").read_text().split()))
    return found
