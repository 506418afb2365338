"""The ``vsock-proxy`` command, with the arguments of AWS's."""

from __future__ import annotations

import argparse
import logging
import re
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vsock_proxy.addresses import (
    MAX_PORT,
    MAX_VSOCK,
    VMADDR_CID_ANY,
    Address,
    TcpAddress,
    VsockAddress,
    is_host,
    parse_address,
)
from vsock_proxy.allowlist import DEFAULT_PATH, load_allowlist
from vsock_proxy.daemon import Daemon, Forward, within_descriptors
from vsock_proxy.errors import AgentError, ConfigurationError
from vsock_proxy.relay import Limits
from vsock_proxy.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "vsock-proxy"

MAX_CONNECTIONS = 1_000_000

_DECIMAL = re.compile(r"[0-9]{1,10}")

_DESCRIPTION = """\
Forward connections from an enclave to one TCP endpoint outside, which must be on the allowlist.
TLS, if any, goes through untouched: the proxy sees and holds no secret.
"""

_EPILOG = """\
example: vsock-proxy 8000 kms.us-east-1.amazonaws.com 443

The allowlist is the file of AWS's vsock-proxy:
  allowlist:
  - {address: kms.us-east-1.amazonaws.com, port: 443}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status (0 after SIGTERM or SIGINT)."""
    arguments = _parser().parse_args(argv)
    _log_to_stderr(verbose=arguments.verbose)
    try:
        daemon = _daemon(arguments)
    except AgentError as e:
        print(f"{PROGRAM}: error: {e}", file=sys.stderr)
        if e.hint:
            print(f"{PROGRAM}: hint: {e.hint}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stop())
    daemon.run()
    return 0


def _daemon(arguments: argparse.Namespace) -> Daemon:
    listen = _local(arguments.local_port)
    host = arguments.remote_host
    if not is_host(host):
        raise ConfigurationError(f"{host!r} is not a host name or an IP address")
    port = _number(arguments.remote_port, 1, MAX_PORT, "REMOTE_PORT")
    connections = Limits().connections
    if arguments.num_workers is not None:
        connections = _number(arguments.num_workers, 1, MAX_CONNECTIONS, "--num_workers")
    if not load_allowlist(arguments.config).allows(host, port):
        raise ConfigurationError(
            f"{host} port {port} is not on the allowlist {arguments.config}",
            hint=f"to allow it, add there: - {{address: {host}, port: {port}}}",
        )
    family = socket.AF_UNSPEC
    if arguments.ipv4:
        family = socket.AF_INET
    elif arguments.ipv6:
        family = socket.AF_INET6
    forward = Forward(listen, TcpAddress(host, port), family)
    limits = within_descriptors(Limits(connections=connections))
    return Daemon([forward], limits=limits)


def _local(text: str) -> Address:
    if not text.isascii() or not text.isdigit():
        return parse_address(text)
    # AWS's proxy binds CID 3, which the parent only has where the host calls it that; the
    # wildcard is right there and everywhere else.
    return VsockAddress(VMADDR_CID_ANY, _number(text, 0, MAX_VSOCK - 1, "LOCAL_PORT"))


def _number(text: str, least: int, most: int, what: str) -> int:
    if not _DECIMAL.fullmatch(text) or not least <= int(text) <= most:
        raise ConfigurationError(f"{what} {text!r} is not a number in {least}..{most}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    family = parser.add_mutually_exclusive_group()
    family.add_argument("-4", "--ipv4", action="store_true", help="connect to IPv4 addresses only")
    family.add_argument("-6", "--ipv6", action="store_true", help="connect to IPv6 addresses only")
    limits = Limits()
    parser.add_argument(
        "-w",
        "--num_workers",
        metavar="N",
        help=f"connections relayed at the same time (default {limits.connections}, where AWS's "
        f"proxy has 4 workers); a further one waits, with a line in the log, and is refused if "
        f"none has ended after {limits.connect_timeout:g} s",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        default=DEFAULT_PATH,
        help="the allowlist (default %(default)s)",
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="log every connection, not only trouble"
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"{PROGRAM} {VERSION}",
    )
    parser.add_argument(
        "local_port",
        metavar="LOCAL_PORT",
        help="vsock port to listen on; or an address: vsock://any:8000, unix:/PATH, "
        "tcp://127.0.0.1:0",
    )
    parser.add_argument("remote_host", metavar="REMOTE_HOST", help="host to forward to")
    parser.add_argument("remote_port", metavar="REMOTE_PORT", help="its TCP port")
    return parser


class _Formatter(logging.Formatter):
    """Lines as every other message of the command: its name, then what is the matter."""

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{PROGRAM}: {level}{super().format(record)}"


def _log_to_stderr(*, verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    root = logging.getLogger("vsock_proxy")
    root.handlers = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
