"""``--print-completion SHELL``: a script with which a shell completes a program's command line.

The script is made from the parser by `shtab`, once, and needs no Python afterwards: completion that
runs the program at each key would cost its start.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.console import complain

SHELLS = ("bash", "zsh", "fish")

_FILES = frozenset({"CERT", "FILE", "IMAGE", "NEW", "OLD", "PATH", "POLICY"})
_FOLDERS = frozenset({"FOLDER"})
"""Metavars of arguments that name files and folders."""

_PROGRAM = frozenset({"COMMAND", "ARGS"})
"""Metavars of a program to run, after ``--``, and of its arguments."""


def add_completion(parser: argparse.ArgumentParser) -> None:
    """Add ``--print-completion`` to a program's parser. Its subparsers may follow later."""
    parser.add_argument(
        "--print-completion",
        action=_Print,
        default=argparse.SUPPRESS,
        choices=SHELLS,
        metavar="SHELL",
        help=f"print a completion script for {', '.join(SHELLS[:-1])} or {SHELLS[-1]}, and exit",
    )


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script of a parser and of all its subparsers.

    Raises:
        ConfigurationError: the extra `completion` is not installed.
    """
    from vsock_proxy.service.extras import require  # noqa: PLC0415 (as below)

    require("completion", "shtab")
    import shtab  # noqa: PLC0415 (an extra, and only for this option)

    for action in _actions(parser):
        if action.choices is None:
            if action.metavar in _FOLDERS:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined] # as shtab takes it
            elif action.type is Path or action.metavar in _FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined] # as above
            elif not action.option_strings and action.metavar in _PROGRAM:
                action.complete = shtab.FILE  # type: ignore[attr-defined] # as above
                if action.help == argparse.SUPPRESS:  # the usage line has it already
                    action.help = "the program to run, and its arguments"
        elif isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 (as below)
            # A line for each command: zsh and fish show it beside the name.
            for listed in action._choices_actions:  # noqa: SLF001
                action.choices[listed.dest].description = listed.help
    return str(shtab.complete(parser, shell))


class _Print(argparse.Action):
    """Print the script of the parser at hand, and exit."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        _namespace: argparse.Namespace,
        values: Any,
        _option_string: str | None = None,
    ) -> None:
        try:
            script = completion_script(parser, values)
        except ConfigurationError as e:
            complain(parser.prog.split()[0], e)
            parser.exit(1)
        print(script)  # noqa: T201 (what the option is for)
        parser.exit(0)


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the actions of a parser and of all below it."""
    found: list[argparse.Action] = []
    for action in parser._actions:  # noqa: SLF001 (argparse has no other name for it)
        found.append(action)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 (as above)
            for below in action.choices.values():
                found += _actions(below)
    return found
