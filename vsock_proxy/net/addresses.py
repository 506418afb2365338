"""Addresses of stream sockets as text: ``vsock://3:8000``, ``unix:/path``,
``hvsock:///path:port``, ``tcp://host:port``. No I/O.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass

from vsock_proxy.errors import ConfigurationError

VMADDR_CID_HYPERVISOR = 0
"""Reserved: no machine has it (<linux/vm_sockets.h>, vsock(7))."""

VMADDR_CID_LOCAL = 1
"""This machine, with the vsock_loopback module (<linux/vm_sockets.h>)."""

VMADDR_CID_ANY = 0xFFFF_FFFF
"""Listen for every CID (<linux/vm_sockets.h>)."""

VMADDR_CID_PARENT = 3
"""The parent instance, seen from a Nitro enclave (AWS, "Nitro Enclaves concepts")."""

MAX_VSOCK = 0xFFFF_FFFF
"""CIDs and vsock ports have 32 bits (<linux/vm_sockets.h>); the last one is the wildcard."""

MAX_PORT = 0xFFFF
"""TCP ports have 16 bits (RFC 9293, section 3.1)."""

MAX_UNIX_PATH = 107
"""Bytes in a UNIX socket path: sun_path is char[108] with its NUL (unix(7))."""

_HINT = "write vsock://CID:PORT, unix:/PATH, hvsock:///PATH:PORT or tcp://HOST:PORT"
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?")
_ZONE = re.compile(r"[A-Za-z0-9._-]{1,15}")
_NUMBER = re.compile(r"(.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?")
"""A host whose last label is a number. No name is like that (RFC 1123, section 2.1), but there are
spellings of IPv4 addresses that getaddrinfo(3) takes, each program in its way: 010.0.0.1 is 8.0.0.1
to it, and 127.1 is 127.0.0.1."""

_DECIMAL = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class VsockAddress:
    """A vsock address: 32-bit context id (CID) and 32-bit port."""

    cid: int
    port: int

    def __str__(self) -> str:
        cid = "any" if self.cid == VMADDR_CID_ANY else str(self.cid)
        return f"vsock://{cid}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A UNIX stream socket by its path."""

    path: str

    def __str__(self) -> str:
        # unix://path is read as path: a path that begins with two slashes needs two more.
        return f"unix://{self.path}" if self.path.startswith("//") else f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class HybridAddress:
    """A vsock port of the virtual machine whose vsock is the UNIX socket at `path`.

    To listen: for connections from the machine, at ``PATH_PORT``. To connect: into the machine,
    through `path` (see `hybrid`).
    """

    path: str
    port: int

    def __str__(self) -> str:
        return f"hvsock://{self.path}:{self.port}"

    @property
    def listening(self) -> UnixAddress:
        """The socket that the machine's connections to this port arrive at."""
        return UnixAddress(f"{self.path}_{self.port}")


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP address: a name or an IP address, and a port in 0..65535 (0, to listen: any)."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TunnelAddress:
    """A TCP address behind an HTTP proxy, which is asked to connect to it (`http_connect`).

    Attributes:
        via: where the proxy listens: vsock, UNIX, or an IP address.
        host: a name or an IP address, which the proxy looks up.
        port: 1..65535.
    """

    via: VsockAddress | UnixAddress | TcpAddress
    host: str
    port: int

    def __str__(self) -> str:
        return f"{TcpAddress(self.host, self.port)} through {self.via}"


@dataclass(frozen=True, slots=True)
class ConnectProxy:
    """An HTTP proxy that serves CONNECT, as text ``connect:ADDRESS``."""

    via: VsockAddress | UnixAddress | TcpAddress

    def __str__(self) -> str:
        return f"connect:{self.via}"

    def to(self, host: str, port: int) -> TunnelAddress:
        """Return the address of a host behind this proxy."""
        return TunnelAddress(self.via, host, port)


Address = VsockAddress | UnixAddress | HybridAddress | TcpAddress


