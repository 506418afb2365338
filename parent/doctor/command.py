"""``enclave-parent doctor``: checks of a parent instance, with a hint for each fault."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from parent.daemon.command import DEFAULT_PATH, NEEDED
from parent.files import print_json
from vsock_proxy.service import checkup
from vsock_proxy.service.console import terminal_width
from vsock_proxy.service.extras import require
from vsock_proxy.service.platforms import require_linux

if TYPE_CHECKING:
    import argparse

    from parent.doctor.machine import Machine

TIMEOUT = 20.0
"""Seconds for a check; the longest are the instance metadata service's retries."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "doctor",
        help="check devices, nitro-cli, allocator, huge pages, configuration, credentials",
        description="Check what a parent instance needs, one thing after the other, each with a "
        "deadline, and print for each: pass, warn, fail or skip, what was found, and a hint. "
        "Nothing is changed, and nothing secret is printed. Exit status: 1 if a check fails, "
        "otherwise 0.",
    )
    add = parser.add_argument
    add("--config", metavar="FILE", type=Path, default=DEFAULT_PATH, help="default: %(default)s")
    add("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the checks, print them, and return the exit status."""
    require_linux("enclave-parent doctor")
    require("parent", *NEEDED)
    from parent.doctor.machine import ThisMachine  # noqa: PLC0415 (not for --help)

    return report(ThisMachine(arguments.config), as_json=arguments.json)


def report(machine: Machine, *, as_json: bool, timeout: float = TIMEOUT) -> int:
    """Make the checks of a machine and print them; return the exit status."""
    from parent.doctor.checks import Doctor  # noqa: PLC0415 (as above)

    checks = Doctor(machine).checks()
    names = [check.name for check in checks]
    width = terminal_width(checkup.WIDTH)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    if not as_json:
        sys.stdout.write(checkup.heading(names))
    examined = []
    for each in checkup.examine(checks, timeout=timeout):
        examined.append(each)
        if not as_json:
            sys.stdout.write(checkup.row(each, names, width=width, colour=colour))
            sys.stdout.flush()
    if as_json:
        print_json(checkup.as_json(examined))
    return int(checkup.status(examined) is checkup.Verdict.FAIL)
