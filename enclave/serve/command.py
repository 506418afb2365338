"""``enclave-agent serve``: the local KMS endpoint as a process, or around another program.

The order is the point of this module: boot duties before anything listens, all that is opened
before the further processes are forked, threads only after that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from enclave.boot import BootOptions, System, clock_watch, run_boot_duties, seed_from_kms
from enclave.cli.agent import key_pair_ahead
from enclave.cli.command import Command
from enclave.cli.options import kms_options
from enclave.errors import NsmUnavailableError
from enclave.logs.command import divide
from enclave.process import limit_heaps
from enclave.serve.options import EndpointOptions, ServeOptions, add_options
from enclave.serve.program_environment import (
    command_environment,
    egress_environment,
    warn_of_variables,
)
from enclave.surroundings import is_instance
from vsock_proxy.service.scarcity import LOOP_DESCRIPTORS, require_descriptors
from vsock_proxy.service.threads import start_thread

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Mapping

    from enclave.attested_tls.service import IngressTls
    from enclave.cli.environment import Environment
    from enclave.clock_watch import ClockWatch
    from enclave.network.service import Network
    from enclave.serve.program_credentials import ProgramCredentials

log = logging.getLogger(__name__)


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
    add_options(parser)


def run(arguments: argparse.Namespace, environment: Environment) -> int:
    """Serve until SIGTERM or SIGINT, or until COMMAND has ended; return the exit code.

    Raises:
        ConfigurationError: an option is invalid.
        ListenError: the address cannot be listened on.
        AgentError: COMMAND was not run, because every call would end in this error.
    """
    options = ServeOptions.from_args(arguments)
    limit_heaps(2)
    if options.endpoint is None:
        return _run_without_kms(options, arguments, environment)
    return _serve(options, options.endpoint, arguments, environment)


def _serve(
    options: ServeOptions,
    endpoint: EndpointOptions,
    arguments: argparse.Namespace,
    environment: Environment,
) -> int:
    warn_of_variables(environment.environ, endpoint.listen, around=bool(options.command))
    # Before anything listens (lo), makes a key (entropy) or checks a certificate (clock).
    watch = _do_boot_duties(options.boot, environment, arguments.engine, arguments.attester)
    # A fork takes no thread with it: with several processes, each makes its key pair later.
    key_pair = key_pair_ahead(arguments) if endpoint.processes == 1 else None
    # Modules that take a while to load; the key is made meanwhile.
    import asyncio  # noqa: PLC0415

    from enclave.serve.agents import open_agents  # noqa: PLC0415
    from enclave.serve.program import Program  # noqa: PLC0415
    from enclave.serve.service import serve, serve_as_worker  # noqa: PLC0415
    from enclave.serve.workers import Workers  # noqa: PLC0415
    from vsock_proxy.net.listening import listening  # noqa: PLC0415

    with contextlib.ExitStack() as held:
        credentials = _open_credentials(options, arguments, environment, held)
        # The program's are those of the agents, renewed once for all.
        shared = {} if credentials is None else {"credentials": credentials.provider}
        agents = open_agents(
            arguments,
            environment,
            held,
            deadline=endpoint.deadline,
            max_connections=endpoint.calls,
            key_pair=key_pair,
            clock_watch=watch,
            **shared,
        )
        first = next(iter(agents.values()))
        listener = held.enter_context(listening(endpoint.listen))
        ingress = _open_ingress(options, arguments, environment, held)
        control = None
        if options.control is not None:
            control = held.enter_context(listening(options.control))

        def work(number: int, life: socket.socket) -> int:
            watch.only_watch()  # the first process corrects the clock
            require_descriptors(LOOP_DESCRIPTORS, "a process of the endpoint")
            worker = serve_as_worker(agents, listener, endpoint, ingress, number, life)
            return asyncio.run(worker).code

        workers = held.enter_context(contextlib.closing(Workers()))
        workers.fork(endpoint.processes - 1, work)
        # It has a thread, and a fork would take its locks along.
        environ, network = _open_network(options, environment.environ, held)
        if credentials is not None:
            environ = credentials.environment(environ)
        program = None
        if options.command:
            program = Program(
                command=options.command,
                environ=command_environment(environ, next(iter(agents))),
                user=options.user,
                secrets=options.secrets,
            )
        if options.boot.seed_from_kms and not is_instance(arguments.attester):
            # Needs KMS, which may be slow to come up: nobody waits for it.
            start_thread(threading.Thread(target=seed_from_kms, args=(first,), daemon=True))
        require_descriptors(LOOP_DESCRIPTORS, "the endpoint")
        ended = asyncio.run(
            serve(
                agents,
                listener,
                endpoint,
                program=program,
                ingress=ingress,
                network=network,
                control=control,
                credentials=credentials,
                workers=workers,
            )
        )
    if ended.busy:
        # Threads that wait for KMS would hold the exit up until their deadline.
        logging.shutdown()
        os._exit(ended.code)
    return ended.code


def _run_without_kms(
    options: ServeOptions, arguments: argparse.Namespace, environment: Environment
) -> int:
    """Run COMMAND, and its network, and nothing else; return the exit code."""
    boot = dataclasses.replace(options.boot, seed_from_kms=False)
    _do_boot_duties(boot, environment, "python", arguments.attester)
    import asyncio  # noqa: PLC0415 (as in `_serve`)

    from enclave.serve.program import Program  # noqa: PLC0415 (as in `_serve`)
    from enclave.serve.service import run_program  # noqa: PLC0415 (as in `_serve`)

    with contextlib.ExitStack() as held:
        environ, _ = _open_network(options, environment.environ, held)
        credentials = _open_credentials(options, arguments, environment, held)
        if credentials is not None:
            environ = credentials.environment(environ)
        ingress = _open_ingress(options, arguments, environment, held)
        program = None
        if options.command:
            program = Program(command=options.command, environ=environ, user=options.user)
        require_descriptors(LOOP_DESCRIPTORS, "the agent")
        return asyncio.run(run_program(program, ingress, credentials))


def _open_credentials(
    options: ServeOptions,
    arguments: argparse.Namespace,
    environment: Environment,
    held: contextlib.ExitStack,
) -> ProgramCredentials | None:
    """Listen for COMMAND's SDKs; they are served once it is started."""
    if not options.program_credentials:
        return None
    from enclave.serve.agents import credentials_of  # noqa: PLC0415 (as in `_serve`)
    from enclave.serve.program_credentials import ProgramCredentials  # noqa: PLC0415 (as above)

    return held.enter_context(ProgramCredentials(credentials_of(arguments, environment)))


