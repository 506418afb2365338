"""The command line, ``enclave-agent``: the names, output and meaning of ``aws kms``, and more.

Errors are two lines on standard error, ``enclave-agent: error: ...`` and ``... hint: ...``, and
the AWS CLI's exit codes. Nothing is printed on standard output unless all of it can be.
"""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from importlib import import_module
from typing import TYPE_CHECKING

from enclave.cli import console
from enclave.cli.environment import Surroundings
from enclave.cli.options import DEFAULTS, Parser, common_options, kms_options
from enclave.errors import (
    AgentError,
    AttestationError,
    ConfigurationError,
    CredentialsError,
    KmsRefusedError,
)
from enclave.process import protect_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "generate-random": "enclave.cli.generate_random",
    "decrypt": "enclave.cli.kms",
    "generate-data-key": "enclave.cli.kms",
    "generate-data-key-pair": "enclave.cli.kms",
    "derive-shared-secret": "enclave.cli.kms",
    "serve": "enclave.serve.command",
    "log": "enclave.logs.command",
    "attest": "enclave.cli.nsm",
    "verify": "enclave.cli.verify",
    "describe": "enclave.cli.nsm",
    "extend-pcr": "enclave.cli.nsm",
    "lock-pcr": "enclave.cli.nsm",
}
"""The commands and their modules, in the order of ``--help``. A module has ``add_parser(subparsers,
common)``, which adds its commands and sets ``run``: from the arguments to what is to be printed, or
to the exit code of what has ended.
"""

# AWS CLI User Guide, "Command line return codes".
EXIT_USAGE, EXIT_CONFIGURATION, EXIT_REFUSED, EXIT_OTHER = 252, 253, 254, 255


def main(argv: Sequence[str] | None = None, *, surroundings: Surroundings | None = None) -> int:
    """Run one command; returns the exit code.

    Args:
        argv: the words after the program's name; None: those it was started with.
        surroundings: the NSM, the clock and so on; production code leaves it out.
    """
    if argv is None:  # as a program; whoever calls this function keeps its process as it is
        protect_memory()
    debug = False
    try:
        arguments = _parse(sys.argv[1:] if argv is None else list(argv))
        arguments.surroundings = surroundings or Surroundings()
        debug = arguments.debug
        # serve --log-to: there are two processes from here on, and one of them only waits.
        divide = getattr(arguments, "divide", None)
        if divide and (code := divide(arguments)) is not None:
            return int(code)
        with console.logging_to_stderr(debug=debug, verbose=arguments.verbose):
            answer = arguments.run(arguments)
        if isinstance(answer, int):
            return answer
        console.write(answer)
    except AttestationError as e:
        for failure in e.failures:
            console.complain(f"attestation document refused: {failure}", "")
        console.hint(e.hint)
        return EXIT_OTHER
    except AgentError as e:
        console.complain(str(e), e.hint)
        return _exit_code(e)
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more while it ends.
        sys.stdout = None
        return EXIT_OTHER
    except OSError as e:
        console.complain(f"cannot print the answer: {e.strerror}", "")
        return EXIT_OTHER
    except KeyboardInterrupt:
        return 130
    except Exception as e:
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
        description="Attested AWS KMS from inside a Nitro Enclave.",
        epilog=f"Options may also stand before the command; {console.PROG} COMMAND --help lists "
        "them.",
        parents=[common_options(hidden=True), kms_options(hidden=True)],
    )
    subparsers = parser.add_subparsers(
        prog=console.PROG, dest="command", required=True, metavar="COMMAND"
    )
    # Only what may have been named is imported: it decides how soon the first byte is there.
    named = [COMMANDS[word] for word in argv if word in COMMANDS]
    common = common_options()
    for module in dict.fromkeys(named or COMMANDS.values()):
        import_module(module).add_parser(subparsers, common)
    return parser.parse_args(argv, Namespace(**DEFAULTS))


def _exit_code(error: AgentError) -> int:
    if isinstance(error, KmsRefusedError):
        return EXIT_REFUSED
    if isinstance(error, CredentialsError):
        return EXIT_CONFIGURATION
    if isinstance(error, ConfigurationError):
        return EXIT_USAGE
    return EXIT_OTHER
