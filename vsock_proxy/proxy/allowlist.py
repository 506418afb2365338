"""The allowlist: which hosts and ports may be forwarded to, in the format of AWS's vsock-proxy,
with wildcards.

    allowlist:
    - {address: kms.us-east-1.amazonaws.com, port: 443}
    - {address: kms.*.amazonaws.com, port: 443}

Source: aws-nitro-enclaves-cli, ``vsock_proxy/README.md``, "Configuration file format".
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import is_host
from vsock_proxy.service.settings import load_settings, parse_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vsock_proxy.service.settings import Setting

DEFAULT_PATH = Path("/etc/nitro_enclaves/vsock-proxy.yaml")
"""Where AWS's package puts it."""

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


@dataclass(frozen=True, slots=True)
class Allowlist:
    """Hosts (lower case, without a trailing dot; or patterns of them) and ports that may be
    forwarded to.
    """

    entries: frozenset[tuple[str, int]]

    def allows(self, host: str, port: int) -> bool:
        """Tell whether `host` was listed with this very port. What is not listed is not allowed.

        A ``*`` stands for one whole label, never for a part of one, for several, or for none.
        The last two labels of a pattern are names, so that no pattern covers a whole top-level
        domain, and no pattern ever matches an IP address.

        Names are names: nothing is looked up, so that an IP address is allowed only where it
        stands in the list itself. (AWS's proxy also takes an address to which a listed name
        resolves, which leaves the list to whoever answers its DNS queries.)
        """
        host = _normal(host)
        if (host, port) in self.entries:
            return True
        labels = host.split(".")
        return any(
            port == listed and "*" in pattern and _matches(pattern.split("."), labels)
            for pattern, listed in self.entries
        )

    def allows_resolved(self, host: str, address: str, port: int) -> bool:
        """Tell whether `address`, to which the allowed `host` resolves, may be connected to.

        Whoever answers DNS queries must not lead the enclave to what only the parent should
        reach, such as its instance metadata: addresses that are special (`is_special`) are
        allowed only where they stand in the list themselves. The name ``localhost`` means the
        loopback addresses (RFC 6761, section 6.3).
        """
        if not is_special(address) or (_normal(address), port) in self.entries:
            return True
        return _normal(host) == "localhost" and ipaddress.ip_address(address).is_loopback


def is_special(address: str) -> bool:
    """Tell whether an IP address is one that a public name has no business with.

    Those are: loopback, link-local (with EC2's instance metadata, 169.254.169.254), EC2's local
    services over IPv6 (fd00:ec2::/32), unspecified, multicast, broadcast and reserved, also
    where an IPv6 address holds such an IPv4 address. Private ones are not special: VPC
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


def load_allowlist(path: Path, *, hint: str = "") -> Allowlist:
    """Read an allowlist from a file of at most `settings.MAX_SIZE` bytes.

    Raises:
        ConfigurationError: it cannot be read, or is not an allowlist; says where.
    """
    with _hinting():
        return _of_file(load_settings(path, hint=hint))


def parse_allowlist(data: bytes, *, source: str = "allowlist") -> Allowlist:
    """Read an allowlist; `source` is what the errors call it.

    Raises:
        ConfigurationError: it is not an allowlist; says where.
    """
    with _hinting():
        return _of_file(parse_settings(data, source=source))


@contextlib.contextmanager
def _hinting() -> Iterator[None]:
    try:
        yield
    except ConfigurationError as e:
        if not isinstance(e.__cause__, OSError):
            e.hint = e.hint or _HINT
        raise


def _of_file(root: Setting) -> Allowlist:
    return read_allowlist(root.fields("allowlist", required=("allowlist",))["allowlist"])


def read_allowlist(entries: Setting) -> Allowlist:
    """Read the list itself, from any file.

    Raises:
        ConfigurationError: it is not an allowlist; says where.
    """
    return Allowlist(frozenset(_entry(entry) for entry in entries.items()))


def _entry(entry: Setting) -> tuple[str, int]:
    # One key too many is refused as well: it may have been meant to restrict something.
    fields = entry.fields("address", "port", required=("address", "port"))
    address = fields["address"].string()
    if "*" in address:
        if not _PATTERN.fullmatch(address):
            raise fields["address"].wrong(
                f"{address!r:.80} is not a pattern",
                hint="`*` stands for one whole label, and not for one of the last two: "
                "kms.*.amazonaws.com",
            )
    elif not is_host(address):
        raise fields["address"].wrong(f"{address!r:.80} is not a host name", hint=_HINT)
    # AWS's proxy takes any integer modulo 65536: 84536 there permits port 19000.
    return _normal(address), fields["port"].port()


def _matches(pattern: list[str], labels: list[str]) -> bool:
    return len(pattern) == len(labels) and all(
        label == wanted or (wanted == "*" and label != "")
        for wanted, label in zip(pattern, labels, strict=True)
    )


def _normal(host: str) -> str:
    """One spelling for each name and each address."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower().removesuffix(".")
