"""``enclave-parent``: a table of subcommands."""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING

from parent.daemon import command as daemon
from parent.daemon import restart_command, status_command
from parent.doctor import command as doctor
from parent.eif import build_command, describe_command, diff_command, pcr_command, sign_command
from parent.policy import command as key_policy
from parent.secrets import command as seal
from vsock_proxy.errors import AgentError
from vsock_proxy.service.arguments import Parser
from vsock_proxy.service.completion import add_completion
from vsock_proxy.service.console import complain, keep_exit_status, output_lost
from vsock_proxy.service.scarcity import scarcity
from vsock_proxy.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "enclave-parent"

COMMANDS = (
    daemon,
    status_command,
    doctor,
    restart_command,
    describe_command,
    build_command,
    sign_command,
    diff_command,
    pcr_command,
    key_policy,
    seal,
)


@keep_exit_status
def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; the process's exit status."""
    parser = Parser(prog=PROGRAM, description="What the parent instance does for its enclaves.")
    parser.add_argument(
        "--version",
        action="version",
        version=f"{PROGRAM} {VERSION}",
        help="print the version and exit",
    )
    add_completion(parser)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    try:
        arguments = parser.parse_args(argv)
        status: int = arguments.run(arguments)
    except AgentError as e:
        complain(PROGRAM, e)
        return 1
    except BrokenPipeError:
        return 1  # the reader of the output knows that it has gone
    except OSError as e:
        if e.errno == errno.EBADF:
            return output_lost(e)
        complain(PROGRAM, scarcity(e) or str(e))
        return 1
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
