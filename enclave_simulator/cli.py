"""``enclave-simulator``: a table of subcommands."""

from __future__ import annotations

import sys

from enclave_simulator.kms import command as kms
from enclave_simulator.launcher import command as launcher
from enclave_simulator.machine import command as machine
from enclave_simulator.parent import credentials
from vsock_proxy.errors import AgentError
from vsock_proxy.service.arguments import Parser
from vsock_proxy.service.console import complain, keep_exit_status
from vsock_proxy.service.extras import require
from vsock_proxy.version import VERSION

PROGRAM = "enclave-simulator"

NEEDED = ("asn1crypto", "h11", "yaml")
"""Libraries of the extra `simulator`."""


@keep_exit_status
def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand and return the exit status."""
    parser = Parser(
        prog=PROGRAM, description="Simulated Nitro Enclaves, for tests of programs and of images."
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {VERSION}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (launcher, machine, kms, credentials):
        command.add_parser(subparsers)
    try:
        options = parser.parse_args(arguments)
        # `run` and `boot` start other commands: each needs the libraries of all.
        require("simulator", *NEEDED)
        status: int = options.run(options)
    except AgentError as e:
        complain(PROGRAM, e)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
