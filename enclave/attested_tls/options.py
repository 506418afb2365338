"""The options of ``serve --ingress-tls``."""

from __future__ import annotations

import contextlib
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from enclave.errors import ConfigurationError
from vsock_proxy.net.addresses import (
    Address,
    TcpAddress,
    UnixAddress,
    is_host,
    parse_address,
    parse_destination,
)

if TYPE_CHECKING:
    import argparse

DEFAULT_FORWARD: Final = "vsock://any:8443=tcp://127.0.0.1:8080"
MAX_CLIENTS: Final = 256

RATE: Final = 50
"""Documents a second, unless the option says otherwise."""


@dataclass(frozen=True, slots=True)
class IngressTlsOptions:
    """The options.

    Attributes:
        name: of the certificate.
        forwards: listening addresses, and where the program listens for what comes there.
        clients: connections at the same time, of each forward.
        rate: attestation documents a second.
        folder: where the program finds certificate and key, and ends TLS itself; None: the agent
            ends TLS.
    """

    name: str
    forwards: tuple[tuple[Address, TcpAddress | UnixAddress], ...]
    clients: int
    rate: int
    folder: str | None

    @classmethod
    def from_args(cls, arguments: argparse.Namespace, *, command: bool) -> Self | None:
        """Return the options; None without ``--ingress-tls``.

        Raises:
            ConfigurationError: one of them is invalid, or is of no use with the others.
        """
        folder, forwards = arguments.ingress_tls_files, arguments.ingress_tls_forward
        if arguments.ingress_tls is None:
            if folder is not None or forwards:
                given = "forward" if forwards else "files"
                raise ConfigurationError(
                    f"--ingress-tls-{given} without --ingress-tls", hint="add --ingress-tls NAME"
                )
            return None
        check_name(arguments.ingress_tls)
        for name in ("ingress_tls_clients", "ingress_tls_rate"):
            if not 1 <= getattr(arguments, name) <= 65_536:
                option = f"--{name.replace('_', '-')}"
                raise ConfigurationError(f"{option} is not in 1..65536", hint="leave it out")
        if folder is not None:
            if forwards or not command:
                raise ConfigurationError(
                    "--ingress-tls-files is for a COMMAND that listens for TLS itself",
                    hint="leave out --ingress-tls-forward, and give a COMMAND",
                )
        else:
            forwards = forwards or [DEFAULT_FORWARD]
        return cls(
            arguments.ingress_tls,
            tuple(map(_forward, forwards)),
            arguments.ingress_tls_clients,
            arguments.ingress_tls_rate,
            folder,
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options, in a group of their own."""
    add = parser.add_argument_group("attested TLS (docs/ingress.md)").add_argument
    add("--ingress-tls", metavar="NAME",
        help="end TLS for clients from outside, with a key made here and attested to each of "
        "them; NAME, a DNS name or an IP address, is for the certificate, and nobody needs to "
        "trust it")  # fmt: skip
    add("--ingress-tls-forward", metavar="LISTEN=TO", action="append", default=[],
        help="accept TLS at LISTEN, vsock://any:PORT or another address, and pass what is inside "
        "to the program at TO, a loopback address or unix:/PATH; may be given several times "
        f"(default: {DEFAULT_FORWARD})")  # fmt: skip
    add("--ingress-tls-clients", type=int, default=MAX_CLIENTS, metavar="N",
        help="TLS connections at the same time, of each forward (default: "
        "%(default)s)")  # fmt: skip
    add("--ingress-tls-rate", type=int, default=RATE, metavar="N",
        help="attestation documents a second; each new client needs one (default: "
        "%(default)s)")  # fmt: skip
    add("--ingress-tls-files", metavar="DIR",
        help="have COMMAND end TLS itself, with tls.crt and tls.key in DIR, which must be in "
        "memory (tmpfs); --listen gives the attestation documents")  # fmt: skip


def check_name(name: str) -> None:
    """Check that a certificate can have this name: a DNS name or an IP address.

    Raises:
        ConfigurationError: it cannot.
    """
    if not is_host(name) or "%" in name:
        raise ConfigurationError(
            f"--ingress-tls {name}: neither a DNS name nor an IP address",
            hint="clients trust the document, not the name: any name will do",
        )


def _forward(text: str) -> tuple[Address, TcpAddress | UnixAddress]:
    listen, equals, to = text.partition("=")
    if not equals:
        raise ConfigurationError(
            f"--ingress-tls-forward {text}: not LISTEN=TO", hint=f"for example {DEFAULT_FORWARD}"
        )
    return parse_address(listen), _program_address(to)


def _program_address(text: str) -> TcpAddress | UnixAddress:
    address: Any = parse_destination(text)
    if isinstance(address, UnixAddress):
        return address
    if isinstance(address, TcpAddress):
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(address.host).is_loopback:
                return address
    raise ConfigurationError(
        f"--ingress-tls-forward: what TLS protects would leave this machine for {address}",
        hint="name where the program listens: tcp://127.0.0.1:PORT, or unix:/PATH",
    )
