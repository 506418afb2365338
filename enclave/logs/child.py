"""The process in front of a program: takes what it prints, and is to others as if it were it."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_PASSED_ON = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_AWAITED = (*_PASSED_ON, signal.SIGCHLD)

_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class Program(NamedTuple):
    """A program that was started.

    Attributes:
        pid: its process.
        pipes: ends to read what it prints from: standard output, standard error.
    """

    pid: int
    pipes: list[int]


def spawn(argv: Sequence[str], env: Mapping[str, str]) -> Program:
    """Start a program, looked up in PATH, whose output goes into pipes.

    Signals are held back from now on, for `wait`.

    Raises:
        OSError: there is no such program, or it cannot be executed.
        ValueError: a NUL in an argument.
    """
    before = _hold_back()
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    try:
        pid = os.posix_spawnp(
            argv[0],
            list(argv),
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, out_end, 1), (os.POSIX_SPAWN_DUP2, err_end, 2)],
            setsigmask=before,
            setsigdef=_IGNORED_BY_PYTHON,
        )
    except BaseException:
        os.close(out)
        os.close(err)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    finally:
        os.close(out_end)
        os.close(err_end)
    return Program(pid, [out, err])


def divide() -> Program | None:
    """Make two of this process: one that goes on, and one in front that was it so far.

    Only before there are threads, and before anything was printed that waits in a buffer.

    Returns:
        The one in front: what goes on, as a `Program`. The one that goes on: None; what it prints
        goes into pipes.
    """
    before = _hold_back()
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(out_end, 1)
        os.dup2(err_end, 2)
        for fd in (out, out_end, err, err_end):
            os.close(fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return None
    os.close(out_end)
    os.close(err_end)
    return Program(pid, [out, err])


def wait(pid: int) -> int:
    """Pass signals on to a program until it ends; its exit code, 128+N if signal N ended it."""
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        received = signal.sigwaitinfo(_AWAITED)
        # What comes from the kernel (SI_KERNEL) comes from the terminal, which tells its whole
        # foreground group, the program included.
        if received.si_signo != signal.SIGCHLD and received.si_code <= 0:
            with contextlib.suppress(PermissionError):  # It may be another user by now.
                os.kill(pid, received.si_signo)


def _hold_back() -> Iterable[int]:
    # Whoever started us may have it ignored: then no child could be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
