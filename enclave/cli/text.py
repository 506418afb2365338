"""The AWS CLI's text form: tab-separated scalars, one line per structure, its name first.

AWS CLI User Guide, "Setting the output format", text.
"""

from __future__ import annotations

from typing import Any


def format_text(value: Any) -> str:
    """Return the lines, with their ends; "" for an empty list."""
    return "".join(f"{line}\n" for line in _lines(value, ()))


def _lines(value: Any, label: tuple[str, ...], columns: list[str] | None = None) -> list[str]:
    match value:
        case dict():
            return _structure(value, label, columns)
        case list() if any(isinstance(item, dict) for item in value):
            # Every structure of a list has the same columns, empty where it lacks one.
            columns = sorted(
                {name for item in value if isinstance(item, dict) for name in _scalars(item)}
            )
            return [line for item in value for line in _lines(item, label, columns)]
        case list():
            plain = [str(item) for item in value if not isinstance(item, list)]
            lines = (
                ["\t".join([*label, item]) for item in plain]
                if label
                else ["\t".join(plain)]
                if plain
                else []
            )
            nested = [item for item in value if isinstance(item, list)]
            return lines + [line for item in nested for line in _lines(item, label)]
    return [str(value)]


def _structure(
    value: dict[str, Any], label: tuple[str, ...], columns: list[str] | None
) -> list[str]:
    columns = _scalars(value) if columns is None else columns
    cells = [str(value.get(name, "")) for name in columns]
    lines = ["\t".join([*label, *cells])] if cells else []
    for name in sorted(value.keys() - set(columns)):
        lines += _lines(value[name], (name.upper(),))
    return lines


def _scalars(value: dict[str, Any]) -> list[str]:
    return sorted(name for name, each in value.items() if not isinstance(each, dict | list))
