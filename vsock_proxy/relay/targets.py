"""Where connections are forwarded to: the socket addresses of one destination, found without
blocking the loop.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from vsock_proxy.net.addresses import Address, HybridAddress, TcpAddress, UnixAddress, VsockAddress
from vsock_proxy.net.resolving import Candidate, look_up

log = logging.getLogger(__name__)

KEEP = 5.0
"""Seconds for which addresses are used; from half of them on, a use has the name looked up again
meanwhile, so that a busy target never waits. The C library does not tell how long they are good
for, but the resolver it asks keeps them for just that long (docs/adr/0008); AWS's endpoints say 5
to 60 s."""

Answer = list[Candidate] | OSError


class Permissions(Protocol):
    """Decides which of a host's addresses may be connected to; the proxy's allowlist is one."""

    def allows_resolved(self, host: str, address: str, port: int) -> bool:
        """Return whether this address, which `host` resolves to, may be connected to."""
        ...


class Target(Protocol):
    """One destination."""

    def find(self, then: Callable[[Answer], None]) -> None:
        """Call `then` on the loop, now or later, with the addresses in the order to try them,
        or with why there are none.
        """
        ...

    def forget(self, then: Callable[[Answer], None]) -> None:
        """Do not call `then` after all."""
        ...

    def failed(self, candidate: Candidate) -> None:
        """Nothing answered there: try it after the others from now on."""
        ...


LookUp = Callable[[str, int, socket.AddressFamily], Sequence[Candidate]]
"""Blocks for as long as it takes. Raises OSError."""


def target_for(
    address: Address,
    call_from_thread: Callable[[Callable[[], None]], None],
    *,
    family: socket.AddressFamily = socket.AF_UNSPEC,
    prefer: socket.AddressFamily = socket.AF_UNSPEC,
    allowlist: Permissions | None = None,
) -> Target:
    """Make the target for an address.

    Args:
        address: a host in it is looked up when it is needed, and again later.
        call_from_thread: how a look-up's answer gets back onto the loop.
        family: AF_INET or AF_INET6 where only those addresses will do.
        prefer: AF_INET or AF_INET6 where those addresses are to be tried first.
        allowlist: what the addresses that a host resolves to are held against; None: nothing.
    """
    match address:
        case VsockAddress(cid, port):
            return _Fixed([(socket.AF_VSOCK, (cid, port))])
        case UnixAddress(path):
            return _Fixed([(socket.AF_UNIX, path)])
        case HybridAddress():
            return _Fixed([(socket.AF_UNIX, address)])
        case TcpAddress(host, port):
            return HostName(
                host,
                port,
                call_from_thread,
                family=family,
                prefer=prefer,
                allowlist=allowlist,
            )


class _Fixed:
    """Addresses that need no look-up."""

    def __init__(self, candidates: list[Candidate]) -> None:
        self._candidates = candidates

    def find(self, then: Callable[[Answer], None]) -> None:
        then(list(self._candidates))

    def forget(self, then: Callable[[Answer], None]) -> None:
        pass

    def failed(self, candidate: Candidate) -> None:
        pass


class HostName:
    """A host by its name (or IP address), looked up by a thread, one look-up at a time.

    Where a look-up fails the addresses of the last good one serve on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        call_from_thread: Callable[[Callable[[], None]], None],
        *,
        family: socket.AddressFamily = socket.AF_UNSPEC,
        prefer: socket.AddressFamily = socket.AF_UNSPEC,
        allowlist: Permissions | None = None,
        look_up: LookUp = look_up,
        monotonic: Callable[[], float] = time.monotonic,
        keep: float = KEEP,
    ) -> None:
        self._host = host
        self._port = port
        self._family = family
        self._prefer = prefer
        self._allowlist = allowlist
        self._call_from_thread = call_from_thread
        self._look_up = look_up
        self._monotonic = monotonic
        self._keep = keep
        self._known: list[Candidate] = []
        self._fresh_until = self._good_until = monotonic()
        self._busy = False
        self._waiting: dict[Callable[[Answer], None], None] = {}

    def find(self, then: Callable[[Answer], None]) -> None:
        """See `Target.find`."""
        now = self._monotonic()
        if self._known and now < self._good_until:
            then(list(self._known))
            if now >= self._fresh_until:
                self._ask()
            return
        self._waiting[then] = None
        self._ask()

    def _ask(self) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            # A daemon: the C library cannot be interrupted, and must not hold up the exit.
            threading.Thread(target=self._in_thread, name="look-up", daemon=True).start()
        except RuntimeError as e:
            error = OSError(f"no thread to look it up: {e}")
            self._call_from_thread(lambda: self._answered(error))

    def forget(self, then: Callable[[Answer], None]) -> None:
        """See `Target.forget`."""
        self._waiting.pop(then, None)

    def failed(self, candidate: Candidate) -> None:
        """See `Target.failed`."""
        if candidate in self._known:
            self._known.remove(candidate)
            self._known.append(candidate)

    def _in_thread(self) -> None:
        answer: Answer
        try:
            answer = list(self._look_up(self._host, self._port, self._family))
        except OSError as e:
            answer = e
        self._call_from_thread(lambda: self._answered(answer))

    def _answered(self, answer: Answer) -> None:
        self._busy = False
        if isinstance(answer, OSError):
            log.debug("cannot look up %s: %s", self._host, answer)
            if self._known:
                answer = self._known
        else:
            answer = self._known = self._allowed(answer)
            if not answer:
                answer = PermissionError("its addresses are special and not on the allowlist")
        self._fresh_until = self._monotonic() + self._keep / 2
        self._good_until = self._monotonic() + self._keep
        waiting, self._waiting = self._waiting, {}
        for then in waiting:
            then(answer if isinstance(answer, OSError) else list(answer))

    def _allowed(self, found: list[Candidate]) -> list[Candidate]:
        """Leave out the addresses that are not allowed; those of the preferred family first."""
        allowed = []
        for family, name in sorted(found, key=lambda candidate: candidate[0] != self._prefer):
            address = str(name[0])  # type: ignore[index]
            if self._allowlist is None or self._allowlist.allows_resolved(
                self._host, address, self._port
            ):
                allowed.append((family, name))
            else:
                # At most one look-up in `keep` seconds: this floods no log.
                log.warning(
                    "%s resolves to %s, a special address that is not on the allowlist itself",
                    self._host,
                    address,
                )
        return allowed
