"""``enclave-agent log``: runs a program and sends its output to the parent's log sink."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from enclave.cli.command import Command
from enclave.errors import ConfigurationError
from enclave.logs.options import DEFAULT_SINK, LogOptions, add_options
from vsock_proxy.service.child import exec_hint

if TYPE_CHECKING:
    from enclave.cli.environment import Environment


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the command ``log``; `common` is the parser of the options all commands share."""
    parser = subparsers.add_parser(
        "log",
        help="run a program and send its output to the parent's log sink",
        usage="enclave-agent log [options] -- COMMAND [ARGS...]",
        description="Run COMMAND and send its standard output and standard error, line by line, to "
        "the log sink on the parent, which is not trusted. COMMAND never waits for the parent: "
        "while the sink is slow or unreachable, lines are buffered. Signals are forwarded to "
        "COMMAND; the exit code is that of COMMAND, 128+N after signal N.",
        parents=[common],
    )
    add_options(parser, default=str(DEFAULT_SINK))
    parser.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="COMMAND", help=argparse.SUPPRESS
    )


def run(arguments: argparse.Namespace, environment: Environment) -> int:
    """Run COMMAND to its end; return its exit code.

    Raises:
        ConfigurationError: an option is invalid, or COMMAND cannot be run.
    """
    from enclave.logs import child  # noqa: PLC0415 (--help needs none of it)
    from enclave.logs.follow import follow, send_error  # noqa: PLC0415

    options = LogOptions.from_args(arguments)
    assert options  # noqa: S101 (there is a default)
    command = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if not command:
        raise ConfigurationError(
            "COMMAND is missing", hint="enclave-agent log -- COMMAND [ARGS...]"
        )
    try:
        program = child.spawn(command, environment.environ)
    except (OSError, ValueError) as e:  # ValueError: NUL in an argument
        reason = getattr(e, "strerror", None) or str(e)
        error = ConfigurationError(
            f"cannot run {command[0]!r}: {reason}",
            hint=exec_hint(command[0], getattr(e, "errno", None)),
        )
        send_error(error, options)
        raise error from e
    return follow(program, options)


def divide(arguments: argparse.Namespace) -> int | None:
    """If a sink is named, do the rest in a child process and send its output there.

    So everything is sent: errors, and the traceback of a crash.

    Returns:
        In this process, the child's exit code; in the child, and without a sink, None.

    Raises:
        ConfigurationError: an option is invalid.
    """
    options = LogOptions.from_args(arguments)
    if options is None:
        return None
    from enclave.logs import child  # noqa: PLC0415 (only if a sink is named)
    from enclave.logs.follow import follow  # noqa: PLC0415

    program = child.divide()
    return None if program is None else follow(program, options)


COMMANDS = {"log": Command(run)}
