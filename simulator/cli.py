"""``enclave-simulator``: a table of subcommands."""

from __future__ import annotations

import argparse
import sys

from simulator import credentials
from simulator.kms import command as kms
from simulator.launcher import command as launcher
from simulator.machine import command as machine
from vsock_proxy.errors import AgentError


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; the process's exit status."""
    parser = argparse.ArgumentParser(prog="enclave-simulator", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (launcher, machine, kms, credentials):
        command.add_parser(subparsers)
    try:
        options = parser.parse_args(arguments)
        status: int = options.run(options)
    except AgentError as e:
        print(f"enclave-simulator: error: {e}", file=sys.stderr)
        if e.hint:
            print(f"enclave-simulator: hint: {e.hint}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
