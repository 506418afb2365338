"""Connecting an accepted client to its target: every address in turn, without blocking."""

from __future__ import annotations

import errno
import os
import select
import socket
from typing import TYPE_CHECKING, Protocol

from vsock_proxy.net import hybrid
from vsock_proxy.net.addresses import HybridAddress
from vsock_proxy.net.sockets import INTERNET, open_stream, set_tcp_options

if TYPE_CHECKING:
    from vsock_proxy.net.resolving import Candidate, SocketName
    from vsock_proxy.net.sockets import Stream
    from vsock_proxy.relay.loop import Loop
    from vsock_proxy.relay.targets import Answer, Target

SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""The machine, or this process, has no more of what a socket needs; later it may."""


class Owner(Protocol):
    """Who is told how it went. Each opening ends in exactly one of the first two."""

    def connected(self, opening: Opening, server: Stream, events: int) -> None:
        """Both sockets are the owner's now. `server` is watched already: its events go on
        coming to `opening` until they are handed over, and `events` are those so far.
        """
        ...

    def not_connected(self, opening: Opening, error: OSError) -> None:
        """No address answered (`error`: the last one tried); the client's socket is the owner's
        to close.
        """
        ...

    def starved(self, opening: Opening) -> None:
        """There is no descriptor to be had; `start` again when there may be."""
        ...


class Opening:
    """A client that was accepted and has nobody to talk to yet.

    Its own socket is not watched meanwhile: what it sends waits in the kernel.

    Attributes:
        client: the accepted socket.
        peer: its address.
        since: when it was accepted, in the loop's time.
        deadline: when to give up, in the loop's time.
    """

    __slots__ = (
        "_answer",
        "_attempt_deadline",
        "_error",
        "_left",
        "_loop",
        "_owner",
        "_server",
        "_target",
        "client",
        "deadline",
        "peer",
        "since",
    )

    def __init__(
        self,
        loop: Loop,
        client: Stream,
        peer: object,
        *,
        target: Target,
        owner: Owner,
        timeout: float,
    ) -> None:
        self._loop = loop
        self._target = target
        self._owner = owner
        self._server: Stream | None = None
        self._answer: hybrid.Answer | None = None
        self._left: list[Candidate] = []
        self._error: OSError | None = None
        self.since = loop.now
        self._attempt_deadline = self.deadline = loop.now + timeout
        self.client = client
        self.peer = peer

    def start(self) -> None:
        """Find out the addresses and try them. Only where descriptors may be opened."""
        self._target.find(self._found)

    def ready(self, fd: int, events: int) -> None:
        """The attempt succeeded or failed."""
        server = self._server
        if server is None or server.fileno() != fd:
            return
        # A failed attempt is an error and a hangup; to ask each time is a system call for each.
        failed = events & (select.EPOLLERR | select.EPOLLHUP)
        code = server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if failed else 0
        if code:
            self._attempt_failed(OSError(code, os.strerror(code)))
            return
        if self._answer is not None:
            try:
                self._answer.read(server.recv)
            except BlockingIOError:
                return
            except OSError as e:
                self._attempt_failed(e)
                return
        self._server = None
        self._owner.connected(self, server, events)

    def look_over(self) -> None:
        """Give up what took too long. Called once a tick."""
        if self._server is not None and self._loop.now >= self._attempt_deadline:
            self._attempt_failed(TimeoutError("no answer"))
        elif self._loop.now >= self.deadline:
            self.cancel()
            late = TimeoutError("looking up its name takes too long")
            self._owner.not_connected(self, self._error or late)
        else:
            self._try_next()

    def cancel(self) -> None:
        """Stop trying. The client's socket stays open."""
        self._target.forget(self._found)
        self._left = []
        if self._server is not None:
            self._loop.forget(self._server.fileno())
            self._server.close()
            self._server = None

    def _found(self, answer: Answer) -> None:
        if isinstance(answer, OSError):
            self._owner.not_connected(self, answer)
            return
        self._left = answer
        self._try_next()

    def _try_next(self) -> None:
        """Start connecting to the next address."""
        if not self._left or self._server is not None:
            return
        family, name = self._left[0]
        try:
            server = open_stream(family)
        except OSError as e:
            if e.errno in SCARCE:
                self.cancel()
                self._owner.starved(self)
            else:
                self._attempt_failed(e)
            return
        try:
            self._start_attempt(server, family, name)
        except BlockingIOError:
            server.close()
            # A UNIX socket's; the next tick tries again.
            self._error = TimeoutError("its backlog is full")
        except OSError as e:
            server.close()
            self._attempt_failed(e)

    def _start_attempt(
        self, server: Stream, family: socket.AddressFamily, name: SocketName
    ) -> None:
        if family in INTERNET:
            set_tcp_options(server)
        self._answer = None
        code = server.connect_ex(name.path if isinstance(name, HybridAddress) else name)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        if isinstance(name, HybridAddress):
            # A UNIX socket is connected by now, and has room for so little.
            self._answer = hybrid.Answer()
            server.send(hybrid.request(name.port), socket.MSG_NOSIGNAL)
        self._loop.add(server.fileno(), self)
        self._server = server
        # So that one dead address does not use up the time of the others.
        time_left = self.deadline - self._loop.now
        self._attempt_deadline = self._loop.now + time_left / len(self._left)

    def _attempt_failed(self, error: OSError) -> None:
        self._error = error
        self._target.failed(self._left.pop(0))
        left = self._left
        self.cancel()
        if left:
            self._left = left
            self._loop.later(self._try_next)
        else:
            self._owner.not_connected(self, error)
