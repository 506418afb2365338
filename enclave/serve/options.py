"""The options of `serve`, checked: those of the endpoint here, those of each part in its module."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from enclave.attested_tls import options as ingress_options
from enclave.attested_tls.options import IngressTlsOptions
from enclave.boot import BootOptions
from enclave.boot import add_options as add_boot_options
from enclave.cli.errors import BadValueError
from enclave.errors import ConfigurationError
from enclave.logs import options as log_options
from enclave.logs.outbox import LIMIT
from enclave.network import options as network_options
from enclave.network.options import NetworkOptions
from enclave.random_store import CAPACITY, check_settings
from enclave.secrets.options import SecretOptions
from enclave.secrets.options import add_options as add_secret_options
from enclave.serve.user import User, find_user
from vsock_proxy.net.addresses import Address, TcpAddress, UnixAddress, VsockAddress, parse_address

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_LISTEN: Final = "tcp://127.0.0.1:8009"

MAX_PROCESSES: Final = 64
"""An enclave has no more CPUs than an instance."""

DEADLINE: Final = 45.0
"""Seconds for each call: it ends before SDKs stop waiting, after 60 s."""


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """The options of the KMS endpoint.

    Attributes:
        listen: where it listens.
        pool_size: bytes of the pool; None: no pool.
        clients: connections of clients at the same time.
        calls: calls to KMS at the same time.
        deadline: seconds for one call.
        processes: processes that serve on the same socket; clients, calls and the pool are of each.
    """

    listen: Address
    pool_size: int | None
    clients: int
    calls: int
    deadline: float
    processes: int = 1

    @classmethod
    def from_args(cls, arguments: argparse.Namespace) -> Self:
        """Return the values of the options.

        Raises:
            ConfigurationError: one is out of range.
        """
        if not 1 <= arguments.processes <= MAX_PROCESSES:
            raise ConfigurationError(
                f"--processes is not in 1..{MAX_PROCESSES}", hint="one for each CPU of the enclave"
            )
        for name in ("max_clients", "max_calls"):
            if not 1 <= getattr(arguments, name) <= 65_536:
                option = f"--{name.replace('_', '-')}"
                raise ConfigurationError(f"{option} is not in 1..65536", hint="leave it out")
        if not 0 < arguments.deadline <= 86_400:
            raise BadValueError(
                f"the deadline is {arguments.deadline:g} s",
                hint="more than 0, at most a day: every wait has a deadline here",
            )
        if arguments.pool:
            check_settings(arguments.pool_size)
        return cls(
            listen=listen_address(arguments.listen),
            pool_size=arguments.pool_size if arguments.pool else None,
            clients=arguments.max_clients,
            calls=arguments.max_calls,
            deadline=arguments.deadline,
            processes=arguments.processes,
        )


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `serve` is to run, and nothing opened yet.

    Attributes:
        endpoint: the KMS endpoint; None with ``--no-kms``.
        command: the program to run, and its arguments; or nothing.
        user: whom it runs as; None: the agent's own user.
        secrets: what it is given besides; None: nothing.
        ingress: attested TLS for clients from outside; None: none.
        network: the program's network; None: none.
        control: where the parent is listened for; None: it may ask nothing.
        program_credentials: whether the program is given the agent's AWS credentials.
        boot: what to do first.
    """

    endpoint: EndpointOptions | None
    command: Sequence[str]
    user: User | None
    secrets: SecretOptions | None
    ingress: IngressTlsOptions | None
    network: NetworkOptions | None
    control: Address | None
    program_credentials: bool
    boot: BootOptions

    @classmethod
    def from_args(cls, arguments: argparse.Namespace) -> Self:
        """Return the values of the options that `add_options` added.

        Raises:
            ConfigurationError: one is invalid, or they contradict each other.
        """
        _check_effects(arguments)
        words = arguments.words
        command = words[1:] if words[:1] == ["--"] else words
        endpoint = EndpointOptions.from_args(arguments)
        if command and isinstance(endpoint.listen, UnixAddress):
            raise ConfigurationError(
                "no SDK finds a UNIX socket through AWS_ENDPOINT_URL_KMS",
                hint="leave --listen out, or run the program beside the agent",
            )
        if arguments.user is not None and not command:
            raise ConfigurationError(
                "--user without a COMMAND", hint="the agent itself runs as the user who starts it"
            )
        if arguments.program_credentials and not command:
            raise ConfigurationError(
                "--program-credentials without a COMMAND",
                hint="they are for the program that serve starts: serve ... -- COMMAND",
            )
        options = cls(
            endpoint=None if arguments.no_kms else endpoint,
            command=command,
            user=find_user(arguments.user) if arguments.user is not None else None,
            network=NetworkOptions.from_args(arguments),
            secrets=SecretOptions.from_args(arguments, command=bool(command)),
            ingress=IngressTlsOptions.from_args(arguments, command=bool(command)),
            control=control_address(arguments.control) if arguments.control else None,
            program_credentials=arguments.program_credentials,
            boot=BootOptions.from_args(arguments),
        )
        if options.endpoint is None:
            options.check_without_kms()
        return options

    def check_without_kms(self) -> None:
        """Check that nothing needs KMS, and that something is left to serve.

        Raises:
            ConfigurationError: something does, or nothing is.
        """
        if self.secrets is not None:
            raise ConfigurationError(
                "--no-kms, and secrets that only KMS can open", hint="leave one of them out"
            )
        if self.control is not None:
            raise ConfigurationError(
                "--no-kms with --control", hint="leave out one of them: nothing listens there"
            )
        if self.ingress is not None and self.ingress.folder is not None:
            raise ConfigurationError(
                "--no-kms, and --ingress-tls-files, whose documents the endpoint gives",
                hint="leave one of them out",
            )
        if self.network is None and self.ingress is None:
            raise ConfigurationError(
                "--no-kms, and no network: nothing to serve",
                hint="add --egress, --egress-host, --forward, --ingress or --ingress-tls",
            )


