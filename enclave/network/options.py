"""The options of ``serve`` for the program's network, checked. No I/O but the allowlist's file."""

from __future__ import annotations

import contextlib
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from enclave.errors import ConfigurationError
from vsock_proxy.net.addresses import (
    VMADDR_CID_PARENT,
    Address,
    ConnectProxy,
    HybridAddress,
    TcpAddress,
    UnixAddress,
    VsockAddress,
    parse_address,
    parse_destination,
    parse_via,
)
from vsock_proxy.net.ports import EGRESS_PORT

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

DEFAULT_LISTEN: Final = "tcp://127.0.0.1:8010"
DEFAULT_PROXY: Final = f"vsock://{VMADDR_CID_PARENT}:{EGRESS_PORT}"

MAX_LISTENERS: Final = 64
MAX_FILE: Final = 1_048_576


@dataclass(frozen=True, slots=True)
class Target:
    """A host behind the parent, and where the program finds it.

    Attributes:
        host: a name or an IP address.
        port: its port.
        listen: where the agent listens; None for a loopback address that the host's name gets.
    """

    host: str
    port: int
    listen: Address | None = None


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """The program's network.

    Attributes:
        listen: where the agent serves CONNECT; None: it does not.
        proxy: the parent's egress proxy.
        allowed: the image's own allowlist: hosts or patterns, and ports.
        targets: hosts that programs without a proxy setting reach.
        ingress: listeners, and where they lead in the enclave.
    """

    listen: TcpAddress | None
    proxy: ConnectProxy
    allowed: frozenset[tuple[str, int]] = frozenset()
    targets: tuple[Target, ...] = ()
    ingress: tuple[tuple[Address, Address], ...] = ()

    @classmethod
    def from_args(cls, arguments: argparse.Namespace) -> Self | None:
        """Return the values of the options that `add_options` added; None without any.

        Raises:
            ConfigurationError: one is invalid, or they contradict each other.
        """
        named = [_named_host(text) for text in arguments.egress_host]
        for target in named:
            if named.count(target) > 1:
                raise ConfigurationError(
                    f"--egress-host {target.host}:{target.port}: given twice", hint="give it once"
                )
        targets = (*named, *(_forward(text) for text in arguments.forward))
        ingress = tuple(_ingress(text) for text in arguments.ingress)
        has_list = bool(arguments.egress_allow or arguments.egress_allow_file)
        if not (arguments.egress or targets or ingress):
            if has_list:
                raise ConfigurationError(
                    "--egress-allow without --egress", hint="add --egress, or leave it out"
                )
            return None
        if len(targets) + len(ingress) > MAX_LISTENERS:
            raise ConfigurationError(f"more than {MAX_LISTENERS} listeners", hint="use --egress")
        allowed: frozenset[tuple[str, int]] = frozenset()
        if arguments.egress:
            allowed = _allowed(arguments.egress_allow, arguments.egress_allow_file)
        return cls(
            listen=_loopback(arguments.egress_listen) if arguments.egress else None,
            proxy=ConnectProxy(parse_via(arguments.egress_proxy)),
            allowed=allowed,
            targets=targets,
            ingress=ingress,
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument_group("the program's network (docs/egress.md)").add_argument
    add("--egress", action="store_true",
        help="serve HTTP CONNECT to COMMAND, which is given HTTPS_PROXY: connections leave through "
        "the egress proxy of the parent, to hosts of --egress-allow only")  # fmt: skip
    add("--egress-allow", metavar="HOST:PORT", action="append", default=[],
        help="a host that may be reached by --egress; * stands for one whole label; may be given "
        "several times")  # fmt: skip
    add("--egress-allow-file", metavar="FILE",
        help="a file of such hosts, one a line; # begins a comment")  # fmt: skip
    add("--egress-host", metavar="NAME:PORT", action="append", default=[],
        help="for programs that know no proxy: give NAME a loopback address of its own in "
        "/etc/hosts, and relay this port to it; may be given several times")  # fmt: skip
    add("--forward", metavar="ADDRESS=HOST:PORT", action="append", default=[],
        help="relay tcp://LOOPBACK_ADDRESS:PORT or unix:/PATH to a host, through the parent; may "
        "be given several times")  # fmt: skip
    add("--ingress", metavar="ADDRESS=ADDRESS", action="append", default=[],
        help="relay what comes in, on vsock://any:PORT, to an address in the enclave such as "
        "tcp://127.0.0.1:8443; may be given several times")  # fmt: skip
    add("--egress-listen", metavar="ADDRESS", default=DEFAULT_LISTEN,
        help="tcp://LOOPBACK_ADDRESS:PORT of --egress (default: %(default)s)")  # fmt: skip
    add("--egress-proxy", metavar="ADDRESS", default=DEFAULT_PROXY,
        help="where the parent's egress proxy listens (default: %(default)s)")  # fmt: skip


def _allowed(entries: Sequence[str], file: str | None) -> frozenset[tuple[str, int]]:
    from vsock_proxy.proxy.allowlist import parse_entry, parse_lines  # noqa: PLC0415 (seldom)

    found = set()
    for text in entries:
        try:
            found.add(parse_entry(text))
        except ConfigurationError as e:
            raise ConfigurationError(f"--egress-allow: {e}", hint=e.hint) from e
    if file is not None:
        found |= parse_lines(_read(Path(file)), source=file).entries
    if not found:
        raise ConfigurationError(
            "--egress without a host that may be reached",
            hint="name them: --egress-allow s3.eu-central-1.amazonaws.com:443",
        )
    return frozenset(found)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as e:
        raise ConfigurationError(
            f"--egress-allow-file: cannot read {path}: {e.strerror}", hint="is it in the image?"
        ) from e
    if len(data) > MAX_FILE:
        raise ConfigurationError(f"--egress-allow-file: {path} has more than {MAX_FILE} bytes")
    return data.decode("utf-8", "replace")


def _named_host(text: str) -> Target:
    host, port = _host_and_port("--egress-host", text)
    if _ip(host) is not None or host.lower() == "localhost":
        raise ConfigurationError(
            f"--egress-host {text}: {host} is not a name that can be given another address",
            hint="use --forward tcp://127.0.0.1:PORT=HOST:PORT",
        )
    return Target(host, port)


def _forward(text: str) -> Target:
    listen, _, target = text.partition("=")
    if not target:
        raise ConfigurationError(
            f"--forward {text}: no target",
            hint="--forward tcp://127.0.0.1:5432=db.internal:5432",
        )
    host, port = _host_and_port("--forward", target)
    address = parse_address(listen)
    return Target(host, port, address if isinstance(address, UnixAddress) else _loopback(listen))


def _ingress(text: str) -> tuple[Address, Address]:
    listen, _, target = text.partition("=")
    hint = "--ingress vsock://any:8443=tcp://127.0.0.1:8443"
    if not target:
        raise ConfigurationError(f"--ingress {text}: no target", hint=hint)
    front, back = parse_address(listen), parse_destination(target)
    if not isinstance(front, VsockAddress | UnixAddress):
        raise ConfigurationError(
            f"--ingress {text}: it comes in over vsock, not on {front}", hint=hint
        )
    if isinstance(back, HybridAddress | VsockAddress):
        raise ConfigurationError(f"--ingress {text}: {back} is not in the enclave", hint=hint)
    if isinstance(back, TcpAddress) and not _is_loopback(back.host):
        raise ConfigurationError(f"--ingress {text}: {back} is not in the enclave", hint=hint)
    return front, back


def _host_and_port(option: str, text: str) -> tuple[str, int]:
    from vsock_proxy.proxy.allowlist import parse_entry  # noqa: PLC0415 (seldom)

    try:
        host, port = parse_entry(text)
    except ConfigurationError as e:
        raise ConfigurationError(f"{option}: {e}", hint=e.hint) from e
    if "*" in host:
        raise ConfigurationError(f"{option} {text}: one host, not a pattern", hint="use --egress")
    return host, port


def _loopback(text: str) -> TcpAddress:
    address = parse_address(text)
    if isinstance(address, TcpAddress) and _is_loopback(address.host):
        return address
    raise ConfigurationError(
        f"will not listen on {address}: it is for programs in this enclave",
        hint="name a loopback address such as tcp://127.0.0.1:8010",
    )


def _is_loopback(host: str) -> bool:
    ip = _ip(host)
    return ip is not None and ip.is_loopback


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host)
    return None
