"""``enclave-agent serve``: the local KMS endpoint as a process, or around another program."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import ipaddress
import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Final

from enclave.attested_tls import options as ingress_options
from enclave.aws_settings import AwsSettings
from enclave.boot import (
    BootOptions,
    System,
    add_options,
    clock_watch,
    run_boot_duties,
    seed_from_kms,
)
from enclave.cli.command import Command
from enclave.cli.errors import BadValueError
from enclave.cli.operation import key_pair_ahead, make_agent, region_of
from enclave.cli.options import kms_options
from enclave.errors import ConfigurationError, NsmUnavailableError
from enclave.logs import options as log_options
from enclave.logs.command import divide
from enclave.network import options as network_options
from enclave.pool import CAPACITY, check_settings
from enclave.process import limit_heaps
from enclave.secrets.options import SecretOptions
from enclave.secrets.options import add_options as add_secret_options
from enclave.serve.control_options import add_options as add_control_options
from enclave.serve.control_options import control_address
from enclave.serve.program_environment import (
    command_environment,
    egress_environment,
    ignores_endpoint,
    proxy_in_the_way,
)
from enclave.serve.user import find_user
from enclave.surroundings import is_instance
from vsock_proxy.net.addresses import Address, TcpAddress, UnixAddress, parse_address
from vsock_proxy.service.scarcity import LOOP_DESCRIPTORS, require_descriptors

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from enclave.attested_tls.service import IngressTls
    from enclave.cli.environment import Environment
    from enclave.clock_watch import ClockWatch
    from enclave.network.service import Network
    from enclave.serve.user import User

log = logging.getLogger(__name__)

DEFAULT_LISTEN: Final = "tcp://127.0.0.1:8009"

MAX_PROCESSES: Final = 64
"""An enclave has no more CPUs than an instance."""

DEADLINE: Final = 45.0
"""Seconds for each call: it ends before SDKs stop waiting, after 60 s."""


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the command ``serve``; `common` is the parser of the options all commands share."""
    parser = subparsers.add_parser(
        "serve",
        help="a local KMS endpoint for every AWS SDK in the enclave",
        usage="enclave-agent serve [options] [-- COMMAND [ARGS...]]",
        description="Serve KMS to the programs in this enclave, which reach it through "
        "AWS_ENDPOINT_URL_KMS=http://127.0.0.1:8009 or --endpoint-url. The operations that KMS can "
        "attest are attested; the caller gets the secret as from KMS itself. Signatures of callers "
        "are not verified: the enclave's own credentials sign. GET /healthz and /readyz report its "
        "state. With COMMAND: runs it once KMS can be reached, with AWS_ENDPOINT_URL_KMS and "
        "NO_PROXY set, and exits when it does, with its exit code.",
        parents=[common, kms_options()],
        conflict_handler="resolve",  # for --region
    )
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
    ingress_options.add_options(parser)
    add("words", nargs=argparse.REMAINDER, metavar="COMMAND", help=argparse.SUPPRESS)
    add_secret_options(parser)
    add("--no-kms", action="store_true",
        help="no KMS endpoint, and no call: for the program's network alone")  # fmt: skip
    add_control_options(parser)
    add_options(parser)
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