_NETWORK: Final = ("egress", "egress_host", "forward", "ingress")

_EFFECTS: Final[dict[str, tuple[object, tuple[str, ...]]]] = {
    "pool_size": (CAPACITY, ("pool",)),
    "correct_clock": (False, ("check_clock",)),
    "egress_listen": (network_options.DEFAULT_LISTEN, _NETWORK),
    "egress_proxy": (network_options.DEFAULT_PROXY, _NETWORK),
    "ingress_tls_clients": (ingress_options.MAX_CLIENTS, ("ingress_tls",)),
    "ingress_tls_rate": (ingress_options.RATE, ("ingress_tls",)),
    "log_also_stderr": (False, ("log_to",)),
    "log_buffer": (LIMIT, ("log_to",)),
    "log_flush": (log_options.FLUSH, ("log_to",)),
}
"""Options that do nothing alone: their defaults, and those of which they need one."""


def _check_effects(arguments: argparse.Namespace) -> None:
    """Check that each option has an effect: it may have been meant for more.

    Raises:
        ConfigurationError: one has none.
    """
    for name, (default, needed) in _EFFECTS.items():
        if getattr(arguments, name) != default and not any(getattr(arguments, n) for n in needed):
            option, other = (f"--{each.replace('_', '-')}" for each in (name, needed[0]))
            raise ConfigurationError(
                f"{option} without {other}", hint=f"add {other}, or leave {option} out"
            )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `serve`, apart from those of every KMS command."""
    add = parser.add_argument
    add("--region", action=_Regions, metavar="REGION[=ADDRESS]",
        help="AWS region, and the address of its proxy (or direct) if it is not --proxy; may be "
        "given several times: the region in a caller's signature chooses, the first is for "
        "requests without a signature (default: AWS_REGION, AWS_DEFAULT_REGION, or the "
        "profile's)")  # fmt: skip
    add("--listen", metavar="ADDRESS", default=DEFAULT_LISTEN,
        help="tcp://LOOPBACK_ADDRESS:PORT or unix:/PATH (default: %(default)s)")  # fmt: skip
    add("--pool", action="store_true",
        help="serve GenerateRandom of up to 256 bytes from attested responses of 1,024 bytes "
        "fetched ahead; each byte is given out once")  # fmt: skip
    add("--pool-size", type=int, default=CAPACITY, metavar="BYTES",
        help="bytes fetched ahead, at most (default: %(default)s)")  # fmt: skip
    add("--max-clients", type=int, default=256, metavar="N",
        help="connections of clients at the same time; fewer if the limit of file descriptors "
        "allows no more (default: %(default)s)")  # fmt: skip
    add("--max-calls", type=int, default=16, metavar="N",
        help="calls to KMS at the same time; others wait (default: %(default)s)")  # fmt: skip
    add("--processes", type=int, default=1, metavar="N",
        help="processes that serve on the same address, one CPU each; --max-clients, --max-calls "
        "and --pool-size are those of each (default: %(default)s)")  # fmt: skip
    add("--deadline", type=float, default=DEADLINE, metavar="SECONDS",
        help="for each call, its retries included (default: %(default)g)")  # fmt: skip
    add("--user", metavar="NAME",
        help="run COMMAND as this user, by name or UID:GID, who cannot read the agent's memory "
        "(default: the agent's own user; docs/trust.md)")  # fmt: skip
    add("--program-credentials", action="store_true",
        help="give COMMAND the agent's AWS credentials, for S3 and others: its SDK fetches and "
        "renews them on loopback (docs/credentials.md)")  # fmt: skip
    ingress_options.add_options(parser)
    add("words", nargs=argparse.REMAINDER, metavar="COMMAND", help=argparse.SUPPRESS)
    add_secret_options(parser)
    add("--no-kms", action="store_true",
        help="no KMS endpoint, and no call: for the program's network alone")  # fmt: skip
    to_parent = parser.add_argument_group("the parent (docs/life-cycle.md)").add_argument
    to_parent("--control", metavar="ADDRESS",
        help="listen for the parent, CID 3, such as vsock://any:8010: it may read /metrics, and "
        "ask to end COMMAND before it terminates the enclave (default: no)")  # fmt: skip
    add_boot_options(parser)
    network_options.add_options(parser)
    log_options.add_options(parser, prefix="log-", default=None)


class _Regions(argparse.Action):
    """Collects the regions with their proxies in `regions`; `region` is the first."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        value: Any,
        _option: str | None = None,
    ) -> None:
        region, _, proxy = value.partition("=")
        regions = {**getattr(namespace, "regions", {})}
        if not region or region in regions:
            raise ConfigurationError(
                f"--region {value}: {'given twice' if region else 'no region'}",
                hint="give each region once: --region us-east-1 --region eu-west-1=vsock://3:8001",
            )
        regions[region] = proxy or None
        namespace.regions = regions
        namespace.region = next(iter(regions))


def listen_address(text: str) -> Address:
    """Return the address to listen on; only one that nobody outside the enclave can connect to.

    Raises:
        ConfigurationError: it is another one, or not an address.
    """
    address = parse_address(text)
    if isinstance(address, UnixAddress):
        return address
    if isinstance(address, TcpAddress):
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(address.host).is_loopback:
                return address
    raise ConfigurationError(
        f"will not listen on {address}: whoever can connect is given secrets",
        hint="name a loopback address such as tcp://127.0.0.1:8009, or unix:/PATH",
    )


def control_address(text: str) -> Address:
    """Return the address to listen on.

    Raises:
        ConfigurationError: it is not an address, or one that others than the parent reach.
    """
    address = parse_address(text)
    if not isinstance(address, VsockAddress | UnixAddress):
        raise ConfigurationError(
            f"--control: will not listen on {address}: who connects may end the program",
            hint="use vsock://any:8010, or unix:/PATH for tests",
        )
    return address
