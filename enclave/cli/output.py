"""Answers as the AWS CLI prints them: ``--output`` and ``--query``."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

from enclave.cli.errors import BadValueError
from enclave.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from enclave.cli.environment import Environment

FORMATS = ("json", "text", "table", "yaml", "yaml-stream")


class Printer:
    """Formats answers. Made before anything is asked, so that a bad option costs no call."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        environment: Environment,
        *,
        default: str = "json",
        fold: bool = False,
    ) -> None:
        """Read the options.

        Args:
            arguments: with ``output``, ``query``, ``color`` and ``profile``.
            environment: has the variables.
            default: the format if neither an option nor a variable nor the profile names one.
            fold: cut long cells of tables into lines, so that they fit the terminal.

        Raises:
            ConfigurationError: an invalid expression, or YAML without PyYAML.
            BadValueError: an output format that does not exist.
        """
        environ = environment.environ
        self._fold = fold
        self._colour = arguments.color == "on" or (
            arguments.color == "auto"
            and not environ.get("NO_COLOR")
            and environ.get("TERM") != "dumb"
            and sys.stdout.isatty()
        )
        self.output = arguments.output or _configured(arguments, environment) or default
        if self.output not in FORMATS:
            raise BadValueError(
                f"the output format {self.output!r} does not exist",
                hint=f"AWS_DEFAULT_OUTPUT, or output of the profile, is one of "
                f"{', '.join(FORMATS)}",
            )
        if self.output.startswith("yaml"):
            from enclave.cli.yaml_format import require_yaml  # noqa: PLC0415 (seldom needed)

            require_yaml()
        self._select = None if arguments.query is None else _selector(arguments.query)

    def format(self, title: str, answer: Any) -> str:
        """The text to print, with its line ends.

        Args:
            title: the answer's name, which tables show.
            answer: JSON types only.

        Raises:
            ConfigurationError: the query does not fit the answer, or the answer no table.
        """
        if self._select is not None:
            answer = self._select(answer)
        match self.output:
            case "text":
                from enclave.cli.text import format_text  # noqa: PLC0415 (seldom needed)

                return format_text(answer)
            case "table":
                from enclave.cli.table import format_table  # noqa: PLC0415 (as above)

                width = shutil.get_terminal_size((80, 24)).columns
                return format_table(
                    title, answer, terminal_width=width, fold=self._fold, colour=self._colour
                )
            case "yaml" | "yaml-stream":
                if answer == {}:
                    return ""
                from enclave.cli.yaml_format import format_yaml  # noqa: PLC0415 (as above)

                return format_yaml(answer if self.output == "yaml" else [answer])
        return "" if answer == {} else json.dumps(answer, indent=4, ensure_ascii=False) + "\n"


def _configured(arguments: argparse.Namespace, environment: Environment) -> str | None:
    """Return the format that a variable or the profile names."""
    from enclave.aws_settings import AwsSettings  # noqa: PLC0415 (seldom needed)

    try:
        return AwsSettings(environment.environ, profile=arguments.profile).output
    except ConfigurationError as e:
        raise BadValueError(str(e), hint=e.hint) from e


def _selector(query: str) -> Callable[[Any], Any]:
    """The part of an answer that a JMESPath expression selects."""
    import jmespath  # noqa: PLC0415 (seldom needed)

    try:
        expression = jmespath.compile(query)
    except (jmespath.exceptions.JMESPathError, RecursionError) as e:
        raise ConfigurationError(
            f"bad value for --query {query!r}", hint="see https://jmespath.org"
        ) from e

    def select(answer: Any) -> Any:
        try:
            return expression.search(answer)
        except (jmespath.exceptions.JMESPathError, RecursionError) as e:
            raise BadValueError(
                f"--query {query!r} does not fit the answer", hint="try it without --query first"
            ) from e

    return select
