"""Errors of a machine or a process that lacks descriptors, memory, threads or space.

They arise anywhere, imports included, and say nothing of the program: each becomes one error.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from vsock_proxy.errors import AgentError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}
_MEMORY = {errno.ENOMEM, errno.ENOBUFS}
_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
LOOP_DESCRIPTORS = 4
"""Descriptors that an event loop opens when it starts: epoll, a socket pair, and one to spare."""

_THREADS = -1
_LOADER = {
    # glibc's words in an ImportError, which has no number.
    "Too many open files": errno.EMFILE,
    "Cannot allocate memory": errno.ENOMEM,
    "failed to map segment": errno.ENOMEM,
    "cannot create shared object descriptor": errno.ENOMEM,
    "cannot allocate": errno.ENOMEM,
}


def scarcity(error: BaseException) -> AgentError | None:
    """Return an error that names what is scarce; None if the error is of another kind."""
    for each in _with_causes(error):
        match _number(each):
            case None:
                continue
            case number if number in _DESCRIPTORS:
                return AgentError(
                    "out of file descriptors",
                    hint="raise the limit: ulimit -n, or LimitNOFILE= of a systemd unit",
                )
            case number if number in _MEMORY:
                return AgentError(
                    "out of memory",
                    hint="give it more, or raise its limit: ulimit -v, a container's or a unit's",
                )
            case number if number == _THREADS:
                return _no_thread()
            case number if number in _SPACE:
                where = getattr(each, "filename", None)
                return AgentError(
                    "no space left" + (f" for {where}" if where else ""),
                    hint="is the disk full, or a quota or a limit of file sizes used up?",
                )
    return None


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Around the start of a thread or a process: what the system lacks is one error.

    Where neither can be started, fork(2) fails with EAGAIN, which has other meanings elsewhere,
    and Python raises RuntimeError for a thread.

    Raises:
        AgentError: there are no more threads or processes, or too little of something else.
    """
    try:
        yield
    except BlockingIOError as e:
        raise _no_thread() from e
    except (OSError, RuntimeError) as e:
        lack = scarcity(e)
        if lack is None:
            raise
        raise lack from e


def hint_of(error: AgentError) -> str:
    """Return an error's hint; if it came from scarcity, what to do about that."""
    lack = scarcity(error)
    return lack.hint if lack is not None else error.hint


def require_descriptors(count: int, purpose: str) -> None:
    """Check that a process may open so many descriptors more.

    Where there are too few, an event loop leaves half of itself behind, and a traceback.

    Raises:
        ConfigurationError: it may not.
    """
    opened: list[int] = []
    try:
        opened.extend(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(count))
    except OSError as e:
        lack = scarcity(e)
        raise ConfigurationError(
            f"{purpose} needs {count} more file descriptors: {e.strerror}",
            hint=lack.hint if lack else "",
        ) from e
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _no_thread() -> AgentError:
    return AgentError(
        "cannot start a thread or process",
        hint="raise the limit of processes (ulimit -u, pids.max), or give more memory",
    )


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _number(error: BaseException) -> int | None:
    """Return the errno of what is scarce, as far as an error tells."""
    if isinstance(error, OSError):
        return error.errno
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return _THREADS
    if isinstance(error, ImportError):
        with contextlib.suppress(StopIteration):
            return next(number for words, number in _LOADER.items() if words in str(error))
    return None
