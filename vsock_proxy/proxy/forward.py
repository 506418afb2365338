"""The settings of a forward: a listener, its target, and which clients and targets are allowed."""

from __future__ import annotations

import dataclasses
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import Address, ConnectProxy, TcpAddress, TunnelAddress
from vsock_proxy.net.http_connect import authority_of
from vsock_proxy.relay.connection import DEFAULT_LIMITS, RelayLimits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vsock_proxy.proxy.allowlist import Allowlist


@dataclass(frozen=True, slots=True)
class Egress:
    """A target that each client names itself, with HTTP CONNECT (`egress`).

    Attributes:
        via: another such proxy that connects to it; None to connect directly.
        side: whose allowlist this is, for the client: ``parent`` or ``image``.
    """

    via: ConnectProxy | None = None
    side: str = "parent"

    def __str__(self) -> str:
        return "hosts on the allowlist" + (f" through {self.via.via}" if self.via else "")


@dataclass(frozen=True, slots=True)
class Forward:
    """One listener and its target.

    Attributes:
        listen: the address to accept connections on.
        target: the address to connect them to, or `Egress`.
        family: AF_INET or AF_INET6 to use only such addresses of the target.
        name: its name in the log and in metrics; "" for that of the target.
        prefer: AF_INET or AF_INET6 to try such addresses of the target first.
        cids: the CIDs a vsock listener accepts; None for all, and for other listeners.
        allowlist: what a host in `target`, and the addresses it resolves to, are checked against;
            None if the caller has checked both. Vsock and UNIX targets need no permission.
        limits: of connections and times.
        allowed: whether the allowlist has the target; if not, every connection is rejected.
    """

    listen: Address
    target: Address | TunnelAddress | Egress
    family: socket.AddressFamily = socket.AF_UNSPEC
    name: str = ""
    prefer: socket.AddressFamily = socket.AF_UNSPEC
    cids: frozenset[int] | None = None
    allowlist: Allowlist | None = None
    limits: RelayLimits = DEFAULT_LIMITS
    allowed: bool = field(init=False, repr=False, compare=False, default=True)

    def __post_init__(self) -> None:
        # Here and not when it is asked for: that is on the relay's loop.
        if self.allowlist is not None and isinstance(self.target, TcpAddress):
            allowed = self.allowlist.allows(self.target.host, self.target.port)
            object.__setattr__(self, "allowed", allowed)

    @property
    def target_name(self) -> str:
        """The target as the log has it: ``HOST:PORT`` without ``tcp://``."""
        if isinstance(self.target, TunnelAddress):
            return authority_of(self.target.host, self.target.port)
        return str(self.target).removeprefix("tcp://")

    @property
    def title(self) -> str:
        """Its name; without one, its target."""
        return self.name or self.target_name


def allow_hint(forward: Forward) -> str:
    """Return the hint for a target that is not on the allowlist: the line that would allow it."""
    if not isinstance(forward.target, TcpAddress):
        return ""
    return f"to allow it, add there: {allow_line(forward.target.host, forward.target.port)}"


def allow_line(host: str, port: int) -> str:
    """Return the line of an allowlist that allows a host."""
    host = f'"{host}"' if ":" in host else host
    return f"- {{address: {host}, port: {port}}}"


def check_distinct(forwards: Sequence[Forward]) -> None:
    """Check that no two forwards listen on the same address or have the same name.

    Raises:
        ConfigurationError: two do.
    """
    listens: set[Address] = set()
    names: set[str] = set()
    for forward in forwards:
        # With TCP's port 0 each gets a free one; vsock has a port 0.
        any_port = isinstance(forward.listen, TcpAddress) and forward.listen.port == 0
        if forward.listen in listens and not any_port:
            raise ConfigurationError(f"two forwards listen on {forward.listen}")
        if forward.name and forward.name in names:
            raise ConfigurationError(f"two forwards are called {forward.name!r}")
        listens.add(forward.listen)
        names.add(forward.name)


def descriptors_needed(forwards: Sequence[Forward]) -> int:
    """Return how many file descriptors the forwards need when all their limits are reached."""
    return sum(1 + _descriptors(forward.limits) for forward in forwards)


def fit(forwards: Sequence[Forward], descriptors: int) -> list[Forward]:
    """Scale the forwards' limits down, in proportion, to so many file descriptors.

    A few connections less are better than clients that are accepted although no descriptor is
    left for the connection to the target. Each forward keeps one connection at least.
    """
    wanted = descriptors_needed(forwards) - len(forwards)
    share = max(0, descriptors - len(forwards)) / max(1, wanted)
    if share >= 1:
        return list(forwards)
    return [dataclasses.replace(each, limits=_scaled(each.limits, share)) for each in forwards]


def _descriptors(limits: RelayLimits) -> int:
    return 2 * limits.connections + limits.waiting


def _scaled(limits: RelayLimits, share: float) -> RelayLimits:
    return dataclasses.replace(
        limits,
        connections=max(1, int(limits.connections * share)),
        waiting=max(1, int(limits.waiting * share)),
    )
