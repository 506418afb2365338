"""The command line, ``enclave-agent``: the names, output and meaning of ``aws kms``, and more.

Errors are two lines on standard error, ``enclave-agent: error: ...`` and ``... hint: ...``, and
the AWS CLI's exit codes. Nothing is printed on standard output unless all of it can be.
"""

from __future__ import annotations

import errno
import logging
import sys
from argparse import Namespace
from importlib import import_module
from typing import TYPE_CHECKING

from enclave.cli import console
from enclave.cli.environment import Environment
from enclave.cli.errors import EXIT_OTHER, exit_code
from enclave.cli.options import DEFAULTS, Parser, common_options, kms_options
from enclave.errors import AgentError, AttestationError
from enclave.process import protect_memory
from vsock_proxy.service.completion import add_completion
from vsock_proxy.service.console import keep_exit_status
from vsock_proxy.service.platforms import require_linux
from vsock_proxy.service.scarcity import hint_of, scarcity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enclave.cli.command import Command

MODULES = {
    "generate-random": "enclave.cli.generate_random",
    "decrypt": "enclave.cli.kms",
    "generate-data-key": "enclave.cli.kms",
    "generate-data-key-pair": "enclave.cli.kms",
    "derive-shared-secret": "enclave.cli.kms",
    "serve": "enclave.serve.command",
    "log": "enclave.logs.command",
    "doctor": "enclave.cli.doctor",
    "attest": "enclave.cli.nsm",
    "verify": "enclave.cli.verify",
    "fetch": "enclave.cli.fetch",
    "describe": "enclave.cli.nsm",
    "extend-pcr": "enclave.cli.nsm",
    "lock-pcr": "enclave.cli.nsm",
}
"""The modules of the commands, in the order of ``--help``. A module has ``COMMANDS``, from names to
`Command`, and ``add_parser(subparsers, common)``, which adds their parsers.
"""

PORTABLE = ("enclave.cli.verify", "enclave.cli.fetch")
"""What a relying party runs, on any system. The others need the NSM or vsock."""


@keep_exit_status
def main(argv: Sequence[str] | None = None, *, environment: Environment | None = None) -> int:
    """Run one command; return the exit code.

    Args:
        argv: the words after the program's name; None for those that the process has.
        environment: the NSM, the clock and so on; production code leaves it out.
    """
    if (
        argv is None and sys.platform == "linux"
    ):  # as a program; whoever calls this function keeps its process as it is
        protect_memory()
    environment = environment or Environment()
    debug, name = False, ""
    try:
        arguments = _parse(sys.argv[1:] if argv is None else list(argv))
        debug, name = arguments.debug, f" {arguments.command}"
        command: Command = import_module(MODULES[arguments.command]).COMMANDS[arguments.command]
        # serve --log-to: there are two processes from here on, and one of them only waits.
        if command.divide and (code := command.divide(arguments)) is not None:
            return code
        with console.logging_to_stderr(debug=debug, verbose=arguments.verbose):
            output = command.run(arguments, environment)
        if isinstance(output, int):
            return output
        console.write(output)
    except AttestationError as e:
        for failure in e.failures:
            console.complain(f"attestation document refused: {failure}")
        console.hint(e.hint)
        return EXIT_OTHER
    except AgentError as e:
        console.complain(e, hint_of(e) or f"see {console.PROG}{name} --help")
        return exit_code(e)
    except BrokenPipeError:
        return EXIT_OTHER  # the reader of our output knows that it has gone
    except OSError as e:
        lack = scarcity(e)
        if lack is not None and e.errno != errno.ENOSPC:
            console.complain(lack, lack.hint)
            return EXIT_OTHER
        console.complain(
            f"cannot print on standard output: {e.strerror}",
            "is it open, and is there space where it leads?",
        )
        return EXIT_OTHER
    except KeyboardInterrupt:
        return 130
    except Exception as e:
        if (lack := scarcity(e)) is not None:
            console.complain(lack, lack.hint)
            return EXIT_OTHER
        with console.logging_to_stderr(debug=debug, verbose=False):
            logging.getLogger("enclave").debug("internal error", exc_info=True)
        console.complain(
            f"internal error: {type(e).__name__}",
            "this is a bug in enclave-agent: please report what --debug shows",
        )
        return EXIT_OTHER
    return 0


def _parse(argv: list[str]) -> Namespace:
    parser = Parser(
        prog=console.PROG,
        usage="%(prog)s [options] COMMAND [options]",
        allow_abbrev=True,
        description="Attested AWS KMS from inside a Nitro Enclave.",
        epilog="Options may also stand before the command. "
        f"{console.PROG} COMMAND --help lists those of a command.",
        parents=[common_options(hidden=True), kms_options(hidden=True)],
    )
    add_completion(parser)
    subparsers = parser.add_subparsers(
        prog=console.PROG, dest="command", required=True, metavar="COMMAND"
    )
    # Only what may have been named is imported: it decides how soon the first byte is there.
    named = [MODULES[word] for word in argv if word in MODULES]
    if sys.platform != "linux":
        for word in argv:
            if MODULES.get(word, PORTABLE[0]) not in PORTABLE:
                require_linux(f"{console.PROG} {word}")
        named = list(PORTABLE)
    common = common_options()
    for module in dict.fromkeys(named or MODULES.values()):
        import_module(module).add_parser(subparsers, common)
    return parser.parse_args(argv, Namespace(**DEFAULTS))
