"""``enclave-simulator run``: COMMAND in a simulated enclave, with the parent's services."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.launcher import child
from enclave_simulator.launcher.errors import CommandError
from enclave_simulator.launcher.launch import DEFAULT_CID, Launcher
from enclave_simulator.parent import services as parent_services
from vsock_proxy.net.ports import CREDENTIALS_PORT, LOG_PORT, PROXY_PORT
from vsock_proxy.service.console import complain

if TYPE_CHECKING:
    from types import FrameType

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
)


def add_parser(subparsers: Any) -> None:
    """Add the ``run`` command to ``enclave-simulator``."""
    parser = subparsers.add_parser(
        "run",
        help="run a program with a simulated /dev/nsm and AF_VSOCK",
        description="Run COMMAND with a simulated /dev/nsm and AF_VSOCK; behind CID 3 are a "
        f"simulated KMS (through vsock-proxy on port {PROXY_PORT}), a log sink on "
        f"port {LOG_PORT}, whose lines are printed on standard error, and what --parent-port and "
        "--folder add. Its exit code is COMMAND's, 128+N if signal N ended it. "
        "If the kernel permits it, COMMAND has a /dev and a loopback interface of its own, and no "
        "other network (docs/launcher.md). "
        "Processes that COMMAND leaves behind are killed: an enclave ends with its first program.",
        usage="enclave-simulator run [options] [--] COMMAND [ARGS...]",
    )
    add = parser.add_argument
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
    add("--credentials", choices=("environment", "parent"), default="environment",
        help="whether COMMAND finds AWS credentials in its environment, where every SDK looks, or "
        f"asks for them at vsock://3:{CREDENTIALS_PORT} (default: %(default)s)")  # fmt: skip
    parent_services.add_options(parser)
    add("--verbose", action="store_true", help="log to stderr what is opened and connected")
    add("command", metavar="COMMAND", help="the program, looked up in PATH")
    add("arguments", metavar="ARGS", nargs=argparse.REMAINDER)
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
    from enclave_simulator.nsm import SimulatedNsm  # noqa: PLC0415

    parent_services.check_cid(options.cid)
    level = logging.DEBUG if options.verbose else logging.WARNING
    logging.basicConfig(format="enclave-simulator: %(message)s", level=level)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)
    with contextlib.ExitStack() as stack:
        private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="enclave-")))
        folder = options.folder or private
        authority = Authority.generate()
        env, services = dict(os.environ), set[int]()
        if not options.no_services:
            ca = private / "kms-ca.pem"
            from_parent = options.credentials == "parent"
            parent = parent_services.ParentServices(
                folder=folder,
                private=private,
                nitro_root=authority.root_pem,
                ca=ca,
                kms_options=parent_services.kms_options(options),
                with_credentials=from_parent,
                verbose=options.verbose,
            )
            services.update(service.process.pid for service in parent.start(stack))
            env = _environment(env, ca, with_credentials=not from_parent)
        launcher = Launcher(
            nsm=SimulatedNsm(authority, debug_mode=options.debug_mode),
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
                launcher.start(argv, env=env, own_group=False, die_with_thread=True)
            )
        except CommandError as e:
            complain("enclave-simulator", e)
            return e.exit_code
        child.pass_through(session.process, services)
        child.end_orphans(services)
        return session.wait()


def _environment(env: dict[str, str], ca: Path, *, with_credentials: bool) -> dict[str, str]:
    """Return the caller's environment without anything that leads to the real KMS."""
    env = {name: value for name, value in env.items() if name not in _REAL_CREDENTIALS}
    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or _DEFAULT_REGION
    env |= {"AWS_CA_BUNDLE": str(ca), "AWS_REGION": region, "AWS_DEFAULT_REGION": region}
    if with_credentials:
        env |= {
            "AWS_ACCESS_KEY_ID": SIMULATED_CREDENTIALS.access_key_id,
            "AWS_SECRET_ACCESS_KEY": SIMULATED_CREDENTIALS.secret_access_key,
            "AWS_SESSION_TOKEN": SIMULATED_CREDENTIALS.session_token or "",
        }
    return env


def _exit(number: int, _frame: FrameType | None) -> None:
    """End as by this signal, but through every `finally`."""
    sys.exit(128 + number)
