"""A command-line parser whose errors help: one style, suggestions, and `help` as a word."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from vsock_proxy.service.console import complain, terminal_width

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


def seconds(least: float, most: float) -> Callable[[str], float]:
    """Return an argparse type: a number of seconds in `least`..`most`, so never NaN."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"not {least:.12g} to {most:.12g} seconds: {text!r}")
        return value

    return read


class Once(argparse.Action):
    """Stores the value of an option that is an error if it is given twice.

    argparse takes the last one: where the values are claims about one thing, the result would be
    about another one than is asked.
    """

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
        option_string: str | None = None,  # noqa: ARG002 (argparse's signature)
    ) -> None:  # fmt: skip
        """Store the value."""
        if getattr(namespace, self.dest) is not self.default:
            parser.error(str(argparse.ArgumentError(self, "given twice")))
        setattr(namespace, self.dest, values)


class HelpFormatter(argparse.HelpFormatter):
    """As argparse's, which for the width loads shutil and three compressors with it, 0.6 MiB.

    argparse makes one for each argument that is added.
    """

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **{"width": terminal_width() - 2, **settings})


class RawHelpFormatter(HelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Leaves the lines of a description as they are."""


class Parser(argparse.ArgumentParser):
    """Parses whole option names; prints errors as every command of this project does.

    ``PROGRAM help``, ``PROGRAM help COMMAND`` and ``PROGRAM COMMAND help`` print the help that
    ``--help`` prints. The last form is left to commands that take words of their own.
    """

    def __init__(
        self, *, allow_abbrev: bool = False, help_word: bool = False, **settings: Any
    ) -> None:
        """Make a parser.

        Args:
            allow_abbrev: take unambiguous prefixes of options.
            help_word: take ``help`` for a request for help, although there are other words.
            settings: as for `argparse.ArgumentParser`.
        """
        super().__init__(
            allow_abbrev=allow_abbrev, **{"formatter_class": HelpFormatter, **settings}
        )
        self._help_word = help_word
        self._suggestion = ""
        self._words: list[str] = []

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse; words that are left over are an error, in a command's own parser as well."""
        self._words = words = list(sys.argv[1:] if args is None else args)
        if words[:1] == ["help"] and (
            self.commands() or (len(words) == 1 and not self._takes_words())
        ):
            self._help_on(words[1:])
        parsed, extra = super().parse_known_args(words, namespace)
        if extra == ["help"]:
            self._help_on([])
        if extra:
            self._reject(extra)
        return parsed, extra

    def error(self, message: str) -> NoReturn:
        """Print the error with a hint; exit with status 2."""
        complain(self.prog.split()[0], message, self.advice())
        self.exit(2)

    def advice(self) -> str:
        """Return the hint for the error at hand."""
        return f"{self._suggestion}see {self.prog} --help"

    def _reject(self, extra: list[str]) -> NoReturn:
        options = [word.partition("=")[0] for word in extra if word.startswith("-")]
        if options:
            self._suggestion = suggestion(options[0], self._option_string_actions)
        self.error(f"unrecognized arguments: {' '.join(extra)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 (argparse has no other name for it)
            if value == "help":
                self._help_on([])
            self._check_options_before(str(value))
            self._suggestion = suggestion(str(value), [*action.choices, "help"])
            raise argparse.ArgumentError(None, f"there is no command {value!r}")
        choices = list(map(str, action.choices))
        self._suggestion = suggestion(str(value), choices)
        raise argparse.ArgumentError(
            action, f"invalid choice: {value!r} (choose from {', '.join(choices)})"
        )

    def _check_options_before(self, command: str) -> None:
        """Reject an unknown option whose value was taken for the command."""
        for word in self._words[: self._words.index(command)]:
            option = word.partition("=")[0]
            known = option in self._option_string_actions or self._get_option_tuples(option)
            if word.startswith("--") and not known:
                self._reject([word])

    def _help_on(self, words: Sequence[str]) -> NoReturn:
        parser = self
        for word in words:
            commands = parser.commands()
            if not commands:
                break
            if word not in commands:
                self._suggestion = suggestion(word, commands)
                self.error(f"there is no command {word!r}")
            parser = commands[word]
        parser.print_help()
        self.exit(0)

    def commands(self) -> dict[str, Parser]:
        """Return the parsers of the commands, by name."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 (as above)
                return action.choices
        return {}

    def _takes_words(self) -> bool:
        return bool(self._get_positional_actions()) and not self._help_word


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean ...? `` for what is nearest to a mistyped word, or ``""``."""
    from difflib import get_close_matches  # noqa: PLC0415 (only for errors)

    near = get_close_matches(word, list(known), n=1, cutoff=0.65)
    return f"did you mean {near[0]}? " if near else ""
