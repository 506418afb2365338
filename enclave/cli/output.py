"""Output as the AWS CLI formats it: ``--output`` and ``--query``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from enclave.cli.errors import BadValueError
from enclave.errors import ConfigurationError
from vsock_proxy.service.console import terminal_width

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from enclave.cli.environment import Environment

FORMATS = ("json", "text", "table", "yaml", "yaml-stream")


class Printer:
    """Formats values. Made before the call, so that an invalid option costs no call."""

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

    def format(self, title: str, value: Any) -> str:
        """Return the text to print, with its line ends.

        Args:
            title: the name of the value, which tables show.
            value: JSON types only.

        Raises:
            ConfigurationError: the query does not fit the value, or the value no table.
        """
        if self._select is not None:
            value = self._select(value)
        match self.output:
            case "text":
                from enclave.cli.text import format_text  # noqa: PLC0415 (seldom needed)

                return format_text(value)
            case "table":
                from enclave.cli.table import format_table  # noqa: PLC0415 (as above)

                width = terminal_width()
                return format_table(
                    title, value, terminal_width=width, fold=self._fold, colour=self._colour
                )
            case "yaml" | "yaml-stream":
                if value == {}:
                    return ""
                from enclave.cli.yaml_format import format_yaml  # noqa: PLC0415 (as above)

                return format_yaml(value if self.output == "yaml" else [value])
        return "" if value == {} else json.dumps(value, indent=4, ensure_ascii=False) + "\n"


def _configured(arguments: argparse.Namespace, environment: Environment) -> str | None:
    """Return the format that a variable or the profile names."""
    from enclave.aws_settings import AwsSettings  # noqa: PLC0415 (seldom needed)

    try:
        return AwsSettings(environment.environ, profile=arguments.profile).output
    except ConfigurationError as e:
        raise BadValueError(str(e), hint=e.hint) from e


def _selector(query: str) -> Callable[[Any], Any]:
    """Return a function that selects the part that a JMESPath expression names."""
    import jmespath  # noqa: PLC0415 (seldom needed)

    try:
        expression = jmespath.compile(query)
    except (jmespath.exceptions.JMESPathError, RecursionError) as e:
        raise ConfigurationError(
            f"bad value for --query {query!r}", hint="see https://jmespath.org"
        ) from e

    def select(value: Any) -> Any:
        try:
            return expression.search(value)
        except (jmespath.exceptions.JMESPathError, RecursionError) as e:
            raise BadValueError(
                f"--query {query!r} does not fit the output", hint="try it without --query first"
            ) from e

    return select
