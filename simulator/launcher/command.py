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

from simulator import credentials
from simulator.kms import command as kms
from simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from simulator.launcher import foreground
from simulator.launcher.errors import CommandError
from simulator.launcher.launch import DEFAULT_CID, Launcher
from simulator.processes import Service
from vsock_proxy.addresses import MAX_VSOCK, VMADDR_CID_PARENT, UnixAddress, parse_address
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from types import FrameType

PROXY_PORT = 8000
"""Where AWS's documentation has vsock-proxy listen for KMS."""

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
_LISTENING = "listening on tcp://"


def add_parser(subparsers: Any) -> None:
    """Add the ``run`` command to ``enclave-simulator``."""
    parser = subparsers.add_parser(
        "run",
        help="run a program with a simulated /dev/nsm and AF_VSOCK",
        description="Run COMMAND with a simulated /dev/nsm and AF_VSOCK; behind CID 3 are a "
        f"simulated KMS (through vsock-proxy on port {PROXY_PORT}) and what --parent-port and "
        "--folder add. Its exit code is COMMAND's, 128+N if signal N ended it. Processes that "
        "COMMAND leaves behind are killed: an enclave ends with its first program.",
        usage="enclave-simulator run [options] [--] COMMAND [ARGS...]",
    )
    add = parser.add_argument
    add("--cid", type=int, default=DEFAULT_CID, metavar="N",
        help=f"the enclave's context id (default: {DEFAULT_CID})")  # fmt: skip
    add("--debug-mode", action="store_true",
        help="an enclave in debug mode: PCR0, PCR1 and PCR2 are zero")  # fmt: skip
    add("--parent-port", metavar="PORT=ADDRESS", action="append", default=[], type=_parent_port,
        help="a service behind CID 3 that listens on unix:/PATH; may repeat")  # fmt: skip
    add("--folder", metavar="FOLDER", type=Path,
        help="where vsock addresses are UNIX sockets, as CID_PORT: what listens on 3_PORT is "
        "behind CID 3, what the enclave listens on is there to connect to (default: a "
        "temporary one)")  # fmt: skip
    add("--no-services", action="store_true",
        help="no KMS and no proxy, and the environment as it is")  # fmt: skip
    add("--fault", metavar="NAME[:COUNT]", action="append", default=[],
        help="a fault of the simulated KMS; see enclave-simulator kms --fault help")  # fmt: skip
    add("--credentials", choices=("environment", "parent"), default="environment",
        help="whether COMMAND finds AWS credentials in its environment, where every SDK looks, or "
        f"asks for them at vsock://3:{credentials.PORT} (default: %(default)s)")  # fmt: skip
    kms.add_key_options(parser)
    add("--verbose", action="store_true", help="tell on stderr what is opened and connected")
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
    from simulator.authority import Authority  # noqa: PLC0415
    from simulator.nsm import SimulatedNsm  # noqa: PLC0415

    if not VMADDR_CID_PARENT < options.cid < MAX_VSOCK:
        raise ConfigurationError(
            f"not an enclave's CID: {options.cid}", hint="0 to 3 and the last one are taken"
        )
    if options.verbose:
        logging.basicConfig(format="enclave-simulator: %(message)s", level=logging.DEBUG)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)
    with contextlib.ExitStack() as stack:
        private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="enclave-")))
        folder = options.folder or private
        authority = Authority.generate()
        env, services = dict(os.environ), set[int]()
        if not options.no_services:
            root, ca = private / "nitro-root.pem", private / "kms-ca.pem"
            root.write_bytes(authority.root_pem)
            for service in _services(stack, options, folder, root, ca):
                services.add(service.process.pid)
            env = _environment(env, ca, with_credentials=options.credentials == "environment")
        launcher = Launcher(
            nsm=SimulatedNsm(authority, debug_mode=options.debug_mode),
            cid=options.cid,
            folder=folder,
            parent_ports=dict(options.parent_port),
        )
        argv = [options.command, *options.arguments]
        stack.enter_context(foreground.in_front())
        try:
            session = stack.enter_context(
                launcher.start(argv, env=env, own_group=False, die_with_thread=True)
            )
        except CommandError as e:
            print(f"enclave-simulator: error: {e}", file=sys.stderr)  # noqa: T201
            return e.exit_code
        foreground.pass_through(session.process, services)
        foreground.end_orphans(services)
        return session.wait()


def _services(
    stack: contextlib.ExitStack, options: argparse.Namespace, folder: Path, root: Path, ca: Path
) -> list[Service]:
    """Start the simulated KMS, vsock-proxy in front of it, and where credentials come from."""
    faults = [word for fault in options.fault for word in ("--fault", fault)]
    served = stack.enter_context(
        Service(
            "simulator.cli",
            ["kms", "--listen", "tcp://127.0.0.1:0", f"--nitro-root={root}", f"--ca-file={ca}",
             *faults, *kms.key_option_words(options)],
            show_stderr=options.verbose,
        )
    )  # fmt: skip
    host, _, port = served.state["STATUS"].removeprefix(_LISTENING).rpartition(":")
    allowlist = root.with_name("allowlist.yaml")
    allowlist.write_text(f"allowlist:\n- {{address: {host}, port: {port}}}\n")
    proxy = stack.enter_context(
        Service(
            "vsock_proxy.cli",
            ["--config", str(allowlist), f"unix:{folder}/{VMADDR_CID_PARENT}_{PROXY_PORT}",
             host, port],
            show_stderr=options.verbose,
        )
    )  # fmt: skip
    if options.credentials == "environment":
        return [served, proxy]
    listen = f"unix:{folder}/{VMADDR_CID_PARENT}_{credentials.PORT}"
    service = stack.enter_context(
        Service("simulator.cli", ["credentials", "--listen", listen], show_stderr=options.verbose)
    )
    return [served, proxy, service]


def _environment(env: dict[str, str], ca: Path, *, with_credentials: bool) -> dict[str, str]:
    """The caller's environment, with nothing in it that leads to the real KMS."""
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


def _parent_port(text: str) -> tuple[int, UnixAddress]:
    port, _, target = text.partition("=")
    try:
        address = parse_address(target)
    except ConfigurationError as e:
        raise argparse.ArgumentTypeError(str(e)) from e
    if not port.isascii() or not port.isdigit() or int(port) >= MAX_VSOCK:
        raise argparse.ArgumentTypeError(f"not a vsock port: {port!r}")
    if not isinstance(address, UnixAddress):
        raise argparse.ArgumentTypeError(f"not unix:/PATH: {target!r}")
    return int(port), address


def _exit(number: int, _frame: FrameType | None) -> None:
    """End as by this signal, but through every `finally`."""
    sys.exit(128 + number)
