"""Reads the ``proxy`` section of a configuration file: forwards, allowlist, limits.

    proxy:
      allowlist:
      - {address: kms.*.amazonaws.com, port: 443}
      forwards:
      - listen: vsock://any:8000
        to: tcp://kms.eu-central-1.amazonaws.com:443
        cids: [16]

docs/proxy.md describes every key.
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
from vsock_proxy.proxy.forward import Forward, allow_hint, check_distinct
from vsock_proxy.relay.connection import DEFAULT_LIMITS, RelayLimits
from vsock_proxy.service.cids import read_cids

if TYPE_CHECKING:
    from vsock_proxy.service.settings import Setting

MAX_FORWARDS = 256
MAX_CONNECTIONS = 1_000_000
"""Limit of one forward's limit."""

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
    """The arguments of `Daemon`.

    Attributes:
        forwards: each with its name, its limits and the allowlist.
        drain_timeout: seconds in which open connections may end once the daemon stops.
    """

    forwards: tuple[Forward, ...]
    drain_timeout: float = DRAIN_TIMEOUT


def read_proxy_section(section: Setting, *, reloading: bool = False) -> ProxySettings:
    """Read the value of the key ``proxy``.

    Args:
        section: the value; paths in it are relative to its file.
        reloading: whether a target that is not on the allowlist is accepted; its forward rejects
            every connection. So an entry that is removed from the list takes effect, whatever
            else is in the file.

    Raises:
        ConfigurationError: the message has file and line.
    """
    fields = section.fields(
        "allowlist", "limits", "drain_timeout", "forwards", required=("forwards",)
    )
    allowlist = Allowlist(frozenset())
    if "allowlist" in fields:
        allowlist = _allowlist(fields["allowlist"])
    limits = DEFAULT_LIMITS
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
            raise item.wrong(str(e), hint="give one of them another name or address") from e
    return ProxySettings(tuple(forwards), drain_timeout)


def _forward(
    item: Setting, allowlist: Allowlist, limits: RelayLimits, *, reloading: bool
) -> Forward:
    fields = item.fields(
        "name", "listen", "to", "cids", "family", "limits", required=("listen", "to")
    )
    listen, target = fields["listen"].address(), fields["to"].address()
    if not isinstance(target, UnixAddress) and not 0 < target.port < MAX_VSOCK:
        raise fields["to"].wrong(f"port {target.port} cannot be a target")
    if isinstance(target, VsockAddress) and target.cid == VMADDR_CID_ANY:
        raise fields["to"].wrong("`any` cannot be a target")
    family, prefer = socket.AF_UNSPEC, socket.AF_UNSPEC
    if "family" in fields:
        if not isinstance(target, TcpAddress):
            raise fields["family"].wrong("only for a TCP target")
        family, prefer = _FAMILIES[fields["family"].choice(*_FAMILIES)]
    if "limits" in fields:
        limits = _limits(fields["limits"], limits)
    forward = Forward(
        listen,
        target,
        family,
        prefer=prefer,
        cids=read_cids(item, fields, listen, required=False),
        allowlist=allowlist if isinstance(target, TcpAddress) else None,
        limits=limits,
    )
    if not (reloading or forward.allowed):
        raise fields["to"].wrong(
            f"{forward.target_name} is not on the allowlist", hint=allow_hint(forward)
        )
    name = fields["name"].string(most=100) if "name" in fields else forward.target_name
    if not name.isprintable():
        raise fields["name"].wrong("contains characters that cannot be printed")
    return dataclasses.replace(forward, name=name)


def _limits(setting: Setting, default: RelayLimits) -> RelayLimits:
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
    return dataclasses.replace(default, **counts, **times)  # type: ignore[arg-type]


def _allowlist(setting: Setting) -> Allowlist:
    """Read the list itself, or the file that contains it."""
    if setting.is_list:
        return read_allowlist(setting)
    path = Path(setting.source).parent / setting.string()
    try:
        return load_allowlist(path)
    except ConfigurationError as e:
        if not e.hint:  # The file could not be read at all.
            raise setting.wrong(str(e), hint="the path is relative to this file") from e
        raise
