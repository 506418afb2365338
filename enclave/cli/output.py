"""Answers as the AWS CLI prints them: ``--output`` and ``--query``."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from enclave.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

FORMATS = ("json", "text", "table", "yaml", "yaml-stream")


class Printer:
    """Formats answers. Made before anything is asked, so that a bad option costs no call."""

    def __init__(self, arguments: argparse.Namespace, *, default: str = "json") -> None:
        """Read the options.

        Args:
            arguments: with ``output``, ``query`` and ``surroundings``.
            default: the format where nobody names one.

        Raises:
            ConfigurationError: an expression that is none, or YAML without PyYAML.
        """
        environ = arguments.surroundings.environ
        self.output = arguments.output or environ.get("AWS_DEFAULT_OUTPUT") or default
        if self.output not in FORMATS:
            raise ConfigurationError(
                f"AWS_DEFAULT_OUTPUT is {self.output!r}", hint=f"one of {', '.join(FORMATS)}"
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
                return format_table(title, answer, terminal_width=width)
            case "yaml" | "yaml-stream":
                from enclave.cli.yaml_format import format_yaml  # noqa: PLC0415 (as above)

                return format_yaml(answer if self.output == "yaml" else [answer])
        return "" if answer == {} else json.dumps(answer, indent=4, ensure_ascii=False) + "\n"


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
            raise ConfigurationError(
                f"--query {query!r} does not fit the answer", hint="try it without --query first"
            ) from e

    return select
