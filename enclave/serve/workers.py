"""Further processes of the endpoint: each accepts from the same socket, with limits of its own.

A process of Python computes on one CPU at a time. The first process forks the others before it
starts a thread or a loop, and each makes its own key pair, connections and pool. A socket pair for
each is all that both ends need: its end means to the worker that it is to stop, whether the
first process says so or has died; and to the first process that the worker has died.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from enclave.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Callable

    Work = Callable[[int, socket.socket], int]
    """Serves as the process of this number, until the socket ends; returns the exit code."""

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Of which the first process decides: a keyboard's interrupt reaches all of them. A worker ignores
them from its beginning: they are blocked around the fork."""


class WorkerEndedError(AgentError):
    """A process of the endpoint has ended by itself."""


class _Worker(NamedTuple):
    number: int
    pid: int
    life: socket.socket


class Workers:
    """The worker processes, for the process that has forked them. To be closed."""

    def __init__(self) -> None:
        self._workers: list[_Worker] = []
        self._stopping = False

    def fork(self, count: int, work: Work) -> None:
        """Start workers. There must be no other thread, and no event loop.

        Args:
            count: how many; their numbers begin with 1.
            work: what each does.

        Raises:
            AgentError: the system has no more processes.
        """
        for number in range(1, count + 1):
            ours, theirs = socket.socketpair()
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            try:
                pid = os.fork()
                if pid == 0:
                    for each in _SIGNALS:
                        signal.signal(each, signal.SIG_IGN)
            except OSError as e:
                ours.close()
                theirs.close()
                raise AgentError(
                    f"cannot start another process: {e.strerror}",
                    hint="lower --processes; the enclave has too little memory, or a limit",
                ) from e
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            if pid == 0:
                ours.close()
                self._forget()
                _work(number, work, theirs)
            theirs.close()
            self._workers.append(_Worker(number, pid, ours))

    def watch(self, died: Callable[[WorkerEndedError], None]) -> None:
        """Have `died` called on the running loop when a worker ends before it was stopped."""
        loop = asyncio.get_running_loop()
        for worker in self._workers:
            worker.life.setblocking(False)  # noqa: FBT003 (the standard library's signature)
            loop.add_reader(worker.life, self._ended, worker, died)

    async def drain(self, _seconds: float) -> None:
        """Have the workers end their calls, in a time of their own; wait until they have ended."""
        self._stopping = True
        loop = asyncio.get_running_loop()
        for worker in self._workers:
            loop.remove_reader(worker.life)
            worker.life.shutdown(socket.SHUT_WR)
        for worker in self._workers:
            await loop.sock_recv(worker.life, 1)  # its end

    def close(self) -> None:
        """Kill the workers that are left."""
        for worker in self._workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
            worker.life.close()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(worker.pid, 0)
        self._workers.clear()

    def _ended(self, worker: _Worker, died: Callable[[WorkerEndedError], None]) -> None:
        asyncio.get_running_loop().remove_reader(worker.life)
        if self._stopping:
            return
        _, status = os.waitpid(worker.pid, 0)
        self._workers.remove(worker)
        worker.life.close()
        code = os.waitstatus_to_exitcode(status)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        died(
            WorkerEndedError(
                f"process {worker.number} of the endpoint {how}",
                hint="SIGKILL is often too little memory; otherwise see its lines in the log",
            )
        )

    def _forget(self) -> None:
        """Close what a worker inherits of the others, whose ends must be the first process's."""
        for worker in self._workers:
            worker.life.close()
        self._workers.clear()


def _work(number: int, work: Work, life: socket.socket) -> NoReturn:
    """Do the work of a worker, and end the process without the first one's clean-up."""
    code = 1
    try:
        code = work(number, life)
    except AgentError as e:
        log.error("%s", f"{e} ({e.hint})" if e.hint else e)  # noqa: TRY400 (no traceback)
    except BaseException as e:
        log.error("internal error: %s", type(e).__name__)  # noqa: TRY400 (it may hold a secret)
        log.debug("internal error", exc_info=e)
    finally:
        logging.shutdown()
        os._exit(code)
