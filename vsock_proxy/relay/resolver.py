"""Resolves a target to socket addresses without blocking the event loop."""

from __future__ import annotations

import collections
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from vsock_proxy.net.addresses import (
    Address,
    HybridAddress,
    TcpAddress,
    TunnelAddress,
    UnixAddress,
    VsockAddress,
)
from vsock_proxy.net.resolving import Candidate, look_up

log = logging.getLogger(__name__)

KEEP = 5.0
"""Seconds for which addresses are used; in the second half of them, a use starts the next look-up,
so that a busy target never waits. The C library does not tell their time to live, but the resolver
it asks keeps them for just that long (docs/adr/0008); AWS's endpoints say 5 to 60 s."""

MAX_KNOWN = 256
"""Addresses of a host that are kept. A response of DNS has room for thousands."""

MAX_TRIED = 16
"""Of these, how many one connection tries: each gets its share of the time, and a name server must
not have the parent knock on thousands of doors. Those that fail are the last ones of the next."""

Resolved = list[Candidate] | OSError
"""Addresses in the order to try them, or why there are none."""

LookUp = Callable[[str, int, socket.AddressFamily], Sequence[Candidate]]
"""Blocks until the system's resolver responds. Raises OSError."""


class Resolver(Protocol):
    """Finds the socket addresses of one target."""

    def find(self, then: Callable[[Resolved], None]) -> None:
        """Call `then` with the result on the loop, now or later."""
        ...

    def forget(self, then: Callable[[Resolved], None]) -> None:
        """Cancel a `find`: do not call `then`."""
        ...

    def failed(self, candidate: Candidate) -> None:
        """No connection to this address: try it after the others from now on."""
        ...


class Permissions(Protocol):
    """Decides which of a host's addresses may be connected to; the proxy's allowlist is one."""

    def allows_resolved(self, host: str, address: str, port: int) -> bool:
        """Return whether this address, which `host` resolves to, may be connected to."""
        ...


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Which of a host's addresses are used, and in which order.

    Attributes:
        family: AF_INET or AF_INET6 to use only such addresses.
        prefer: AF_INET or AF_INET6 to try such addresses first.
        permissions: what addresses are checked against; None: they are not.
        log_rejected: log addresses that are not allowed. Not where clients choose the hosts:
            they could flood the log.
    """

    family: socket.AddressFamily = socket.AF_UNSPEC
    prefer: socket.AddressFamily = socket.AF_UNSPEC
    permissions: Permissions | None = None
    log_rejected: bool = True

    def select(self, host: str, port: int, found: Sequence[Candidate]) -> list[Candidate]:
        """Return the allowed addresses of a host, those of the preferred family first."""
        allowed = []
        for family, name in sorted(found, key=lambda candidate: candidate[0] != self.prefer):
            address = str(name[0])  # type: ignore[index]
            if self.permissions is None or self.permissions.allows_resolved(host, address, port):
                allowed.append((family, name))
            elif self.log_rejected:
                # At most one look-up in `KEEP` seconds: this floods no log.
                log.warning(
                    "%s resolves to %s, a special address that is not on the allowlist itself",
                    host,
                    address,
                )
        return allowed


def resolver_for(
    target: Address | TunnelAddress,
    policy: AddressPolicy,
    call_from_thread: Callable[[Callable[[], None]], None],
) -> Resolver:
    """Make the resolver of a target.

    Args:
        target: a host in it is looked up when it is needed.
        policy: for the addresses of a host.
        call_from_thread: calls a function on the loop, from any thread.
    """
    match target:
        case VsockAddress(cid, port):
            return _Fixed((socket.AF_VSOCK, (cid, port)))
        case UnixAddress(path):
            return _Fixed((socket.AF_UNIX, path))
        case HybridAddress():
            return _Fixed((socket.AF_UNIX, target))
        case TunnelAddress():
            return _Fixed((_family_of(target.via), target))
        case TcpAddress():
            return HostResolver(target, policy, call_from_thread)


def _family_of(via: VsockAddress | UnixAddress | TcpAddress) -> socket.AddressFamily:
    match via:
        case VsockAddress():
            return socket.AF_VSOCK
        case UnixAddress():
            return socket.AF_UNIX
        case TcpAddress(host, _):
            return socket.AF_INET6 if ":" in host else socket.AF_INET


class _Fixed:
    """An address that needs no look-up."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate

    def find(self, then: Callable[[Resolved], None]) -> None:
        then([self._candidate])

    def forget(self, then: Callable[[Resolved], None]) -> None:
        pass

    def failed(self, candidate: Candidate) -> None:
        pass


