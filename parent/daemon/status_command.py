"""``enclave-parent status``: what a running daemon says of itself."""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parent.daemon.status_table import table
from parent.files import print_json
from vsock_proxy.errors import AgentError, ConfigurationError, DialError
from vsock_proxy.net.addresses import Address, TcpAddress
from vsock_proxy.net.dialing import SocketDialer
from vsock_proxy.service.extras import require

if TYPE_CHECKING:
    import argparse

TIMEOUT = 20.0
"""Seconds for the daemon's answer; it waits for the relay's loop for ten."""

MAX_ANSWER = 16 << 20

_UNSPECIFIED = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (where to ask, not to listen)


class StatusError(AgentError):
    """The daemon did not tell how it is."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "status",
        help="show how the running daemon is: forwards, enclaves, credentials",
        description="Ask the running daemon, where the section `operations` of its configuration "
        "says. Status: 0 if all is well, 1 if not, or if it does not answer.",
    )
    default = Path("/etc/nitro_enclaves/parent.yaml")
    add = parser.add_argument
    add("--config", metavar="FILE", type=Path, default=default, help="default: %(default)s")
    add("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask, and show."""
    state = ask(_address(arguments.config))
    if arguments.json:
        print_json(state)
    else:
        sys.stdout.write(table(state, now=time.time()))
    return int(state["status"] != "ok")


def ask(address: Address) -> dict[str, Any]:
    """Return what the daemon that listens there tells (`parent.operations.state.state`).

    Raises:
        DialError: nobody listens.
        StatusError: no answer, or not such a one.
    """
    with contextlib.closing(http.client.HTTPConnection("localhost", timeout=TIMEOUT)) as client:
        try:
            client.sock = SocketDialer().dial(address, TIMEOUT)
        except DialError as e:
            e.hint = "does enclave-parent run, with this configuration, and may this user ask it?"
            raise
        try:
            client.request("GET", "/status")
            response = client.getresponse()
            answer = response.read(MAX_ANSWER + 1)
            told = json.loads(answer) if response.status == 200 else None
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as e:
            raise StatusError(f"no answer from {address}: {str(e) or type(e).__name__}") from e
    if not isinstance(told, dict) or "components" not in told:
        raise StatusError(
            f"what listens on {address} is no enclave-parent of this version",
            hint="was the daemon restarted after the last update?",
        )
    return told


def _address(path: Path) -> Address:
    """Where to ask. What else is in the file may be wrong, or about to be changed."""
    # Here: the commands for images do without PyYAML and Prometheus.
    require("parent", "h11", "prometheus_client", "yaml")
    from parent.operations.settings import read_operations_section  # noqa: PLC0415
    from vsock_proxy.service.settings import load_settings  # noqa: PLC0415

    sections = load_settings(path).mapping()
    if "operations" not in sections:
        raise ConfigurationError(
            f"{path} has no section `operations`: its daemon cannot be asked",
            hint="add there: operations: {listen: unix:/run/enclave-parent/operations}",
        )
    listen = read_operations_section(sections["operations"]).listen
    if isinstance(listen, TcpAddress):
        return TcpAddress(_UNSPECIFIED.get(listen.host, listen.host), listen.port)
    return listen