def _open_ingress(
    options: ServeOptions,
    arguments: argparse.Namespace,
    environment: Environment,
    held: contextlib.ExitStack,
) -> IngressTls | None:
    """Listen for clients of attested TLS; they are served once it is started."""
    if options.ingress is None:
        return None
    from enclave.attested_tls.service import IngressTls  # noqa: PLC0415 (if it is used)

    attester = held.enter_context(environment.attester(arguments.attester))
    owner = None if options.user is None else (options.user.uid, options.user.gid)
    return held.enter_context(IngressTls(options.ingress, attester, owner=owner))


def _open_network(
    options: ServeOptions, environ: Mapping[str, str], held: contextlib.ExitStack
) -> tuple[Mapping[str, str], Network | None]:
    """Open the listeners of the program's network; return the variables with its own."""
    if options.network is None:
        return environ, None
    from enclave.network.service import network  # noqa: PLC0415 (loads the relay)

    opened = held.enter_context(network(options.network))
    for address in opened.addresses:
        log.info("the program's network: listening on %s", address)
    if opened.proxy is None:
        return environ, opened
    url = str(opened.proxy).replace("tcp://", "http://")
    found = egress_environment(environ, opened.proxy.host, url, opened.names)
    return {**environ, **found}, opened


def _do_boot_duties(
    options: BootOptions, environment: Environment, engine: str, attester: str
) -> ClockWatch:
    from enclave.nsm import Nsm  # noqa: PLC0415 (as in `_serve`)

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


COMMANDS = {"serve": Command(run, divide)}
