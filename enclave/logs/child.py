"""Runs a program as a child: its output goes into pipes, signals are forwarded to it."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from vsock_proxy.errors import AgentError
from vsock_proxy.service.child import block_signals, end_with_parent, exit_code, next_signal
from vsock_proxy.service.scarcity import starting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class Program(NamedTuple):
    """A child process.

    Attributes:
        pid: its process id.
        pipes: where to read its standard output and standard error from.
    """

    pid: int
    pipes: list[int]


def spawn(argv: Sequence[str], env: Mapping[str, str]) -> Program:
    """Start a program, looked up in PATH. Signals are blocked from now on, for `wait`.

    Only while there are no threads.

    Raises:
        AgentError: the system has no more processes.
        OSError: the program does not exist or cannot be executed.
        ValueError: an argument contains NUL.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    failed, failure = os.pipe()  # The other end is closed by a successful exec.
    try:
        program = divide()
    except AgentError:
        os.close(failed)
        os.close(failure)
        raise
    if program is None:
        _execute(argv, env, failure)
    os.close(failure)
    with open(failed, "rb") as pipe:  # noqa: PTH123 (a descriptor)
        error = pipe.read()
    if not error:
        return program
    os.waitpid(program.pid, 0)
    for fd in program.pipes:
        os.close(fd)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    code = int(error)
    raise OSError(code, os.strerror(code)) if code else ValueError("embedded null byte")


def _execute(argv: Sequence[str], env: Mapping[str, str], failure: int) -> NoReturn:
    """Become the program, or write the error's number (0: none) to `failure` and exit."""
    code = 0
    try:
        for number in _IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(argv[0], list(argv), env)  # noqa: S606 (without a shell, on purpose)
    except OSError as e:
        code = e.errno or 0
    finally:
        os.write(failure, b"%d" % code)
        os._exit(127)


def divide() -> Program | None:
    """Fork: the child goes on, the parent stays in front of it, for `wait`.

    Only while there are no threads, and no buffered output. The child is killed when the parent
    ends.

    Raises:
        AgentError: the system has no more processes.

    Returns:
        In the parent, the child. In the child, None; its output goes into the pipes.
    """
    before = block_signals()
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    parent = os.getpid()
    try:
        with starting():
            pid = os.fork()
    except AgentError:
        for fd in (out, out_end, err, err_end):
            os.close(fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    if pid == 0:
        end_with_parent(parent)
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
    """Forward signals to a child until it ends; return its exit code, 128+N after signal N."""
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return exit_code(os.waitstatus_to_exitcode(status))
        number = next_signal()
        if number != signal.SIGCHLD:
            with contextlib.suppress(PermissionError):  # It may run as another user by now.
                os.kill(pid, number)