class HostResolver:
    """Looks up a host name (or IP address) in a thread, one look-up at a time.

    If a look-up fails, the addresses of the last successful one are used.

    Args:
        target: the host and its port.
        policy: for its addresses.
        call_from_thread: calls a function on the loop, from any thread.
        look_up: production code leaves it out.
        monotonic: clock; production code leaves it out.
        keep: seconds for which addresses are used.
        run: runs a look-up in a thread, on the loop's thread; by default in a new one. Raises
            RuntimeError if there is none to be had.
    """

    def __init__(
        self,
        target: TcpAddress,
        policy: AddressPolicy,
        call_from_thread: Callable[[Callable[[], None]], None],
        *,
        look_up: LookUp = look_up,
        monotonic: Callable[[], float] = time.monotonic,
        keep: float = KEEP,
        run: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self._run = run or _in_new_thread
        self._target = target
        self._policy = policy
        self._call_from_thread = call_from_thread
        self._look_up = look_up
        self._monotonic = monotonic
        self._keep = keep
        self._known: list[Candidate] = []
        self._fresh_until = self._valid_until = monotonic()
        self._looking_up = False
        self._waiting: dict[Callable[[Resolved], None], None] = {}

    def find(self, then: Callable[[Resolved], None]) -> None:
        """See `Resolver.find`."""
        now = self._monotonic()
        if self._known and now < self._valid_until:
            then(self._known[:MAX_TRIED])
            if now >= self._fresh_until:
                self._start_look_up()
            return
        self._waiting[then] = None
        self._start_look_up()

    def forget(self, then: Callable[[Resolved], None]) -> None:
        """See `Resolver.forget`."""
        self._waiting.pop(then, None)

    def failed(self, candidate: Candidate) -> None:
        """See `Resolver.failed`."""
        if candidate in self._known:
            self._known.remove(candidate)
            self._known.append(candidate)

    def _start_look_up(self) -> None:
        if self._looking_up:
            return
        self._looking_up = True
        try:
            self._run(self._in_thread)
        except RuntimeError as e:
            error = OSError(f"cannot start a thread to look it up: {e}")
            self._call_from_thread(lambda: self._resolved(error))

    def _in_thread(self) -> None:
        result: Resolved
        try:
            result = list(self._look_up(self._target.host, self._target.port, self._policy.family))
        except OSError as e:
            result = e
        self._call_from_thread(lambda: self._resolved(result))

    def _resolved(self, result: Resolved) -> None:
        self._looking_up = False
        if isinstance(result, OSError):
            log.debug("cannot look up %s: %s", self._target.host, result)
            if self._known:
                result = self._known
        else:
            result = self._policy.select(self._target.host, self._target.port, result)
            result = self._known = result[:MAX_KNOWN]
            if not result:
                result = PermissionError("its addresses are special and not on the allowlist")
        self._fresh_until = self._monotonic() + self._keep / 2
        self._valid_until = self._monotonic() + self._keep
        waiting, self._waiting = self._waiting, {}
        for then in waiting:
            then(result if isinstance(result, OSError) else result[:MAX_TRIED])


def _in_new_thread(call: Callable[[], None]) -> None:
    # A daemon thread: the C library cannot be interrupted, and must not delay the exit.
    threading.Thread(target=call, name="look-up", daemon=True).start()


class LookUpThreads:
    """Runs look-ups in threads, a bounded number at a time; others wait for one to end.

    For hosts that clients choose: each name is a look-up, and a resolver that does not respond
    holds its thread for as long as /etc/resolv.conf allows. One group of names, those of a zone
    whose servers are dead, gets a quarter of the threads and of the places, and leaves the others
    to the rest.

    Args:
        call_from_thread: calls a function on the loop, from any thread.
        threads: at the same time.
        waiting: look-ups that wait, at most.
    """

    def __init__(
        self,
        call_from_thread: Callable[[Callable[[], None]], None],
        *,
        threads: int = 32,
        waiting: int = 1024,
    ) -> None:
        self._call_from_thread = call_from_thread
        self._free = threads
        self._most_of_one = max(1, threads // 4)
        self._most_waiting_of_one = max(1, waiting // 4)
        self._most_waiting = waiting
        self._running: collections.Counter[str] = collections.Counter()
        self._waiting: collections.Counter[str] = collections.Counter()
        self._queue: collections.deque[tuple[str, Callable[[], None]]] = collections.deque()

    def run(self, call: Callable[[], None], group: str = "") -> None:
        """Run a function in a thread, now or later. On the loop's thread.

        Raises:
            RuntimeError: too many wait, or the system gives no thread.
        """
        if self._has_thread(group):
            self._start(group, call)
        elif (
            len(self._queue) < self._most_waiting
            and self._waiting[group] < self._most_waiting_of_one
        ):
            self._queue.append((group, call))
            self._waiting[group] += 1
        else:
            raise RuntimeError("too many names are being looked up")

    def _has_thread(self, group: str) -> bool:
        return self._free > 0 and self._running[group] < self._most_of_one

    def _start(self, group: str, call: Callable[[], None]) -> None:
        _in_new_thread(lambda: self._in_thread(group, call))
        self._free -= 1
        self._running[group] += 1

    def _in_thread(self, group: str, call: Callable[[], None]) -> None:
        try:
            call()
        finally:
            self._call_from_thread(lambda: self._ended(group))

    def start_waiting(self) -> None:
        """Start look-ups that wait, as far as there are threads. On the loop's thread.

        To be called once a tick as well as at the end of each look-up: if the system gave no thread
        when the last one ended, no other end would start those that wait.
        """
        kept: collections.deque[tuple[str, Callable[[], None]]] = collections.deque()
        while self._queue and self._free:
            group, call = self._queue.popleft()
            if not self._has_thread(group):
                kept.append((group, call))
                continue
            try:
                self._start(group, call)
            except RuntimeError:  # the system gives no thread: the same holds for the others
                kept.append((group, call))
                break
            _decrease(self._waiting, group)
        self._queue.extendleft(reversed(kept))

    def _ended(self, group: str) -> None:
        self._free += 1
        _decrease(self._running, group)
        self.start_waiting()


def _decrease(counter: collections.Counter[str], group: str) -> None:
    counter[group] -= 1
    if not counter[group]:
        del counter[group]
