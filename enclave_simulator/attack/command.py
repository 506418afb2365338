"""``enclave-simulator attack``: a program under one attack after the other."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from enclave_simulator.attack.model import DEADLINE
from enclave_simulator.parent.processes import exit_on_signals
from vsock_proxy.errors import AgentError, ConfigurationError
from vsock_proxy.service.arguments import seconds
from vsock_proxy.service.console import complain, terminal_width
from vsock_proxy.service.quantities import whole_number

if TYPE_CHECKING:
    from enclave_simulator.attack.running import Result

_LONGEST = 86_400.0
_MOST_JOBS = 64
_FAILED, _NOT_ATTACKED = 1, 2


def add_parser(subparsers: Any) -> None:
    """Add the ``attack`` command to ``enclave-simulator``."""
    parser = subparsers.add_parser(
        "attack",
        help="run a program under a hostile parent and a hostile KMS, one attack at a time",
        description="Run COMMAND in a simulated enclave, first without an attack, then once under "
        "each, with a hostile parent and a hostile KMS behind CID 3; report which attacks it "
        "refused and which it accepted, and under which it hung or crashed. It decrypts "
        "$ATTACK_CIPHERTEXTS and prints a line ATTACK-RESULT sha256:HEX for each, or tells by its "
        "exit code (docs/attack.md). Exit code: 0 if no attack was accepted and none made it hang "
        "or crash, 1 otherwise, 2 if it fails without an attack or cannot be run.",
        usage="enclave-simulator attack [options] [--] COMMAND [ARGS...]",
    )
    add = parser.add_argument
    add("--only", metavar="NAME[,NAME...]", action="append", default=[],
        help="make only these attacks; may repeat")  # fmt: skip
    add("--list", action="store_true", help="print every attack with its effect, and exit")
    add("--json", action="store_true", help="print one JSON document in place of the table")
    add("--deadline", metavar="SECONDS", type=seconds(0.001, _LONGEST), default=DEADLINE,
        help="for one run; longer than COMMAND's own timeouts (default: %(default)g)")  # fmt: skip
    add("--jobs", metavar="N", type=_jobs, default=1,
        help="runs of COMMAND at the same time (default: %(default)s)")  # fmt: skip
    add("--host-network", action="store_true", help="as with `run`")
    add("--no-namespaces", action="store_true", help="as with `run`")
    add("--no-encryption-context", action="store_true",
        help="the ciphertexts have none: for a COMMAND that cannot name one")  # fmt: skip
    add("--verbose", action="store_true", help="pass COMMAND's standard error on")
    add("command", metavar="COMMAND", nargs="?",
        help="the program; {ciphertext}, {ciphertext_file}, {key_id} and {context} in its "
        "arguments are replaced")  # fmt: skip
    add("arguments", metavar="ARGS", nargs=argparse.REMAINDER)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Attack COMMAND; return the exit code."""
    try:
        return _run(options)
    except AgentError as e:
        complain("enclave-simulator", e)
        return _NOT_ATTACKED


def _run(options: argparse.Namespace) -> int:
    # cryptography and botocore take a moment to load; the other commands do without.
    from enclave_simulator.attack import report  # noqa: PLC0415
    from enclave_simulator.attack.running import Runner, Target  # noqa: PLC0415
    from enclave_simulator.attack.table import choose  # noqa: PLC0415
    from enclave_simulator.attack.world import CONTEXT  # noqa: PLC0415
    from enclave_simulator.launcher import child  # noqa: PLC0415

    width = terminal_width(100)
    if options.list:
        listed = report.listing_as_json() if options.json else None
        _show(json.dumps(listed, indent=2) + "\n" if listed else report.listing(width))
        return 0
    if options.command is None:
        raise ConfigurationError(
            "no COMMAND to attack", hint="write enclave-simulator attack -- COMMAND"
        )
    names = [name.strip() for names in options.only for name in names.split(",")]
    if options.only and not any(names):
        raise ConfigurationError(
            "--only names no attack", hint="leave it out for all, or see --list for their names"
        )
    attacks = choose([name for name in names if name])
    logging.basicConfig(format="enclave-simulator: %(message)s", level=logging.ERROR)
    exit_on_signals()
    child.adopt_orphans()
    argv = [options.command, *options.arguments]
    runner = Runner(
        Target(
            argv=argv,
            deadline=options.deadline,
            own_network=not options.host_network,
            namespaces=False if options.no_namespaces else None,
            show=options.verbose,
            context={} if options.no_encryption_context else CONTEXT,
        )
    )
    runner.control()
    results: list[Result] = []
    on_terminal = sys.stdout.isatty()
    colour = on_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    try:
        if not options.json:
            _show(report.heading())
        for result in runner.attack_all(attacks, jobs=options.jobs):
            results.append(result)
            if not options.json:
                _show(report.row(result, width=width if on_terminal else None, colour=colour))
    finally:
        child.end_orphans(set())
    if options.json:
        _show(json.dumps(report.as_json(argv, results), indent=2) + "\n")
    else:
        _show(report.summary(results))
    return _FAILED if any(each.finding.verdict.is_failure for each in results) else 0


def _show(text: str) -> None:
    """Print at once: the rows are the progress."""
    sys.stdout.write(text)
    sys.stdout.flush()


def _jobs(text: str) -> int:
    number = whole_number(text, 1, _MOST_JOBS)
    if number is None:
        raise argparse.ArgumentTypeError(f"not a whole number from 1 to {_MOST_JOBS}: {text!r}")
    return number
