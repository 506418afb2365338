"""The allowlist: which hosts and ports may be forwarded to, in the format of AWS's vsock-proxy,
with wildcards.

    allowlist:
    - {address: kms.us-east-1.amazonaws.com, port: 443}
    - {address: kms.*.amazonaws.com, port: 443}

Source: aws-nitro-enclaves-cli, ``vsock_proxy/README.md``, "Configuration file format", and
``check_allowlist`` of ``vsock_proxy/src/proxy.rs``.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import MAX_PORT, is_host, without_brackets
from vsock_proxy.service.settings import parse_settings, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vsock_proxy.service.settings import Setting

log = logging.getLogger(__name__)

DEFAULT_PATH = Path("/etc/nitro_enclaves/vsock-proxy.yaml")
"""Where AWS's package installs it."""

_HINT = "write lines such as `- {address: kms.us-east-1.amazonaws.com, port: 443}`"
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
# A last label that begins with a letter is never that of an IPv4 address, in any spelling
# inet_aton(3) knows (127.1, 0x7f.1, 2130706433).
_PATTERN = re.compile(
    rf"(?:(?:\*|{_LABEL})\.)+{_LABEL}\.[A-Za-z](?:[A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?\.?"
)

_EC2_SERVICES = ipaddress.IPv6Network("fd00:ec2::/32")
"""Instance metadata, DNS, time, pod identity over IPv6 (AWS, "Access instance metadata")."""
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

_Tree = dict[str, Any]
"""Patterns by their labels, the last one first; below the first label, the ports."""


@dataclass(frozen=True, slots=True)
class Allowlist:
    """Hosts and ports that may be forwarded to.

    Attributes:
        entries: hosts, in lower case and without a trailing dot, or patterns; and ports.
    """

    entries: frozenset[tuple[str, int]]
    _patterns: _Tree = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for pattern, port in self.entries:
            if "*" in pattern:
                node = self._patterns
                for label in reversed(pattern.split(".")):
                    node = node.setdefault(label, {})
                node.setdefault("", set()).add(port)

    def allows(self, host: str, port: int) -> bool:
        """Return whether `host` is listed with this port.

        A ``*`` stands for one whole label, never for a part of one, for several, or for none.
        The last two labels of a pattern are names, so that no pattern covers a whole top-level
        domain, and no pattern ever matches an IP address.

        Names are compared, not looked up: an IP address is allowed only if it is listed itself.
        (AWS's proxy also allows an address that a listed name resolves to, which leaves the
        decision to the DNS server.)
        """
        host = _normal(host)
        if (host, port) in self.entries:
            return True
        nodes = [self._patterns]
        for label in reversed(host.split(".")):
            if not label:
                return False
            nodes = [node[key] for node in nodes for key in (label, "*") if key in node]
        return any(port in node.get("", ()) for node in nodes)

    def allows_resolved(self, host: str, address: str, port: int) -> bool:
        """Return whether `address`, which the allowed `host` resolves to, may be connected to.

        A DNS server must not lead the enclave to what only the parent should reach, such as its
        instance metadata: special addresses (`is_special`) must be listed themselves. The name
        ``localhost`` stands for the loopback addresses (RFC 6761, section 6.3).
        """
        if not is_special(address) or (_normal(address), port) in self.entries:
            return True
        return _normal(host) == "localhost" and ipaddress.ip_address(address).is_loopback


def is_special(address: str) -> bool:
    """Return whether a public name should never resolve to an IP address.

    These are: loopback, link-local (with EC2's instance metadata, 169.254.169.254), EC2's local
    services over IPv6 (fd00:ec2::/32), unspecified, multicast, broadcast and reserved addresses,
    and IPv6 addresses that contain such an IPv4 address. Private ones are not special: VPC
    endpoints have them.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is None:
            return ip in _EC2_SERVICES or _is_set_apart(ip)
        ip = inner
    return ip in _THIS_NETWORK or _is_set_apart(ip)


def _is_set_apart(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return (
        ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_reserved or ip.is_unspecified
    )


def is_allowlist(root: Setting) -> bool:
    """Return whether a file is an allowlist in AWS's format rather than a configuration."""
    return not root.is_list and "allowlist" in root.mapping()


def load_allowlist(path: Path) -> Allowlist:
    """Read a file in the format of AWS's vsock-proxy, of at most `settings.MAX_SIZE` bytes.

    Keys that AWS's proxy ignores are ignored, with a warning in the log.

    Raises:
        ConfigurationError: it cannot be read, or is not an allowlist; the message has the line.
    """
    data = read_file(path)
    with _hinting():
        return parse_allowlist(parse_settings(data, source=str(path)))


def parse_allowlist(root: Setting) -> Allowlist:
    """Read the content of such a file.

    Raises:
        ConfigurationError: it is not an allowlist; the message has the line.
    """
    if root.is_list:
        raise root.wrong(
            "a list without the key `allowlist`",
            hint="write `allowlist:` on a line of its own above the list",
        )
    fields = root.mapping()
    if "allowlist" not in fields:
        raise root.wrong("key 'allowlist' is missing", hint=f"below `allowlist:` {_HINT}")
    _warn_of_others(fields, "allowlist")
    return _read(fields["allowlist"], strict=False)


def read_allowlist(entries: Setting) -> Allowlist:
    """Read a list of entries that stands in a file of ours: unknown keys are errors.

    Raises:
        ConfigurationError: it is not an allowlist; the message has the line.
    """
    return _read(entries, strict=True)


def _read(entries: Setting, *, strict: bool) -> Allowlist:
    return Allowlist(frozenset(entries.each(partial(_entry, strict=strict))))


@contextlib.contextmanager
def _hinting() -> Iterator[None]:
    try:
        yield
    except ConfigurationError as e:
        e.hint = e.hint or _HINT
        raise


def _entry(entry: Setting, *, strict: bool) -> tuple[str, int]:
    required = ("address", "port")
    # An unknown key may have been meant to restrict something.
    reading = entry.reading(*required, required=required) if strict else None
    with reading or entry.reading_any(required=required) as keys:
        if not strict:
            _warn_of_others(keys.found, *required)
        address = keys.read("address", _address)
        # AWS's proxy takes any integer modulo 65536: 84536 there permits port 19000.
        port = keys.read("port", lambda value: value.integer(1, MAX_PORT, quoted=True))
    return _normal(address), port


def _address(value: Setting) -> str:
    address = without_brackets(value.string())
    if "*" in address:
        if not _PATTERN.fullmatch(address):
            raise value.wrong(
                f"{address!r:.80} is not a pattern",
                hint="`*` stands for one whole label, and not for one of the last two: "
                "kms.*.amazonaws.com",
            )
    elif not is_host(address):
        raise value.wrong(f"{address!r:.80} is not a host name", hint=_HINT)
    return address


def _warn_of_others(fields: dict[str, Setting], *known: str) -> None:
    for key, value in fields.items():
        if key not in known:
            log.warning("%s", value.wrong("unknown key; it is ignored and restricts nothing"))


def _normal(host: str) -> str:
    """Return the canonical spelling of a name or an IP address."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower().removesuffix(".")
