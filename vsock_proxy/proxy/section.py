"""Reads the ``proxy`` section of a configuration file: forwards, egress, allowlist, limits.

    proxy:
      allowlist:
      - {address: kms.*.amazonaws.com, port: 443}
      forwards:
      - listen: vsock://any:8000
        to: tcp://kms.eu-central-1.amazonaws.com:443
        cids: [16]
      egress:
        listen: vsock://any:8004
        cids: [16]
        allowlist:
        - {address: s3.eu-central-1.amazonaws.com, port: 443}

docs/proxy.md and docs/egress.md describe every key.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import (
    MAX_VSOCK,
    VMADDR_CID_ANY,
    TcpAddress,
    UnixAddress,
    VsockAddress,
    is_ip,
)
from vsock_proxy.proxy.allowlist import Allowlist
from vsock_proxy.proxy.allowlist_file import load_allowlist, read_allowlist
from vsock_proxy.proxy.daemon import DRAIN_TIMEOUT
from vsock_proxy.proxy.forward import Egress, Forward, allow_hint, check_distinct
from vsock_proxy.relay.connection import DEFAULT_LIMITS, RelayLimits
from vsock_proxy.service.cids import read_cids

if TYPE_CHECKING:
    from vsock_proxy.net.addresses import Address
    from vsock_proxy.service.settings import Setting

MAX_FORWARDS = 256
"""64 for each of four enclaves. Each is a listener, and a row in every table and metric."""

MAX_CONNECTIONS = 1_000_000
"""Limit of one forward's limit."""

_DAY = 86400.0
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
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
        forwards: each with its name, its limits and the allowlist; then the egress listeners.
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
    with section.reading("allowlist", "limits", "drain_timeout", "forwards", "egress") as keys:
        if not {"forwards", "egress"} & ({*keys.found} | keys.guessed):
            keys.add(section.wrong("key 'forwards' or 'egress' is missing"))
        allowlist = keys.read("allowlist", _allowlist, Allowlist(frozenset()))
        # If it cannot be read, nothing is known about the targets.
        unchecked = reloading or "allowlist" in keys.failed
        limits = keys.read("limits", lambda value: _limits(value, DEFAULT_LIMITS), DEFAULT_LIMITS)
        if "limits" in keys.failed:
            limits = DEFAULT_LIMITS
        drain_timeout = keys.read(
            "drain_timeout", lambda value: value.duration(0, _DAY), DRAIN_TIMEOUT
        )
        forwards: list[Forward] = []
        items = keys.read("forwards", lambda value: value.items(MAX_FORWARDS), [])
        read = partial(_forward, allowlist=allowlist, limits=limits, unchecked=unchecked)
        found = [(item, partial(read, item)) for item in items or ()]
        if "egress" in keys:
            egress = keys.take(lambda: _one_or_more(keys["egress"])) or ()
            read = partial(_egress, allowlist=allowlist, limits=limits)
            found += [(item, partial(read, item)) for item in egress]
        for item, take in found:
            mistakes = len(keys.errors)
            forward = keys.take(take)
            if len(keys.errors) == mistakes:
                try:
                    check_distinct([*forwards, forward])
                except ConfigurationError as e:
                    hint = "give one of them another name or address"
                    keys.add(item.wrong(str(e), hint=hint))
                else:
                    forwards.append(forward)
    return ProxySettings(tuple(forwards), drain_timeout)


def _forward(
    item: Setting, allowlist: Allowlist, limits: RelayLimits, *, unchecked: bool
) -> Forward:
    with item.reading(
        "name", "listen", "to", "cids", "family", "limits", required=("listen", "to")
    ) as keys:
        listen = keys.read("listen", lambda value: value.listener())
        target = keys.read("to", partial(_target, allowlist=None if unchecked else allowlist))
        families = keys.read("family", _family, _FAMILIES["any"])
        if "family" in keys and not keys.failed & {"to", "family"}:
            keys.take(lambda: _check_family(keys["family"], target, families[0]))
        cids = read_cids(keys, listen, required=False)
        limits = keys.read("limits", partial(_limits, default=limits), limits)
        name = keys.read("name", _name, "")
    family, prefer = families
    forward = Forward(
        listen,
        target,
        family,
        prefer=prefer,
        cids=cids,
        allowlist=allowlist if isinstance(target, TcpAddress) else None,
        limits=limits,
    )
    return dataclasses.replace(forward, name=name or forward.target_name)


