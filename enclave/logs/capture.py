"""Reads a program's output, in a thread, as fast as it comes."""

from __future__ import annotations

import fcntl
import os
import selectors
import socket
import threading
from typing import TYPE_CHECKING

from enclave.logs.outbox import LONGEST
from vsock_proxy.errors import AgentError
from vsock_proxy.service.log_lines import LineSplitter
from vsock_proxy.service.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

_READ_SIZE = 1 << 16


class Capture:
    """Reads pipes and passes on whole lines: the lines of two pipes do not mix.

    Args:
        pipes: ends to read from; closed at the end.
        put: takes lines without line ends; must not block.

    Raises:
        AgentError: the system has no more threads. The pipes are closed.
    """

    def __init__(self, pipes: list[int], put: Callable[[list[bytes]], None]) -> None:
        self._splitters = {pipe: LineSplitter(LONGEST) for pipe in pipes}
        self._put = put
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        for pipe in pipes:
            os.set_blocking(pipe, False)
            self._selector.register(pipe, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="log-capture", daemon=True)
        try:
            start_thread(self._thread)
        except AgentError:
            self._close()
            raise

    def stop(self) -> None:
        """Read what is in the pipes now, then stop.

        Processes that the program left behind may keep the pipes open, and go on writing.
        """
        self._waker.send(b"\0")
        self._thread.join()
        self._close()

    def _run(self) -> None:
        stopping = False
        while self._splitters and not stopping:
            for key, _ in self._selector.select():
                if key.fd == self._woken.fileno():
                    stopping = True
                elif self._read(key.fd) == 0:
                    self._end(key.fd)
        for pipe in list(self._splitters):
            left = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
            while left > 0 and (size := self._read(pipe)):
                left -= size
            self._end(pipe)

    def _read(self, pipe: int) -> int:
        """Read once; return 0 if there is nothing, or at the end."""
        try:
            data = os.read(pipe, _READ_SIZE)
        except BlockingIOError:
            return 0
        if lines := self._splitters[pipe].feed(data):
            self._put(lines)
        return len(data)

    def _close(self) -> None:
        for pipe in self._splitters:
            os.close(pipe)
        self._selector.close()
        self._waker.close()
        self._woken.close()

    def _end(self, pipe: int) -> None:
        if lines := self._splitters.pop(pipe).end():
            self._put(lines)
        self._selector.unregister(pipe)
        os.close(pipe)
