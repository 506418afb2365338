"""Rules for a process that runs a program as its child: which signals it forwards, the exit code.

Forwarding is for the main thread of a process that has no other threads.
"""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Final

FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
AWAITED = (*FORWARDED, signal.SIGCHLD)

_PR_SET_PDEATHSIG = 1
"""<linux/prctl.h>"""


def block_signals() -> set[int]:
    """Block the signals that `next_signal` waits for; return the mask there was before."""
    # If our parent ignores SIGCHLD so do we, and the kernel would keep no exit status for us.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)}


def next_signal() -> int:
    """Wait for SIGCHLD, or for a signal to forward to the child, and return its number.

    Signals from the terminal (SI_KERNEL: the keyboard, a hangup) are skipped: the kernel sends
    them to the whole foreground process group, the child included.
    """
    while True:
        received = signal.sigwaitinfo(AWAITED)
        if received.si_signo == signal.SIGCHLD or received.si_code <= 0:
            return received.si_signo


def exit_code(returncode: int) -> int:
    """Return a child's exit code as a shell has it: 128+N if signal N ended it.

    Args:
        returncode: as `subprocess` and `os.waitstatus_to_exitcode` have it, -N for signal N.
    """
    return returncode if returncode >= 0 else 128 - returncode


def exec_hint(program: str, number: int | None) -> str:
    """Return what to do about a program that cannot be executed.

    Args:
        program: as it was given.
        number: the errno of execve(2); None if it did not come so far.
    """
    if number == errno.ENOENT and "/" not in program:
        return "is it in PATH?"
    if number == errno.ENOENT and os.path.lexists(program):
        return "what starts it is missing: the interpreter in its first line, or its loader"
    if number == errno.EACCES and Path(program).is_dir():
        return "it is a folder: name a program"
    return _EXEC_HINTS.get(number or 0, "")


_EXEC_HINTS: Final = {
    errno.ENOENT: "is the path right?",
    errno.EACCES: "may this user execute it? If it is a script: chmod +x, or sh FILE",
    errno.ENOEXEC: "it is no program for this machine; a script begins with #! and its interpreter",
}


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends. For a child that was just forked.

    Args:
        parent: the process that forked: if it has ended already, this process ends here.
    """
    import ctypes  # noqa: PLC0415 (for few processes)

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