def parse_address(text: str) -> Address:
    """Parse an address.

    ``vsock://any:PORT`` has the wildcard CID, for listening.

    Raises:
        ConfigurationError: the text has none of these forms, or a number is out of range.
    """
    if text.startswith("vsock://"):
        cid, _, port = text.removeprefix("vsock://").partition(":")
        return VsockAddress(
            VMADDR_CID_ANY if cid == "any" else _number(cid, MAX_VSOCK, text),
            # The last port is VMADDR_PORT_ANY, a wildcard.
            _number(port, MAX_VSOCK - 1, text),
        )
    if text.startswith("unix:"):
        return UnixAddress(_path(text.removeprefix("unix:").removeprefix("//"), text))
    if text.startswith("hvsock://"):
        path, _, port = text.removeprefix("hvsock://").rpartition(":")
        hybrid = HybridAddress(path, _number(port, MAX_VSOCK - 1, text))
        _path(path, text)
        _path(hybrid.listening.path, text)
        return hybrid
    if text.startswith("tcp://"):
        host, _, port = text.removeprefix("tcp://").rpartition(":")
        return TcpAddress(_host(host, text), _number(port, MAX_PORT, text))
    raise ConfigurationError(f"not an address: {text!r}", hint=_HINT)


def parse_destination(text: str) -> Address:
    """Parse an address to connect to, which has no wildcard.

    Raises:
        ConfigurationError: it is not an address, or only one to listen on.
    """
    address = parse_address(text)
    if isinstance(address, TcpAddress) and not address.port:
        raise ConfigurationError(
            f"{address} cannot be connected to: port 0 stands for any free port",
            hint="name the port that is listened on there",
        )
    if isinstance(address, VsockAddress) and address.cid == VMADDR_CID_ANY:
        raise ConfigurationError(
            f"{address} cannot be connected to: `any` is for listening",
            hint="the parent is vsock://3:PORT",
        )
    return address


def parse_proxy(text: str) -> Address | ConnectProxy:
    """Parse the address of a proxy: one that relays to one host, or ``connect:ADDRESS``.

    Raises:
        ConfigurationError: it is neither.
    """
    if not text.startswith("connect:"):
        return parse_destination(text)
    return ConnectProxy(parse_via(text.removeprefix("connect:")))


def parse_via(text: str) -> VsockAddress | UnixAddress | TcpAddress:
    """Parse the address of a proxy that serves CONNECT.

    Raises:
        ConfigurationError: it is not an address, or is of another kind.
    """
    via = parse_destination(text)
    if isinstance(via, TcpAddress) and not is_ip(via.host):
        raise ConfigurationError(
            f"{via}: the proxy is named by an IP address", hint="such as tcp://127.0.0.1:8004"
        )
    if isinstance(via, HybridAddress):
        raise ConfigurationError(
            f"{via} cannot be connected to from an enclave", hint="such as vsock://3:8004"
        )
    return via


def is_ip(host: str) -> bool:
    """Return whether a host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _path(path: str, text: str) -> str:
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        encoded = b""
    if not encoded or b"\0" in encoded:
        raise ConfigurationError(f"not an address: {text!r}: the path is missing", hint=_HINT)
    if len(encoded) > MAX_UNIX_PATH:
        raise ConfigurationError(
            f"not an address: {text!r}: the path is over {MAX_UNIX_PATH} bytes",
            hint="UNIX socket paths are short: use a folder nearer to the root",
        )
    return path


def _number(digits: str, most: int, text: str) -> int:
    # `int` alone would accept "+1", " 1", "1_0" and digits of other scripts.
    if not _DECIMAL.fullmatch(digits) or int(digits) > most:
        raise ConfigurationError(
            f"not an address: {text!r}: {digits!r} is not a number in 0..{most}", hint=_HINT
        )
    return int(digits)


def may_be_host(text: str) -> bool:
    """Return whether a client may name this: a host, or another spelling of an IPv4 address, which
    is on no allowlist.
    """
    return bool(_HOST.fullmatch(text)) or _is_ipv6(text)


def is_host(text: str) -> bool:
    """Return whether `text` has the form of a host: a name, an IPv4 address as four decimal
    numbers, or an IPv6 address without brackets.
    """
    return _is_name_or_ipv4(text) or _is_ipv6(text)


def without_brackets(host: str) -> str:
    """Return a host without the brackets that URLs put around an IPv6 address."""
    if host.startswith("[") and host.endswith("]") and _is_ipv6(host[1:-1]):
        return host[1:-1]
    return host


def _is_name_or_ipv4(text: str) -> bool:
    if not _HOST.fullmatch(text):
        return False
    return not _NUMBER.fullmatch(text) or is_ip(text)


def _is_ipv6(text: str) -> bool:
    address, has_zone, zone = text.partition("%")
    if has_zone and not _ZONE.fullmatch(zone):
        return False
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return True


def _host(host: str, text: str) -> str:
    bare = without_brackets(host)
    if bare != host or _is_name_or_ipv4(host):
        return bare
    raise ConfigurationError(f"not an address: {text!r}: {host!r} is not a host", hint=_HINT)
