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
)
from vsock_proxy.proxy.allowlist import Allowlist, load_allowlist, read_allowlist
from vsock_proxy.proxy.daemon import DRAIN_TIMEOUT
from vsock_proxy.proxy.forward import Forward, check_distinct
from vsock_proxy.relay.connection import Limits
from vsock_proxy.service.cids import read_cids
from vsock_proxy.service.settings import ConfigurationErrors, SettingError

if TYPE_CHECKING:
    from vsock_proxy.net.addresses import Address
    from vsock_proxy.service.settings import Setting

MAX_FORWARDS = 256
"""64 for each of four enclaves. Each is a listener, and a row in every table and metric."""

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
        ConfigurationError: names file and line, and the reason; of each mistake.
    """
    with section.reading(
        "allowlist", "limits", "drain_timeout", "forwards", required=("forwards",)
    ) as keys:
        allowlist = keys.read("allowlist", _allowlist, Allowlist(frozenset()))
        # If it cannot be read, nothing is known about the targets.
        checked = None if reloading or "allowlist" in keys.failed else allowlist
        limits = keys.read("limits", lambda value: _limits(value, Limits()), Limits())
        if "limits" in keys.failed:
            limits = Limits()
        drain_timeout = keys.read(
            "drain_timeout", lambda value: value.duration(0, _DAY), DRAIN_TIMEOUT
        )
        forwards: list[Forward] = []
        items = keys.read("forwards", lambda value: value.items(MAX_FORWARDS), [])
        for item in () if "forwards" in keys.failed else items:
            mistakes = len(keys.errors)
            forward = keys.take(partial(_forward, item, allowlist, checked, limits))
            if len(keys.errors) == mistakes:
                try:
                    check_distinct([*forwards, forward])
                except ConfigurationError as e:
                    hint = "give one of them another name, or address"
                    keys.add(item.wrong(str(e), hint=hint))
                else:
                    forwards.append(forward)
    return ProxySettings(tuple(forwards), drain_timeout)


def _forward(
    item: Setting, allowlist: Allowlist, checked: Allowlist | None, limits: Limits
) -> Forward:
    """Read one forward; `checked` is what its target must be on, if anything."""
    with item.reading(
        "name", "listen", "to", "cids", "family", "limits", required=("listen", "to")
    ) as keys:
        listen = keys.read("listen", lambda value: value.address())
        to = keys.read("to", lambda value: _target(value, checked))
        families = keys.read("family", _family, _FAMILIES["any"])
        if "family" in keys and "to" not in keys.failed and not isinstance(to, TcpAddress):
            keys.add(keys["family"].wrong("only for a TCP target"))
        cids = read_cids(keys, listen, required=False)
        limits = keys.read("limits", lambda value: _limits(value, limits), limits)
        name = keys.read("name", _name, "")
    family, prefer = families
    forward = Forward(
        listen,
        to,
        family,
        prefer=prefer,
        cids=cids,
        allowlist=allowlist if isinstance(to, TcpAddress) else None,
        limits=limits,
    )
    return dataclasses.replace(forward, name=name or forward.target)


def _target(value: Setting, allowlist: Allowlist | None) -> Address:
    to = value.address()
    if not isinstance(to, UnixAddress) and not 0 < to.port < MAX_VSOCK:
        raise value.wrong("nothing can be reached on this port")
    if isinstance(to, VsockAddress) and to.cid == VMADDR_CID_ANY:
        raise value.wrong("`any` cannot be a target")
    if isinstance(to, TcpAddress) and not (allowlist is None or allowlist.allows(to.host, to.port)):
        raise value.wrong(
            f"{to.host} port {to.port} is not on the allowlist",
            hint=f"to allow it, add there: - {{address: {to.host}, port: {to.port}}}",
        )
    return to


def _family(value: Setting) -> tuple[socket.AddressFamily, socket.AddressFamily]:
    return _FAMILIES[value.choice(*_FAMILIES)]


def _name(value: Setting) -> str:
    name = value.string(most=100)
    if not name.isprintable():
        raise value.wrong("has characters that cannot be printed")
    return name


def _limits(value: Setting, otherwise: Limits) -> Limits:
    counts, times = ("connections", "waiting"), ("connect", "idle", "linger")
    with value.reading(*counts, *(f"{name}_timeout" for name in times)) as keys:
        found: dict[str, float] = {}
        for name in keys.found:
            found[name] = keys.read(
                name,
                (lambda count: count.integer(1, MAX_CONNECTIONS))
                if name in counts
                else (lambda time: time.duration(0.1, 365 * _DAY)),
            )
    return dataclasses.replace(otherwise, **found)  # type: ignore[arg-type]


def _allowlist(value: Setting) -> Allowlist:
    """Read the list itself, or the file that it is in."""
    if value.is_list:
        return read_allowlist(value)
    if value.is_mapping:
        raise value.wrong("a mapping, not a list or the path of a file that has one")
    try:
        return load_allowlist(Path(value.source).parent / value.string())
    except (SettingError, ConfigurationErrors):
        raise
    except ConfigurationError as e:
        # It cannot be read: named by the line that names it.
        raise value.wrong(str(e), hint=e.hint) from e
