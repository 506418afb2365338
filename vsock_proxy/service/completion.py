"""``--print-completion SHELL``: a script with which a shell completes a program's command line.

The script is made from the parser by `shtab`, once, and needs no Python afterwards: completion that
runs the program at each key would cost its start.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.completion_values import (
    FISH_FILES,
    ZSH_FILES,
    with_values_in_bash,
    with_values_in_fish,
    with_values_in_zsh,
)
from vsock_proxy.service.console import complain

SHELLS = ("bash", "zsh", "fish")

_FILES = frozenset({"CERT", "FILE", "IMAGE", "NEW", "OLD", "PATH", "POLICY"})
_FOLDERS = frozenset({"FOLDER"})
"""Metavars of arguments that name files and folders."""

_PROGRAM = frozenset({"COMMAND", "ARGS"})
"""Metavars of a program to run, after ``--``, and of its arguments."""

_PARAMETERS = frozenset({"BLOB", "JSON", "KEY=VALUE,...", "N", "TEXT", "VALUE", "YAML"})
"""Metavars of the parameters of AWS's operations."""


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

    _add_help_word(parser)
    actions = _actions(parser)
    reading = {id(action) for owner, action in actions if _reads_parameter_file(owner, action)}
    for _, action in actions:
        if action.choices is None:
            if id(action) in reading:
                action.complete = _parameter_file()  # type: ignore[attr-defined] # as below
            elif action.metavar in _FOLDERS:
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
    script = str(shtab.complete(parser, shell))
    if shell == "bash":
        return with_values_in_bash(script, files=bool(reading))
    return with_values_in_zsh(script) if shell == "zsh" else with_values_in_fish(script)


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


_ParserAction = tuple[argparse.ArgumentParser, argparse.Action]


def _actions(parser: argparse.ArgumentParser) -> list[_ParserAction]:
    """Return the actions of a parser and of all below it, with their own parsers."""
    found: list[_ParserAction] = []
    for action in parser._actions:  # noqa: SLF001 (argparse has no other name for it)
        found.append((parser, action))
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 (as above)
            for below in action.choices.values():
                found += _actions(below)
    return found


def _reads_parameter_file(parser: argparse.ArgumentParser, action: argparse.Action) -> bool:
    """Return whether an option's value may be ``file://PATH`` or ``fileb://PATH``."""
    if not action.option_strings or action.nargs == 0:
        return False
    if "://PATH" in (parser.description or ""):
        return action.metavar in _PARAMETERS
    return "fileb://PATH" in (action.help or "")


def _parameter_file() -> dict[str, Any]:
    """Return what completes such a value, as shtab takes it; in bash it is done for every word."""
    return {
        "zsh": "_parameter_file",
        "fish": "(_parameter_file)",
        "preamble": {"zsh": ZSH_FILES, "fish": FISH_FILES},
    }


def _add_help_word(parser: argparse.ArgumentParser) -> None:
    """Add ``help`` with the names of the commands, which `Parser` takes without a parser for it."""
    for action in parser._actions:  # noqa: SLF001 (as above)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 (as above)
            described = "what a command is for, and its options"
            names = argparse.ArgumentParser(add_help=False)
            _add_names(names, action)
            action.add_parser("help", help=described, parents=[names], add_help=False)


def _add_names(parser: argparse.ArgumentParser, commands: Any) -> None:
    """Add the names of commands, and of those below them, without their options."""
    below = parser.add_subparsers()
    for listed in commands._choices_actions:  # noqa: SLF001 (as above)
        named = below.add_parser(listed.dest, help=listed.help, add_help=False)
        for action in commands.choices[listed.dest]._actions:  # noqa: SLF001 (as above)
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 (as above)
                _add_names(named, action)
