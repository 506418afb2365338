"""Answers as the AWS CLI prints them: ``--output json|text`` and ``--query``."""

from __future__ import annotations

import json
from typing import Any

import jmespath

from enclave.errors import ConfigurationError


def render(answer: dict[str, Any], *, output: str, query: str | None) -> str:
    """The text to print, with its line end.

    Args:
        answer: JSON types only.
        output: ``json`` or ``text``.
        query: a JMESPath expression, or None.

    Raises:
        ConfigurationError: the expression is not JMESPath, or does not fit the answer.
    """
    selected: Any = answer
    if query is not None:
        try:
            selected = jmespath.search(query, answer)
        except (jmespath.exceptions.JMESPathError, RecursionError) as e:
            raise ConfigurationError(
                f"bad value for --query {query!r}", hint="see https://jmespath.org"
            ) from e
    if output == "json":
        return json.dumps(selected, indent=4, ensure_ascii=False) + "\n"
    return "".join(f"{line}\n" for line in _text_lines(selected))


def _text_lines(value: Any, name: str | None = None) -> list[str]:
    """The AWS CLI's text form: tab-separated scalars, one line per structure, its name first."""
    label = [] if name is None else [name.upper()]
    if isinstance(value, dict):
        scalars = [str(value[key]) for key in sorted(value) if not _is_structure(value[key])]
        lines = ["\t".join(label + scalars)] if scalars else []
        for key in sorted(value):
            if _is_structure(value[key]):
                lines += _text_lines(value[key], key)
        return lines
    if isinstance(value, list):
        if not any(_is_structure(item) for item in value):
            if name is None:
                return ["\t".join(map(str, value))] if value else []
            return ["\t".join([*label, str(item)]) for item in value]
        return [line for item in value for line in _text_lines(item, name)]
    return ["\t".join([*label, str(value)])]


def _is_structure(value: Any) -> bool:
    return isinstance(value, dict | list)
