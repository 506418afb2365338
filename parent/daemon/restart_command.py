"""``enclave-parent restart``: ends an enclave in order, and starts it again."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parent.daemon.command import DEFAULT_PATH
from parent.daemon.status_command import StatusError, exchange, read_operations
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.arguments import seconds
from vsock_proxy.service.platforms import require_linux

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from vsock_proxy.net.addresses import Address

POLL = 0.3
"""Seconds between two looks at how it is getting on."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "restart",
        help="end an enclave in order and start it again",
        description="Have the running daemon ask the enclave's agent to end its program, terminate "
        "the enclave, and start it from its image as it is now. The daemon listens for this at "
        "`operations.control`. Exit status: 0 once the enclave runs again, otherwise 1.",
    )
    add = parser.add_argument
    add("name", metavar="NAME", help="of the enclave, as in the configuration")
    add("--config", metavar="FILE", type=Path, default=DEFAULT_PATH, help="default: %(default)s")
    add("--timeout", metavar="SECONDS", type=seconds(1, 86400), default=120.0,
        help="for all of it (default: %(default)g)")  # fmt: skip
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Restart an enclave, and wait until it runs."""
    require_linux("enclave-parent restart")
    address = control_of(arguments.config)
    return restart(address, arguments.name, arguments.timeout)


def restart(
    address: Address,
    name: str,
    timeout: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> int:
    """Request it, and print how it went; return the exit status.

    Raises:
        DialError: nothing listens there.
        StatusError: there is no such enclave, it does not start, or it is not running in time.
    """
    until = monotonic() + timeout
    status, content = exchange(address, "POST", f"/enclaves/{name}/restart")
    if status != 202:
        text = content.get("message") if isinstance(content, dict) else None
        raise StatusError(str(text or f"the daemon's response has the status {status}"))
    before = content.get("starts") if isinstance(content, dict) else None
    while True:
        values = _enclave(address, name)
        if values["starts"] != before and values["state"] == "running":
            sys.stdout.write(f"{name}: running, {values['enclave_id']}\n")
            return 0
        if values["state"] in ("failed", "conflict", "stopping", "stopped") or (
            values["starts"] == before and values["state"] == "waiting" and values["failures"]
        ):
            raise StatusError(f"{name}: {values['state']}: {values['error']}")
        if monotonic() > until:
            raise StatusError(
                f"{name}: not running after {timeout:g} s: {values['state']} {values['error']}",
                hint="the daemon goes on; enclave-parent status shows how",
            )
        sleep(POLL)


def _enclave(address: Address, name: str) -> dict[str, Any]:
    _, content = exchange(address, "GET", "/status")
    try:
        values: dict[str, Any] = content["components"][f"enclave/{name}"]["values"]
    except (KeyError, TypeError):
        raise StatusError(f"the daemon has no enclave {name} any more") from None
    return values


def control_of(path: Path) -> Address:
    """Return where the daemon listens for commands.

    Raises:
        ConfigurationError: it does not.
    """
    operations = read_operations(path)
    if operations is None or operations.control is None:
        raise ConfigurationError(
            f"{path} has no `operations.control`: its daemon takes no commands",
            hint="add there: operations: {control: unix:/run/enclave-parent/control, ...}",
        )
    return operations.control
