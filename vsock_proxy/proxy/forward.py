"""What is to be forwarded: listeners, targets, and who and what is allowed."""

from __future__ import annotations

import dataclasses
import logging
import resource
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import Address, TcpAddress
from vsock_proxy.relay.connection import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vsock_proxy.proxy.allowlist import Allowlist

log = logging.getLogger(__name__)

_SPARE_DESCRIPTORS = 64


@dataclass(frozen=True, slots=True)
class Forward:
    """One listener and where its connections go.

    Attributes:
        listen: accepted on this address.
        to: connected to this one.
        family: AF_INET or AF_INET6 where only such addresses of `to` will do.
        name: what it is called in the log and in metrics; "": by its target.
        prefer: AF_INET or AF_INET6 where such addresses of `to` are to be tried first.
        cids: peers that may come, for a vsock listener; None for all, and for other listeners.
        allowlist: what a host in `to` is held against, and the addresses it resolves to; None
            where the caller has checked both. Vsock and UNIX targets need no permission.
        limits: its own; None for those of the daemon.
    """

    listen: Address
    to: Address
    family: socket.AddressFamily = socket.AF_UNSPEC
    name: str = ""
    prefer: socket.AddressFamily = socket.AF_UNSPEC
    cids: frozenset[int] | None = None
    allowlist: Allowlist | None = None
    limits: Limits | None = None

    @property
    def target(self) -> str:
        """Its target, for people."""
        return str(self.to).removeprefix("tcp://")

    @property
    def title(self) -> str:
        """Its name, or else its target."""
        return self.name or self.target

    @property
    def allowed(self) -> bool:
        """Whether it may forward to where it does; where not, it refuses every connection."""
        if self.allowlist is None or not isinstance(self.to, TcpAddress):
            return True
        return self.allowlist.allows(self.to.host, self.to.port)


def check_distinct(forwards: Sequence[Forward]) -> None:
    """See that no two forwards listen on the same address, or have the same name.

    Raises:
        ConfigurationError: two do.
    """
    listens: set[Address] = set()
    names: set[str] = set()
    for forward in forwards:
        if forward.listen in listens and getattr(forward.listen, "port", None) != 0:
            raise ConfigurationError(f"two forwards listen on {forward.listen}")
        if forward.name and forward.name in names:
            raise ConfigurationError(f"two forwards are called {forward.name!r}")
        listens.add(forward.listen)
        names.add(forward.name)


def within_descriptors(
    forwards: Sequence[Forward], *, limits: Limits | None = None, spare: int = _SPARE_DESCRIPTORS
) -> list[Forward]:
    """Let this process have the descriptors that the forwards' limits need.

    Systems start processes with 1024 of them for the sake of programs that use select(2); the
    hard limit is what is really allowed. Where that is too low, fewer connections are better
    than many that were accepted and find no descriptor for their other half.

    Args:
        forwards: all there are.
        limits: of those that say none.
        spare: descriptors that are needed for other things.

    Returns:
        The forwards, with limits that can be kept.
    """
    whole = [forward.limits or limits or Limits() for forward in forwards]
    spare += len(forwards)
    wanted = spare + sum(2 * each.connections + each.waiting for each in whole)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        share = max(0, allowed - spare) / (wanted - spare)
        connections = sum(each.connections for each in whole)
        whole = [
            dataclasses.replace(
                each,
                connections=max(1, int(each.connections * share)),
                waiting=max(1, int(each.waiting * share)),
            )
            for each in whole
        ]
        log.warning(
            "%d file descriptors (ulimit -Hn) are enough for %d connections, not for %d",
            allowed,
            sum(each.connections for each in whole),
            connections,
        )
    return [dataclasses.replace(f, limits=each) for f, each in zip(forwards, whole, strict=True)]
