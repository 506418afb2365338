"""The ``vsock-proxy`` command, with the arguments of AWS's."""

from __future__ import annotations

import argparse
import logging
import re
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from vsock_proxy.errors import AgentError, ConfigurationError
from vsock_proxy.net.addresses import (
    MAX_PORT,
    MAX_VSOCK,
    VMADDR_CID_ANY,
    Address,
    TcpAddress,
    VsockAddress,
    is_host,
    parse_address,
)
from vsock_proxy.proxy.allowlist import DEFAULT_PATH, load_allowlist
from vsock_proxy.proxy.daemon import Daemon
from vsock_proxy.proxy.forward import Forward, within_descriptors
from vsock_proxy.proxy.section import MAX_CONNECTIONS, ProxySettings, read_proxy_section
from vsock_proxy.relay.connection import Limits
from vsock_proxy.service.arguments import Parser
from vsock_proxy.service.console import complain, keep_exit_status, printable
from vsock_proxy.service.reloading import Reloader
from vsock_proxy.service.settings import load_settings
from vsock_proxy.service.signals import ENDS, Signals
from vsock_proxy.service.watchdog import Watchdog
from vsock_proxy.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

PROGRAM = "vsock-proxy"

_DECIMAL = re.compile(r"[0-9]{1,10}")

_DESCRIPTION = """\
Forward connections from an enclave to one TCP endpoint outside, which must be on the allowlist;
or, with --config FILE alone, all that the section `proxy` of that file says. TLS, if any, goes
through untouched: the proxy sees and holds no secret. SIGHUP reads FILE again, SIGTERM stops.
"""

_EPILOG = """\
example: vsock-proxy 8000 kms.us-east-1.amazonaws.com 443

The allowlist is the file of AWS's vsock-proxy:
  allowlist:
  - {address: kms.us-east-1.amazonaws.com, port: 443}

Several endpoints from one file:
  proxy:
    allowlist:
    - {address: "kms.*.amazonaws.com", port: 443}
    forwards:
    - {listen: "vsock://any:8000", to: "tcp://kms.us-east-1.amazonaws.com:443", cids: [16]}
    - {listen: "vsock://any:8001", to: "tcp://kms.eu-west-1.amazonaws.com:443"}
"""


@keep_exit_status
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status (0 after SIGTERM or SIGINT)."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.local_port is None:
        if arguments.config is None:
            parser.error("LOCAL_PORT REMOTE_HOST REMOTE_PORT, or --config FILE, is required")
        if arguments.num_workers or arguments.ipv4 or arguments.ipv6:
            parser.error("-w, -4 and -6 go with LOCAL_PORT: the file says it for each forward")
    elif arguments.remote_port is None:
        parser.error("LOCAL_PORT needs REMOTE_HOST and REMOTE_PORT")
    _log_to_stderr(verbose=arguments.verbose)
    try:
        settings = _settings(arguments)
        daemon = Daemon(within_descriptors(settings.forwards), drain_timeout=settings.drain_timeout)
    except AgentError as e:
        complain(PROGRAM, e)
        return 1
    reloader = Reloader(
        lambda: daemon.reload(within_descriptors(_settings(arguments, reloading=True).forwards))
    )
    signals = Signals()
    for number in ENDS:
        signals.hear(number, lambda _: daemon.stop())
    signals.hear(signal.SIGHUP, lambda _: reloader.request())
    Watchdog(lambda: daemon.turns).start()
    daemon.run()
    return 0


_NO_FILE_HINT = "name the file with --config"


def _settings(arguments: argparse.Namespace, *, reloading: bool = False) -> ProxySettings:
    if arguments.local_port is not None:
        return ProxySettings((_forward(arguments, reloading=reloading),))
    path: Path = arguments.config
    sections = load_settings(path, hint=_NO_FILE_HINT).mapping()
    if "proxy" not in sections:
        raise ConfigurationError(
            f"{path} has no section `proxy`",
            hint="an allowlist alone needs LOCAL_PORT REMOTE_HOST REMOTE_PORT",
        )
    others = ", ".join(sorted(sections.keys() - {"proxy"}))
    if others:
        log.info("%s: left to enclave-parent: %s", path, others)
    return read_proxy_section(sections["proxy"], reloading=reloading)


def _forward(arguments: argparse.Namespace, *, reloading: bool) -> Forward:
    """The one forward of AWS's arguments. One that is not allowed is an error but in a reload."""
    path: Path = arguments.config or DEFAULT_PATH
    listen = _local(arguments.local_port)
    host = arguments.remote_host
    if not is_host(host):
        raise ConfigurationError(f"{host!r} is not a host name or an IP address")
    port = _number(arguments.remote_port, 1, MAX_PORT, "REMOTE_PORT")
    limits = Limits()
    if arguments.num_workers is not None:
        connections = _number(arguments.num_workers, 1, MAX_CONNECTIONS, "--num_workers")
        limits = Limits(connections=connections)
    allowlist = load_allowlist(path, hint=_NO_FILE_HINT)
    if not (reloading or allowlist.allows(host, port)):
        raise ConfigurationError(
            f"{host} port {port} is not on the allowlist {path}",
            hint=f"to allow it, add there: - {{address: {host}, port: {port}}}",
        )
    family = socket.AF_UNSPEC
    if arguments.ipv4:
        family = socket.AF_INET
    elif arguments.ipv6:
        family = socket.AF_INET6
    return Forward(listen, TcpAddress(host, port), family, allowlist=allowlist, limits=limits)


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
    parser = Parser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help_word=True,
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
        help=f"the allowlist (default {DEFAULT_PATH}); without LOCAL_PORT, a file with a section "
        f"`proxy`",
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
        nargs="?",
        metavar="LOCAL_PORT",
        help="vsock port to listen on; or an address: vsock://any:8000, unix:/PATH, "
        "tcp://127.0.0.1:0",
    )
    parser.add_argument("remote_host", nargs="?", metavar="REMOTE_HOST", help="host to forward to")
    parser.add_argument("remote_port", nargs="?", metavar="REMOTE_PORT", help="its TCP port")
    return parser


class _Formatter(logging.Formatter):
    """Lines as every other message of the command: its name, then what is the matter."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{PROGRAM}: {level}{printable(super().formatMessage(record))}"


def _log_to_stderr(*, verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    root = logging.getLogger("vsock_proxy")
    root.handlers = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
