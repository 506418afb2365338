"""The ``proxy`` section of a configuration file: several forwards in one process.

    proxy:
      allowlist:
      - {address: kms.*.amazonaws.com, port: 443}
      forwards:
      - listen: vsock://any:8000
        to: tcp://kms.eu-central-1.amazonaws.com:443
        cids: [16]

docs/proxy.md has all of it.
"""

from __future__ import annotations

import dataclasses
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import (
    MAX_VSOCK,
    VMADDR_CID_ANY,
    TcpAddress,
    UnixAddress,
    VsockAddress,
)
from vsock_proxy.proxy.allowlist import Allowlist, load_allowlist, read_allowlist
from vsock_proxy.proxy.daemon import DRAIN_TIMEOUT
from vsock_proxy.proxy.forward import Forward, check_distinct
from vsock_proxy.relay.connection import Limits
from vsock_proxy.service.cids import read_cids

if TYPE_CHECKING:
    from vsock_proxy.service.settings import Setting

MAX_FORWARDS = 256
MAX_CONNECTIONS = 1_000_000
"""Of one forward."""

_DAY = 86400.0
_FAMILIES = {
    "any": (socket.AF_UNSPEC, socket.AF_UNSPEC),
    "ipv4": (socket.AF_INET, socket.AF_UNSPEC),
    "ipv6": (socket.AF_INET6, socket.AF_UNSPEC),
    "prefer-ipv4": (socket.AF_UNSPEC, socket.AF_INET),
    "prefer-ipv6": (socket.AF_UNSPEC, socket.AF_INET6),
}


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """What `Daemon` takes.

    Attributes:
        forwards: each with its name, its limits and the allowlist.
        drain_timeout: seconds that open connections get to end once the daemon stops.
    """

    forwards: tuple[Forward, ...]
    drain_timeout: float = DRAIN_TIMEOUT


def read_proxy_section(section: Setting, *, reloading: bool = False) -> ProxySettings:
    """Read the value of the key ``proxy``.

    Args:
        section: the value; a path in it is relative to its file.
        reloading: a forward to what is not on the allowlist is then no error, but one that
            refuses every connection: what the list no longer has is to end, whatever else
            the file says.

    Raises:
        ConfigurationError: says in which file and line, and why.
    """
    fields = section.fields(
        "allowlist", "limits", "drain_timeout", "forwards", required=("forwards",)
    )
    allowlist = Allowlist(frozenset())
    if "allowlist" in fields:
        allowlist = _allowlist(fields["allowlist"])
    limits = Limits()
    if "limits" in fields:
        limits = _limits(fields["limits"], limits)
    drain_timeout = DRAIN_TIMEOUT
    if "drain_timeout" in fields:
        drain_timeout = fields["drain_timeout"].duration(0, _DAY)
    forwards: list[Forward] = []
    for item in fields["forwards"].items(MAX_FORWARDS):
        forwards.append(_forward(item, allowlist, limits, reloading=reloading))
        try:
            check_distinct(forwards)
        except ConfigurationError as e:
            raise item.wrong(str(e), hint="give one of them another name, or address") from e
    return ProxySettings(tuple(forwards), drain_timeout)


def _forward(item: Setting, allowlist: Allowlist, limits: Limits, *, reloading: bool) -> Forward:
    fields = item.fields(
        "name", "listen", "to", "cids", "family", "limits", required=("listen", "to")
    )
    listen, to = fields["listen"].address(), fields["to"].address()
    if not isinstance(to, UnixAddress) and not 0 < to.port < MAX_VSOCK:
        raise fields["to"].wrong("nothing can be reached on this port")
    if isinstance(to, VsockAddress) and to.cid == VMADDR_CID_ANY:
        raise fields["to"].wrong("any is no target")
    if isinstance(to, TcpAddress) and not (reloading or allowlist.allows(to.host, to.port)):
        raise fields["to"].wrong(
            f"{to.host} port {to.port} is not on the allowlist",
            hint=f"to allow it, add there: - {{address: {to.host}, port: {to.port}}}",
        )
    family, prefer = socket.AF_UNSPEC, socket.AF_UNSPEC
    if "family" in fields:
        if not isinstance(to, TcpAddress):
            raise fields["family"].wrong("only for a TCP target")
        family, prefer = _FAMILIES[fields["family"].choice(*_FAMILIES)]
    if "limits" in fields:
        limits = _limits(fields["limits"], limits)
    forward = Forward(
        listen,
        to,
        family,
        prefer=prefer,
        cids=read_cids(item, fields, listen, required=False),
        allowlist=allowlist if isinstance(to, TcpAddress) else None,
        limits=limits,
    )
    name = fields["name"].string(most=100) if "name" in fields else forward.target
    if not name.isprintable():
        raise fields["name"].wrong("has characters that cannot be printed")
    return dataclasses.replace(forward, name=name)


def _limits(setting: Setting, otherwise: Limits) -> Limits:
    fields = setting.fields(
        "connections", "waiting", "connect_timeout", "idle_timeout", "linger_timeout"
    )
    counts = {
        name: fields[name].integer(1, MAX_CONNECTIONS)
        for name in ("connections", "waiting")
        if name in fields
    }
    times = {
        name: fields[name].duration(0.1, 365 * _DAY)
        for name in ("connect_timeout", "idle_timeout", "linger_timeout")
        if name in fields
    }
    return dataclasses.replace(otherwise, **counts, **times)  # type: ignore[arg-type]


def _allowlist(setting: Setting) -> Allowlist:
    """Read the list itself, or the file it is in."""
    if setting.is_list:
        return read_allowlist(setting)
    return load_allowlist(Path(setting.source).parent / setting.string())
