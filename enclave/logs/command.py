"""``enclave-agent log``: a program whose output goes to the parent's log sink."""

from __future__ import annotations

import argparse
from typing import Any

from enclave.errors import ConfigurationError
from enclave.logs.options import DEFAULT_SINK, LogOptions, add_options


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the command ``log``; `common` is the parser of the options all commands share."""
    parser = subparsers.add_parser(
        "log",
        help="run a program whose output goes to the parent's log sink",
        usage="enclave-agent log [options] -- COMMAND [ARGS...]",
        description="Run COMMAND and send what it prints on standard output and standard error, "
        "line by line, to the log sink on the parent, which is not trusted. COMMAND never waits "
        "for the parent: while the sink is slow or away lines wait, as many as the buffer holds. "
        "Signals are passed on; the exit code is COMMAND's, 128+N if signal N ended it.",
        parents=[common],
    )
    add_options(parser, default=str(DEFAULT_SINK))
    parser.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="COMMAND", help=argparse.SUPPRESS
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run COMMAND to its end; returns its exit code.

    Raises:
        ConfigurationError: an option, or COMMAND cannot be run.
    """
    from enclave.logs import child  # noqa: PLC0415 (--help does without)
    from enclave.logs.follow import follow, tell_sink  # noqa: PLC0415

    options = LogOptions.from_args(arguments)
    assert options  # noqa: S101 (there is a default)
    command = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if not command:
        raise ConfigurationError(
            "there is no COMMAND to run", hint="enclave-agent log -- COMMAND [ARGS...]"
        )
    try:
        program = child.spawn(command, arguments.surroundings.environ)
    except (OSError, ValueError) as e:  # ValueError: NUL in an argument
        reason = getattr(e, "strerror", None) or str(e)
        error = ConfigurationError(f"cannot run {command[0]!r}: {reason}")
        tell_sink(error, options)
        raise error from e
    return follow(program, options)


def divide(arguments: argparse.Namespace) -> int | None:
    """Where a sink is named, have another process do what is to be done, and follow it.

    So whatever that prints is sent: errors, and how it crashed, if it did.

    Returns:
        The exit code, in this process, in front; None in the one that goes on.

    Raises:
        ConfigurationError: an option.
    """
    options = LogOptions.from_args(arguments)
    if options is None:
        return None
    from enclave.logs import child  # noqa: PLC0415 (as above)
    from enclave.logs.follow import follow  # noqa: PLC0415

    program = child.divide()
    return None if program is None else follow(program, options)
