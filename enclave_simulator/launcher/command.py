"""``enclave-simulator run``: COMMAND in a simulated enclave, with the parent's services."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.launcher import child
from enclave_simulator.launcher.errors import CommandError
from enclave_simulator.launcher.launch import DEFAULT_CID, Launcher
from enclave_simulator.launcher.network import INSTANCE, POD, TASK, Network
from enclave_simulator.parent import services as parent_services
from enclave_simulator.parent.processes import exit_on_signals
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.ports import CREDENTIALS_PORT, LOG_PORT, PROXY_PORT
from vsock_proxy.service.console import complain

_DEFAULT_REGION = "us-east-1"
_REAL_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CREDENTIAL_EXPIRATION",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_KMS",
)
"""What leads to real credentials, or to another KMS than the simulated one."""

_FILES = ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")
"""The developer's own come before an instance's and a pod's credentials: there are none in an
enclave, and none here unless the caller names them."""


_CREDENTIALS = {
    "enclave": ("environment", "parent"),
    "sandbox": (POD, TASK, "environment"),
    "instance": (INSTANCE, "environment"),
}
"""Where a platform's programs find credentials; the first is the default."""


def add_parser(subparsers: Any) -> None:
    """Add the ``run`` command to ``enclave-simulator``."""
    parser = subparsers.add_parser(
        "run",
        help="run a program in a simulated enclave, sandbox or instance",
        description="Run COMMAND with a simulated /dev/nsm and AF_VSOCK; behind CID 3 are a "
        f"simulated KMS (through vsock-proxy on port {PROXY_PORT}), a log sink on "
        f"port {LOG_PORT}, whose lines are printed on standard error, and what --parent-port and "
        "--folder add. Its exit code is COMMAND's, 128+N if signal N ended it. "
        "--platform sandbox and --platform instance simulate a confidential pod or task and an EC2 "
        "instance with a NitroTPM instead. "
        "If the kernel permits it, COMMAND has a /dev and a loopback interface of its own, and no "
        "other network (docs/launcher.md). "
        "Processes that COMMAND leaves behind are killed: an enclave ends with its first program.",
        usage="enclave-simulator run [options] [--] COMMAND [ARGS...]",
    )
    add = parser.add_argument
    add("--platform", choices=("enclave", "sandbox", "instance"), default="enclave",
        help="what COMMAND runs in: a Nitro Enclave; a Nitro Sandbox, with /dev/nsm; or an EC2 "
        "instance, with /dev/tpm0 and /dev/tpmrm0. The last two find KMS by its name on TCP port "
        "443, and credentials where AWS has them (default: %(default)s)")  # fmt: skip
    add("--cid", type=int, default=DEFAULT_CID, metavar="N",
        help=f"the enclave's context id (default: {DEFAULT_CID})")  # fmt: skip
    add("--debug-mode", action="store_true",
        help="an enclave in debug mode: PCR0, PCR1 and PCR2 are zero")  # fmt: skip
    add("--folder", metavar="FOLDER", type=Path,
        help="UNIX sockets that stand for vsock: 3_PORT is the parent's port, CID_PORT the "
        "enclave's (default: a temporary folder)")  # fmt: skip
    add("--no-services", action="store_true",
        help="no KMS and no proxy, and the environment as it is")  # fmt: skip
    add("--host-network", action="store_true",
        help="COMMAND shares this machine's network, for what an enclave cannot do: reach it over "
        "TCP, or be reached from other programs")  # fmt: skip
    add("--no-namespaces", action="store_true",
        help="neither a /dev nor a network of its own: all users and groups keep their names, but "
        "calls with paths are slower, and a signal may end one with EINTR")  # fmt: skip
    add("--credentials", choices=sorted({each for of in _CREDENTIALS.values() for each in of}),
        help="where COMMAND finds AWS credentials: in its environment, where every SDK looks (an "
        f"enclave's default); parent: at vsock://3:{CREDENTIALS_PORT}; pod (a sandbox's default) "
        "and task: the container credentials of EKS Pod Identity and of ECS; instance (an "
        "instance's default): IMDSv2")  # fmt: skip
    add("--metadata-hops", type=int, metavar="N",
        help="hops to the instance metadata, whose HttpPutResponseHopLimit is 1: 2 is a container "
        "on the instance, which gets no token (default: 1)")  # fmt: skip
    parent_services.add_options(parser)
    add("--verbose", action="store_true", help="log to stderr what is opened and connected")
    add("command", metavar="COMMAND", help="the program, looked up in PATH")
    # Of a COMMAND that is missing, argparse would say that ARGS are too.
    add("arguments", metavar="ARGS", nargs=argparse.REMAINDER).required = False
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run COMMAND and return its exit code.

    Raises:
        LaunchError: the kernel refuses.
        ServiceError: a service of the parent did not start.
        ConfigurationError: an option.
    """
    # cryptography takes a moment to load; the other commands do without.
    from enclave_simulator.authority import Authority  # noqa: PLC0415
    from enclave_simulator.nitrotpm import SimulatedNitroTpm  # noqa: PLC0415
    from enclave_simulator.nsm import SimulatedNsm  # noqa: PLC0415

    parent_services.check_cid(options.cid)
    parent_services.check_options(options)
    credentials = _credentials(options)
    _check_effect(options, credentials)
    level = logging.DEBUG if options.verbose else logging.WARNING
    logging.basicConfig(format="enclave-simulator: %(message)s", level=level)
    logging.getLogger("botocore").setLevel(logging.WARNING)  # its tables of Regions are read
    exit_on_signals()
    with contextlib.ExitStack() as stack:
        private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="enclave-")))
        folder = options.folder or private
        authority = Authority.generate()
        env, services, network = dict(os.environ), set[int](), Network()
        if not options.no_services:
            ca = private / "kms-ca.pem"
            parent = parent_services.ParentServices(
                folder=folder,
                private=private,
                nitro_root=authority.root_pem,
                ca=ca,
                kms_options=parent_services.kms_options(options),
                with_credentials=credentials == "parent",
                verbose=options.verbose,
            )
            env = program_environment(env, ca, with_credentials=credentials == "environment")
            if options.platform == "enclave":
                started = parent.start(stack)
            else:
                kms, address = parent.start_kms(stack)
                started = [kms]
                network.add_kms(address)
            services.update(service.process.pid for service in started)
            if credentials in (POD, TASK, INSTANCE):
                network.add_credentials(
                    credentials, stack, private=private, region=env["AWS_REGION"],
                    hops=options.metadata_hops or 1,
                )  # fmt: skip
        nsm: SimulatedNsm | None = None
        tpm: SimulatedNitroTpm | None = None
        if options.platform == "instance":
            tpm = SimulatedNitroTpm(authority)
        elif options.platform == "sandbox":
            nsm = SimulatedNsm.of_sandbox(authority)
        else:
            nsm = SimulatedNsm(authority, debug_mode=options.debug_mode)
        launcher = Launcher(
            nsm=nsm,
            tpm=tpm,
            services=network.services,
            hosts=network.hosts,
            env_with=network.env_with,
            env_without=network.env_without,
            cid=options.cid,
            folder=folder,
            parent_ports=dict(options.parent_port),
            namespaces=False if options.no_namespaces else None,
            own_network=not options.host_network,
        )
        argv = [options.command, *options.arguments]
        stack.enter_context(child.in_front())
        try:
            session = stack.enter_context(
                launcher.start(
                    argv, env=env, own_group=False, die_with_thread=True, pass_descriptors=True
                )
            )
        except CommandError as e:
            complain("enclave-simulator", e)
            return e.exit_code
        child.pass_through(session.process, services)
        child.end_orphans(services)
        return session.wait()


def _credentials(options: argparse.Namespace) -> str:
    """Return where COMMAND finds credentials.

    Raises:
        ConfigurationError: the platform does not have the options.
    """
    allowed = _CREDENTIALS[options.platform]
    given: str = options.credentials or allowed[0]
    if given not in allowed:
        raise ConfigurationError(
            f"--credentials {given} with --platform {options.platform}",
            hint=f"there it is one of {', '.join(allowed)}",
        )
    if options.debug_mode and options.platform != "enclave":
        raise ConfigurationError(
            f"--debug-mode with --platform {options.platform}", hint="only an enclave has one"
        )
    return given


def _check_effect(options: argparse.Namespace, credentials: str) -> None:
    """Check that no option is given that would have no effect.

    Raises:
        ConfigurationError: one is.
    """
    if options.credentials and options.no_services:
        raise ConfigurationError(
            f"--credentials {credentials} with --no-services: COMMAND's environment stays as it is",
            hint="leave one of them out",
        )
    if options.metadata_hops is not None and credentials != INSTANCE:
        raise ConfigurationError(
            "--metadata-hops without an instance's metadata", hint="add --platform instance"
        )


def program_environment(env: dict[str, str], ca: Path, *, with_credentials: bool) -> dict[str, str]:
    """Return the caller's environment without anything that leads to the real KMS.

    Args:
        env: the caller's.
        ca: file with the CA that the simulated KMS's certificates are under.
        with_credentials: add those that the simulated KMS accepts.
    """
    env = {name: value for name, value in env.items() if name not in _REAL_CREDENTIALS}
    env = {**dict.fromkeys(_FILES, os.devnull), **env}
    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or _DEFAULT_REGION
    env |= {"AWS_CA_BUNDLE": str(ca), "AWS_REGION": region, "AWS_DEFAULT_REGION": region}
    env["NODE_EXTRA_CA_CERTS"] = str(ca)  # beside those that Node.js has
    if with_credentials:
        env |= {
            "AWS_ACCESS_KEY_ID": SIMULATED_CREDENTIALS.access_key_id,
            "AWS_SECRET_ACCESS_KEY": SIMULATED_CREDENTIALS.secret_access_key,
            "AWS_SESSION_TOKEN": SIMULATED_CREDENTIALS.session_token or "",
        }
    return env