def run(arguments: argparse.Namespace, environment: Environment) -> int:
    """Serve until SIGTERM or SIGINT, or until COMMAND has ended; return the exit code.

    Raises:
        ConfigurationError: an option is invalid.
        ListenError: the address cannot be listened on.
        AgentError: COMMAND was not run, because every call would end in this error.
    """
    environ = environment.environ
    address = listen_address(arguments.listen)
    command = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    user = _check_options(arguments, address, command)
    network = network_options.NetworkOptions.from_args(arguments)
    secrets = SecretOptions.from_args(arguments, command=bool(command))
    ingress = ingress_options.from_args(arguments, command)
    control_at = control_address(arguments.control) if arguments.control else None
    limit_heaps(2)
    boot = BootOptions.from_args(arguments)
    if arguments.no_kms:
        if secrets is not None:
            raise ConfigurationError(
                "--no-kms, and secrets that only KMS can open", hint="leave one of them out"
            )
        if control_at is not None:
            raise ConfigurationError(
                "--no-kms with --control", hint="leave out one of them: nothing listens there"
            )
        return _run_without_kms(arguments, environment, command, user, network, ingress)
    _warn_of_variables(environ, address, around=bool(command))
    # Before anything listens (lo), makes a key (entropy) or checks a certificate (clock).
    watch = _do_boot_duties(boot, environment, arguments.engine, arguments.attester)
    # A fork takes no thread with it: with several processes, each makes its key pair later.
    key_pair = key_pair_ahead(arguments) if arguments.processes == 1 else None
    # Modules that take a while to load; the key is made meanwhile.
    import asyncio  # noqa: PLC0415

    from enclave.serve.service import ServeOptions, serve, serve_as_worker  # noqa: PLC0415
    from enclave.serve.workers import Workers  # noqa: PLC0415
    from vsock_proxy.net.listening import listening  # noqa: PLC0415

    with contextlib.ExitStack() as held:
        agents = {
            region: held.enter_context(
                make_agent(
                    arguments,
                    environment,
                    deadline=arguments.deadline,
                    max_connections=arguments.max_calls,
                    key_pair=key_pair,
                    clock_watch=watch,
                    environ=_without_own_url(environment.environ),
                    **changes,
                )
            )
            for region, changes in _regions(arguments, environment).items()
        }
        listener = held.enter_context(listening(address))
        ingress_tls = _open_ingress(ingress, arguments, environment, user, held)
        control = held.enter_context(listening(control_at)) if control_at else None
        options = ServeOptions(
            command=command,
            environ={},  # COMMAND's, below
            user=user,
            secrets=secrets,
            control=control,
            pool_size=arguments.pool_size if arguments.pool else None,
            clients=arguments.max_clients,
            calls=arguments.max_calls,
            deadline=arguments.deadline,
            processes=arguments.processes,
            ingress_tls=ingress_tls,
        )

        def work(number: int, life: socket.socket) -> int:
            watch.only_watch()  # the first process corrects the clock
            require_descriptors(LOOP_DESCRIPTORS, "a process of the endpoint")
            return asyncio.run(serve_as_worker(agents, listener, options, number, life)).code

        workers = held.enter_context(contextlib.closing(Workers()))
        workers.fork(arguments.processes - 1, work)
        # It has a thread, and a fork would take its locks along.
        environ, opened = _open_network(network, environ, held)
        options = dataclasses.replace(
            options, environ=command_environment(environ, next(iter(agents))), network=opened
        )
        if boot.seed_from_kms and not is_instance(arguments.attester):
            # Needs KMS, which may be slow to come up: nobody waits for it.
            agent = next(iter(agents.values()))
            threading.Thread(target=seed_from_kms, args=(agent,), daemon=True).start()
        require_descriptors(LOOP_DESCRIPTORS, "the endpoint")
        ended = asyncio.run(serve(agents, listener, options, workers))
    if ended.busy:
        # Threads that wait for KMS would hold the exit up until their deadline.
        logging.shutdown()
        os._exit(ended.code)
    return ended.code


def _run_without_kms(
    arguments: argparse.Namespace,
    environment: Environment,
    command: Sequence[str],
    user: User | None,
    network: network_options.NetworkOptions | None,
    ingress: ingress_options.IngressTlsOptions | None,
) -> int:
    """Run COMMAND, and its network, and nothing else; return the exit code."""
    if ingress is not None and ingress.folder is not None:
        raise ConfigurationError(
            "--no-kms, and --ingress-tls-files, whose documents the endpoint gives",
            hint="leave one of them out",
        )
    if network is None and ingress is None:
        raise ConfigurationError(
            "--no-kms, and no network: nothing to serve",
            hint="add --egress, --egress-host, --forward, --ingress or --ingress-tls",
        )
    boot = dataclasses.replace(BootOptions.from_args(arguments), seed_from_kms=False)
    _do_boot_duties(boot, environment, "python", arguments.attester)
    import asyncio  # noqa: PLC0415 (as in `run`)

    from enclave.serve.service import run_program  # noqa: PLC0415 (as in `run`)

    with contextlib.ExitStack() as held:
        environ, _ = _open_network(network, environment.environ, held)
        ingress_tls = _open_ingress(ingress, arguments, environment, user, held)
        require_descriptors(LOOP_DESCRIPTORS, "the agent")
        return asyncio.run(run_program(command, environ, user, ingress_tls))


def _open_ingress(
    options: ingress_options.IngressTlsOptions | None,
    arguments: argparse.Namespace,
    environment: Environment,
    user: User | None,
    held: contextlib.ExitStack,
) -> IngressTls | None:
    """Listen for clients of attested TLS; they are served once it is started."""
    if options is None:
        return None
    from enclave.attested_tls.service import IngressTls  # noqa: PLC0415 (if it is used)

    attester = held.enter_context(environment.attester(arguments.attester))
    owner = None if user is None else (user.uid, user.gid)
    return held.enter_context(IngressTls(options, attester, owner=owner))