def _one_or_more(value: Setting) -> list[Setting]:
    return value.items(MAX_FORWARDS) if value.is_list else [value]


def _egress(item: Setting, allowlist: Allowlist, limits: RelayLimits) -> Forward:
    known = ("name", "listen", "cids", "family", "limits", "allowlist")
    with item.reading(*known, required=("listen",)) as keys:
        listen = keys.read("listen", lambda value: value.listener())
        families = keys.read("family", _family, _FAMILIES["any"])
        # Every enclave that may connect reaches every host on the list: so they are named.
        cids = read_cids(keys, listen, required=True)
        limits = keys.read("limits", partial(_limits, default=limits), limits)
        name = keys.read("name", _name, "egress")
        allowlist = keys.read("allowlist", _allowlist, allowlist)
    family, prefer = families
    return Forward(
        listen,
        Egress(),
        family,
        name=name,
        prefer=prefer,
        cids=cids,
        allowlist=allowlist,
        limits=limits,
    )


def _target(value: Setting, allowlist: Allowlist | None) -> Address:
    target = value.address()
    if not isinstance(target, UnixAddress) and not 0 < target.port < MAX_VSOCK:
        raise value.wrong(f"port {target.port} cannot be a target")
    if isinstance(target, VsockAddress) and target.cid == VMADDR_CID_ANY:
        raise value.wrong("`any` cannot be a target")
    if isinstance(target, TcpAddress) and (reason := _unreachable(target.host)):
        raise value.wrong(f"{target.host} cannot be a target: {reason}")
    forward = Forward(target, target, allowlist=allowlist)
    if not forward.allowed:
        raise value.wrong(
            f"{forward.target_name} is not on the allowlist", hint=allow_hint(forward)
        )
    return target


def _unreachable(host: str) -> str:
    """Return why no TCP connection to an IP address can ever be made; "" if one can."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return ""
    if ip.is_multicast or ip == _BROADCAST:
        return "an address of many"
    if isinstance(ip, ipaddress.IPv6Address) and ip.is_link_local and not ip.scope_id:
        return f"a link-local address needs its interface, {host}%eth0"
    return ""


def _check_family(value: Setting, target: Address, family: socket.AddressFamily) -> None:
    if not isinstance(target, TcpAddress):
        raise value.wrong("only for a TCP target")
    own = socket.AF_INET6 if ":" in target.host else socket.AF_INET
    if family not in (socket.AF_UNSPEC, own) and is_ip(target.host):
        raise value.wrong(f"{target.host} is of the other family", hint="leave `family` out")


def _family(value: Setting) -> tuple[socket.AddressFamily, socket.AddressFamily]:
    return _FAMILIES[value.choice(*_FAMILIES)]


def _name(value: Setting) -> str:
    name = value.string(most=100)
    if not name.isprintable():
        raise value.wrong("contains characters that cannot be printed")
    return name


def _limits(value: Setting, default: RelayLimits) -> RelayLimits:
    counts = ("connections", "waiting", "per_cid", "per_cid_per_second")
    times = ("connect", "idle", "linger")
    with value.reading(*counts, *(f"{name}_timeout" for name in times)) as keys:
        found: dict[str, float] = {}
        for name in keys.found:
            found[name] = keys.read(
                name,
                (lambda count: count.integer(1, MAX_CONNECTIONS))
                if name in counts
                else (lambda time: time.duration(0.1, 365 * _DAY)),
            )
    return dataclasses.replace(default, **found)  # type: ignore[arg-type]


def _allowlist(value: Setting) -> Allowlist:
    """Read the list itself, or the file that contains it."""
    if value.is_list:
        return read_allowlist(value)
    if value.is_mapping:
        raise value.wrong("a mapping, not a list or the path of a file that contains one")
    path = Path(value.source).parent / value.string()
    try:
        return load_allowlist(path)
    except ConfigurationError as e:
        if isinstance(e.__cause__, OSError):  # The file could not be read at all.
            raise value.wrong(str(e), hint="the path is relative to this file") from e
        raise
