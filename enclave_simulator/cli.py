"""``enclave-simulator``: a table of subcommands."""

from __future__ import annotations

import errno
import sys
from importlib import import_module

from vsock_proxy.errors import AgentError
from vsock_proxy.service.arguments import Parser
from vsock_proxy.service.completion import add_completion
from vsock_proxy.service.console import complain, keep_exit_status, output_lost
from vsock_proxy.service.extras import require
from vsock_proxy.service.platforms import require_linux
from vsock_proxy.version import VERSION

PROGRAM = "enclave-simulator"

NEEDED = ("asn1crypto", "h11", "yaml")
"""Libraries of the extra `simulator`."""

COMMANDS = (
    "enclave_simulator.launcher.command",
    "enclave_simulator.attack.command",
    "enclave_simulator.machine.command",
    "enclave_simulator.kms.command",
    "enclave_simulator.parent.credentials",
)
"""Imported when they are needed: they can be on Linux alone."""


@keep_exit_status
def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand and return the exit status."""
    try:
        require_linux(PROGRAM)
    except AgentError as e:
        complain(PROGRAM, e)
        return 1
    parser = Parser(
        prog=PROGRAM, description="Simulated Nitro Enclaves, for tests of programs and of images."
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"{PROGRAM} {VERSION}",
        help="print the version and exit",
    )
    add_completion(parser)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        import_module(module).add_parser(subparsers)
    try:
        options = parser.parse_args(arguments)
        # `run` and `boot` start other commands: each needs the libraries of all.
        require("simulator", *NEEDED)
        status: int = options.run(options)
    except AgentError as e:
        complain(PROGRAM, e)
        return 1
    except BrokenPipeError:
        return 1  # the reader of the output knows that it has gone
    except OSError as e:
        if e.errno != errno.EBADF:
            raise
        return output_lost(e)
    return status


if __name__ == "__main__":
    sys.exit(main())
