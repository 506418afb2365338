"""``enclave-parent status``: shows the state of a running daemon."""

from __future__ import annotations

import contextlib
import http.client
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parent.daemon.command import DEFAULT_PATH, NEEDED
from parent.daemon.status_table import MIN_WIDTH, WIDTH, table
from parent.files import print_json
from vsock_proxy.errors import AgentError, ConfigurationError, DialError
from vsock_proxy.net.addresses import Address, TcpAddress
from vsock_proxy.net.dialing import SocketDialer
from vsock_proxy.service.arguments import seconds
from vsock_proxy.service.console import printable, terminal_width
from vsock_proxy.service.extras import require
from vsock_proxy.service.json_text import parse_json
from vsock_proxy.service.platforms import require_linux

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from parent.operations import OperationsSettings

TIMEOUT = 20.0
"""Seconds for the daemon's response; it waits for the relay's loop for ten."""

MAX_RESPONSE = 16 << 20

_CLEAR = "\x1b[H\x1b[2J"
"""Moves to the corner and erases the screen (ECMA-48)."""

_UNSPECIFIED = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (where to connect, not to listen)


class StatusError(AgentError):
    """The daemon gave no valid response."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "status",
        help="show the state of the running daemon: forwards, enclaves, credentials",
        description="Show the state of the running daemon, which listens where the section "
        "`operations` of its configuration says. Exit status: 0 if everything is healthy, 1 if "
        "not, or if the daemon does not respond.",
    )
    add = parser.add_argument
    add("--config", metavar="FILE", type=Path, default=DEFAULT_PATH, help="default: %(default)s")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument(
        "--watch", metavar="SECONDS", type=seconds(0.1, 3600), nargs="?", const=2.0,
        help="show it again every so many seconds, 2 by default, until interrupted",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show the state, once or until interrupted."""
    require_linux("enclave-parent status")
    address = _address(arguments.config)
    if arguments.watch is not None:
        return watch(address, arguments.watch)
    state = ask(address)
    if arguments.json:
        print_json(state)
    else:
        sys.stdout.write(_table(state))
    return int(state["status"] != "ok")


def watch(address: Address, interval: float, *, sleep: Callable[[float], None] = time.sleep) -> int:
    """Show the state every `interval` seconds, until an interrupt; return the last status.

    A daemon that does not respond is shown as such: it may be restarting.
    """
    status = 1
    try:
        while True:
            try:
                state = ask(address)
                text, status = _table(state), int(state["status"] != "ok")
            except AgentError as e:
                text, status = f"enclave-parent: {printable(str(e))}\n", 1
            # On a terminal in the place of the last one; elsewhere after it, and an empty line.
            before, after = (_CLEAR, "") if sys.stdout.isatty() else ("", "\n")
            sys.stdout.write(f"{before}{text}{after}")
            sys.stdout.flush()
            sleep(interval)
    except KeyboardInterrupt:
        return status


def _table(state: Mapping[str, Any]) -> str:
    width = terminal_width(WIDTH)
    try:
        return table(state, now=time.time(), width=max(width, MIN_WIDTH))
    except (LookupError, TypeError, AttributeError, ValueError):
        raise _another_version("the daemon") from None


def _another_version(what: str) -> StatusError:
    return StatusError(
        f"{what} is not enclave-parent of this version",
        hint="was the daemon restarted after the last update?",
    )


def ask(address: Address) -> dict[str, Any]:
    """Return the state of the daemon that listens there (`parent.operations.state.state`).

    Raises:
        DialError: nothing listens there.
        StatusError: no response, or not that of this program.
    """
    status, state = exchange(address, "GET", "/status")
    if status != 200 or not isinstance(state, dict) or not {"components", "status"} <= state.keys():
        raise _another_version(f"what listens on {address}")
    return state


def exchange(address: Address, method: str, path: str) -> tuple[int, Any]:
    """Return the status and the JSON of the daemon's response.

    Raises:
        DialError: nothing listens there.
        StatusError: no response, or no JSON.
    """
    with contextlib.closing(http.client.HTTPConnection("localhost", timeout=TIMEOUT)) as client:
        try:
            client.sock = SocketDialer().dial(address, TIMEOUT)
        except DialError as e:
            e.hint = "does enclave-parent run, with this configuration, and may this user connect?"
            raise
        try:
            client.request(method, path)
            response = client.getresponse()
            body = response.read(MAX_RESPONSE + 1)
            return response.status, parse_json(body)
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise StatusError(f"no response from {address}: {str(e) or type(e).__name__}") from e


def read_operations(path: Path) -> OperationsSettings | None:
    """Return where the daemon of a configuration listens; None if it has no such section.

    Other sections may be invalid, or about to be changed.

    Raises:
        ConfigurationError: the file or the section cannot be read.
    """
    # Imported here: the commands for images work without PyYAML and Prometheus.
    require("parent", *NEEDED)
    from parent.operations.settings import read_operations_section  # noqa: PLC0415
    from vsock_proxy.service.settings import load_settings  # noqa: PLC0415

    sections = load_settings(path, hint="name the file with --config").mapping()
    section = sections.get("operations")
    return None if section is None else read_operations_section(section)


def _address(path: Path) -> Address:
    operations = read_operations(path)
    if operations is None:
        raise ConfigurationError(
            f"{path} has no section `operations`: its daemon listens nowhere",
            hint="add there: operations: {listen: unix:/run/enclave-parent/operations}",
        )
    listen = operations.listen
    if isinstance(listen, TcpAddress):
        return TcpAddress(_UNSPECIFIED.get(listen.host, listen.host), listen.port)
    return listen
