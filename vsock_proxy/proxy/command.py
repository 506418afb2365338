"""The ``vsock-proxy`` command, with the arguments of AWS's command of this name."""

from __future__ import annotations

import contextlib
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
    without_brackets,
)
from vsock_proxy.proxy.allowlist_file import DEFAULT_PATH, is_allowlist, load_allowlist
from vsock_proxy.proxy.daemon import Daemon
from vsock_proxy.proxy.forward import Egress, Forward, allow_hint
from vsock_proxy.proxy.section import MAX_CONNECTIONS, ProxySettings, read_proxy_section
from vsock_proxy.relay.connection import RelayLimits
from vsock_proxy.service.address_guess import host_hint
from vsock_proxy.service.arguments import Parser, RawHelpFormatter
from vsock_proxy.service.completion import add_completion
from vsock_proxy.service.console import complain, keep_exit_status, printable
from vsock_proxy.service.reloading import Reloader
from vsock_proxy.service.settings import parse_settings, read_file
from vsock_proxy.service.signals import STOP_SIGNALS, Signals
from vsock_proxy.service.watchdog import Watchdog
from vsock_proxy.version import VERSION

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

log = logging.getLogger(__name__)

PROGRAM = "vsock-proxy"

_DECIMAL = re.compile(r"[0-9]{1,10}")

_DESCRIPTION = """\
Forward connections from an enclave to a TCP host and port, which must be on
the allowlist; or, with --config FILE alone, all forwards in the section
`proxy` of that file. TLS is passed through unchanged: the proxy sees no
secrets. SIGHUP reloads FILE, SIGTERM stops.
"""

_EPILOG = """\
examples: vsock-proxy 8000 kms.us-east-1.amazonaws.com 443
          vsock-proxy --egress 8004

The allowlist has the format of AWS's vsock-proxy:
  allowlist:
  - {address: kms.us-east-1.amazonaws.com, port: 443}

Several forwards in one file:
  proxy:
    allowlist:
    - {address: "kms.*.amazonaws.com", port: 443}
    forwards:
    - listen: vsock://any:8000
      to: tcp://kms.us-east-1.amazonaws.com:443
      cids: [16]
    - {listen: "vsock://any:8001", to: "tcp://kms.eu-west-1.amazonaws.com:443"}
"""


@keep_exit_status
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status (0 after SIGTERM or SIGINT)."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.egress:
        if arguments.local_port is None or arguments.remote_host is not None:
            parser.error("--egress needs LOCAL_PORT, and no REMOTE_HOST")
    elif arguments.local_port is None:
        if arguments.config is None:
            parser.error("LOCAL_PORT REMOTE_HOST REMOTE_PORT, or --config FILE, is required")
        if arguments.num_workers or arguments.ipv4 or arguments.ipv6:
            parser.error("-w, -4 and -6 need LOCAL_PORT; in FILE, set `limits` and `family`")
    elif arguments.remote_port is None:
        parser.error("LOCAL_PORT needs REMOTE_HOST and REMOTE_PORT")
    _log_to_stderr(verbose=arguments.verbose)
    try:
        settings = _settings(arguments)
        daemon = Daemon(settings.forwards, drain_timeout=settings.drain_timeout)
    except AgentError as e:
        complain(PROGRAM, e)
        return 1
    reloader = Reloader(lambda: daemon.reload(_settings(arguments, reloading=True).forwards))
    signals = Signals()
    for number in STOP_SIGNALS:
        signals.handle(number, lambda _: daemon.stop())
    signals.handle(signal.SIGHUP, lambda _: reloader.request())
    Watchdog(lambda: daemon.turns).start()
    daemon.run()
    return 0


def _settings(arguments: argparse.Namespace, *, reloading: bool = False) -> ProxySettings:
    if arguments.local_port is None:
        return _from_file(arguments.config, reloading=reloading)
    return ProxySettings((_forward(arguments, reloading=reloading),))