def _open_network(
    options: network_options.NetworkOptions | None,
    environ: Mapping[str, str],
    held: contextlib.ExitStack,
) -> tuple[Mapping[str, str], Network | None]:
    """Open the listeners of the program's network; return the variables with its own."""
    if options is None:
        return environ, None
    from enclave.network.service import network  # noqa: PLC0415 (loads the relay)

    opened = held.enter_context(network(options))
    for address in opened.addresses:
        log.info("the program's network: listening on %s", address)
    if opened.proxy is None:
        return environ, opened
    url = str(opened.proxy).replace("tcp://", "http://")
    return {
        **environ,
        **egress_environment(environ, opened.proxy.host, url, opened.names),
    }, opened


def _check_options(
    arguments: argparse.Namespace, address: Address, command: Sequence[str]
) -> User | None:
    """Raise ConfigurationError for an invalid option; return the user of ``--user``."""
    if command and isinstance(address, UnixAddress):
        raise ConfigurationError(
            "no SDK finds a UNIX socket through AWS_ENDPOINT_URL_KMS",
            hint="leave --listen out, or run the program beside the agent",
        )
    if arguments.user is not None and not command:
        raise ConfigurationError(
            "--user without a COMMAND", hint="the agent itself runs as the user who starts it"
        )
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
    return find_user(arguments.user) if arguments.user is not None else None


def _regions(arguments: argparse.Namespace, environment: Environment) -> dict[str, dict[str, Any]]:
    """Return each region with the arguments of its agent; the first is the default region."""
    given: dict[str, str | None] = getattr(arguments, "regions", {})
    if not given:
        return {region_of(arguments, environment): {}}
    if len(given) > 1 and (arguments.endpoint_url or _endpoint_url(arguments, environment)):
        raise ConfigurationError(
            "an endpoint URL is that of one region, and there are several --region",
            hint="leave out --endpoint-url, AWS_ENDPOINT_URL_KMS and AWS_ENDPOINT_URL",
        )
    return {
        region: {"region": region} | ({"proxy": proxy} if proxy else {})
        for region, proxy in given.items()
    }


def _endpoint_url(arguments: argparse.Namespace, environment: Environment) -> str | None:
    environ = _without_own_url(environment.environ)
    return AwsSettings(environ, profile=arguments.profile).endpoint_url


def _do_boot_duties(
    options: BootOptions, environment: Environment, engine: str, attester: str
) -> ClockWatch:
    from enclave.nsm import Nsm  # noqa: PLC0415 (as in `run`)

    system = System()
    if engine == "sdk":  # with sdk-client no C code is loaded into this process
        from enclave.sdk.entropy import seed_entropy  # noqa: PLC0415 (for this engine only)

        system = System(seed_from_nsm=seed_entropy)
    watch = clock_watch(options, system=system)
    if is_instance(attester):
        log.info("no boot duties on an instance: its system has done them")
        return watch
    try:
        with environment.device() as device:
            run_boot_duties(options, Nsm(device), system=system, watch=watch)
    except NsmUnavailableError as e:
        # Every attested call will end in this error; the endpoint can still report its state.
        log.warning("no boot duties: %s", e)
    return watch


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


def _warn_of_variables(environ: Mapping[str, str], address: Address, *, around: bool) -> None:
    """Warn if this environment, as programs may have it, leads an SDK past the endpoint."""
    if around and ignores_endpoint(environ):
        log.warning(
            "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS is set: AWS SDKs in COMMAND ignore "
            "AWS_ENDPOINT_URL_KMS, and with it this endpoint"
        )
    if isinstance(address, TcpAddress) and not around:  # COMMAND gets a NO_PROXY
        name = proxy_in_the_way(environ, address.host)
        if name is not None:
            log.warning(
                "%s is set: programs that have it too may send their requests for this endpoint, "
                "plaintext included, to that proxy; set NO_PROXY=%s for them",
                name,
                address.host,
            )


def _without_own_url(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without this endpoint's own URL, which is there for other programs."""
    return {
        name: value
        for name, value in environ.items()
        if not (name in ("AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL") and value[:7] == "http://")
    }


COMMANDS = {"serve": Command(run, divide)}
