"""The allowlist: which hosts and ports may be connected to, with wildcards. No I/O.

`allowlist_file` reads it from YAML, on the parent. In an enclave it is written as lines,
``HOST:PORT``: reading them imports no PyYAML.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import MAX_PORT, is_host, without_brackets
from vsock_proxy.service.address_guess import host_hint

MAX_LINES = 10_000
"""Entries of a list that is written as lines."""

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
# A last label that begins with a letter is never that of an IPv4 address, in any spelling
# inet_aton(3) knows (127.1, 0x7f.1, 2130706433).
_PATTERN = re.compile(
    rf"(?:(?:\*|{_LABEL})\.)+{_LABEL}\.[A-Za-z](?:[A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?\.?"
)

_PORT = re.compile(r"[0-9]{1,5}")
_HINT = "write HOST:PORT, such as s3.eu-central-1.amazonaws.com:443; * stands for one whole label"

_EC2_SERVICES = ipaddress.IPv6Network("fd00:ec2::/32")
"""Instance metadata, DNS, time, pod identity over IPv6 (AWS, "Access instance metadata")."""
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

_Tree = dict[str, Any]
"""Patterns by their labels, the last one first; below the first label, the patterns by port."""


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
                node.setdefault("", {})[port] = pattern

    def allows(self, host: str, port: int) -> bool:
        """Return whether `host` is listed with this port.

        A ``*`` stands for one whole label, never for a part of one, for several, or for none.
        The last two labels of a pattern are names, so that no pattern covers a whole top-level
        domain, and no pattern ever matches an IP address.

        Names are compared, not looked up: an IP address is allowed only if it is listed itself.
        (AWS's proxy also allows an address that a listed name resolves to, which leaves the
        decision to the DNS server.)
        """
        return self.entry_for(host, port) is not None

    def entry_for(self, host: str, port: int) -> str | None:
        """Return the host or pattern of the entry that allows `host` with this port, or None."""
        host = normal_host(host)
        if (host, port) in self.entries:
            return host
        nodes = [self._patterns]
        for label in reversed(host.split(".")):
            if not label:
                return None
            nodes = [node[key] for node in nodes for key in (label, "*") if key in node]
        found: str | None = next(
            (node[""][port] for node in nodes if port in node.get("", ())), None
        )
        return found

    def allows_resolved(self, host: str, address: str, port: int) -> bool:
        """Return whether `address`, which the allowed `host` resolves to, may be connected to.

        A DNS server must not lead the enclave to what only the parent should reach, such as its
        instance metadata: special addresses (`is_special`) must be listed themselves. The name
        ``localhost`` stands for the loopback addresses (RFC 6761, section 6.3).
        """
        if not is_special(address) or (normal_host(address), port) in self.entries:
            return True
        return normal_host(host) == "localhost" and ipaddress.ip_address(address).is_loopback


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


def check_pattern(text: str) -> str:
    """Return an entry's host, or pattern, as it is compared.

    Raises:
        ConfigurationError: it is neither.
    """
    address = without_brackets(text)
    if "*" in address:
        if not _PATTERN.fullmatch(address):
            raise ConfigurationError(
                f"{address!r:.80} is not a pattern",
                hint="`*` stands for one whole label, and not for one of the last two: "
                "kms.*.amazonaws.com",
            )
    elif not is_host(address):
        raise ConfigurationError(f"{address!r:.80} is not a host name", hint=host_hint(address))
    return normal_host(address)


def parse_entry(text: str) -> tuple[str, int]:
    """Parse an entry that is written as ``HOST:PORT``; an IPv6 address has brackets.

    Raises:
        ConfigurationError: it is not one.
    """
    if "://" in text:
        raise ConfigurationError(
            f"{text!r:.120} is a URL, not HOST:PORT", hint="leave out the scheme and the path"
        )
    host, _, port = text.rpartition(":")
    if not host or not _PORT.fullmatch(port) or not 0 < int(port) <= MAX_PORT:
        raise ConfigurationError(f"{text!r:.120} is not HOST:PORT", hint=_HINT)
    if ":" in host and without_brackets(host) == host:
        raise ConfigurationError(f"{text!r:.120}: an IPv6 address has brackets", hint=_HINT)
    try:
        return check_pattern(host), int(port)
    except ConfigurationError as e:
        e.hint = e.hint or _HINT
        raise


def parse_lines(text: str, *, source: str) -> Allowlist:
    """Parse a list that is written as lines; ``#`` begins a comment.

    Raises:
        ConfigurationError: a line is not an entry; the message has its number.
    """
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        raise ConfigurationError(f"{source}: more than {MAX_LINES} lines")
    entries = set()
    for number, line in enumerate(lines, 1):
        entry = line.partition("#")[0].strip()
        if entry:
            try:
                entries.add(parse_entry(entry))
            except ConfigurationError as e:
                raise ConfigurationError(f"{source}:{number}: {e}", hint=e.hint) from e
    return Allowlist(frozenset(entries))


def normal_host(host: str) -> str:
    """Return the canonical spelling of a name or an IP address."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower().removesuffix(".")