def _from_file(path: Path, *, reloading: bool) -> ProxySettings:
    with _naming_the_option():
        data = read_file(path)
    root = parse_settings(data, source=str(path))
    if root.is_list or is_allowlist(root):
        raise ConfigurationError(
            f"{path} is an allowlist: it has no section `proxy` that says what to forward",
            hint=f"add LOCAL_PORT REMOTE_HOST REMOTE_PORT; or write another file with a section "
            f"`proxy` that has `allowlist: {path.name}` and `forwards` (docs/proxy.md)",
        )
    sections = root.mapping()
    if "proxy" not in sections:
        raise ConfigurationError(
            f"{path} has no section `proxy`", hint=f"see the examples of {PROGRAM} --help"
        )
    others = ", ".join(sorted(sections.keys() - {"proxy"}))
    if others:
        log.info("%s: sections for enclave-parent are ignored: %s", path, others)
    return read_proxy_section(sections["proxy"], reloading=reloading)


@contextlib.contextmanager
def _naming_the_option() -> Iterator[None]:
    """Add the hint for a file that cannot be read."""
    try:
        yield
    except ConfigurationError as e:
        e.hint = e.hint or "name the file with --config"
        raise


def _forward(arguments: argparse.Namespace, *, reloading: bool) -> Forward:
    """Return the forward of AWS's arguments; in a reload its target may not be allowed."""
    path: Path = arguments.config or DEFAULT_PATH
    listen = _local(arguments.local_port)
    limits, family = _limits(arguments), _family(arguments)
    if arguments.egress:
        with _naming_the_option():
            allowlist = load_allowlist(path)
        return Forward(listen, Egress(), family, name="egress", allowlist=allowlist, limits=limits)
    host = without_brackets(arguments.remote_host)
    if not is_host(host):
        raise ConfigurationError(
            f"{host!r} is not a host name or an IP address", hint=host_hint(host)
        )
    port = _number(arguments.remote_port, 1, MAX_PORT, "REMOTE_PORT")
    with _naming_the_option():
        allowlist = load_allowlist(path)
    forward = Forward(listen, TcpAddress(host, port), family, allowlist=allowlist, limits=limits)
    if not (reloading or forward.allowed):
        raise ConfigurationError(
            f"{forward.target_name} is not on the allowlist {path}", hint=allow_hint(forward)
        )
    return forward


def _limits(arguments: argparse.Namespace) -> RelayLimits:
    if arguments.num_workers is None:
        return RelayLimits()
    return RelayLimits(
        connections=_number(arguments.num_workers, 1, MAX_CONNECTIONS, "--num_workers")
    )


def _family(arguments: argparse.Namespace) -> socket.AddressFamily:
    if arguments.ipv4:
        return socket.AF_INET
    return socket.AF_INET6 if arguments.ipv6 else socket.AF_UNSPEC


def _local(text: str) -> Address:
    if not text.isascii() or not text.isdigit():
        return parse_address(text)
    # AWS's proxy binds CID 3, which is the parent's only if the hypervisor calls it so; the
    # wildcard works everywhere.
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
        formatter_class=RawHelpFormatter,
        help_word=True,
    )
    family = parser.add_mutually_exclusive_group()
    family.add_argument("-4", "--ipv4", action="store_true", help="connect to IPv4 addresses only")
    family.add_argument("-6", "--ipv6", action="store_true", help="connect to IPv6 addresses only")
    limits = RelayLimits()
    parser.add_argument(
        "-w",
        "--num_workers",
        metavar="N",
        help=f"connections relayed at the same time (default {limits.connections}; AWS's proxy has "
        f"4 workers); clients above the limit are queued (logged) and rejected after "
        f"{limits.connect_timeout:g} s",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help=f"the allowlist (default {DEFAULT_PATH}); without LOCAL_PORT, a file with a section "
        "`proxy`",
    )
    parser.add_argument(
        "--egress",
        action="store_true",
        help="serve HTTP CONNECT on LOCAL_PORT instead: each client names its host, which must be "
        "on the allowlist (docs/egress.md)",
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="log every connection, not only problems"
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"{PROGRAM} {VERSION}",
        help="print the version and exit",
    )
    add_completion(parser)
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
    """Formats log lines as the other messages of the command: name, level, message."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{PROGRAM}: {level}{printable(super().formatMessage(record))}"


def _log_to_stderr(*, verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    root = logging.getLogger("vsock_proxy")
    root.handlers = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
