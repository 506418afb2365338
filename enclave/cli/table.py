"""The AWS CLI's table form.

AWS CLI User Guide, "Setting the output format", table. A section per structure, titled with its
name and framed once more per level; all as wide as the widest; columns stretched in proportion.
"""

from __future__ import annotations

import itertools
import unicodedata
from dataclasses import dataclass, field
from typing import Any

from enclave.cli.errors import BadValueError

_NARROWEST = 8
"""Columns of a cell that is cut into lines."""

_PADDING = 4  # two spaces on each side of the widest cell
_WIDE = frozenset("AFW")  # Unicode TR11: ambiguous counts as wide
_CELL = "\x1b[1m\x1b[34m{}\x1b[0m"  # bright, blue
_FRAME = "\x1b[2m\x1b[33m{}\x1b[0m"  # dim, yellow


@dataclass(slots=True)
class _Section:
    title: str
    level: int
    headers: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        self.rows.append([str(cell) for cell in cells])

    def column_widths(self) -> list[int]:
        lines = [self.headers, *self.rows] if self.headers else self.rows
        if len({len(line) for line in lines}) > 1:
            raise _no_table("rows of different lengths")
        return [max(map(_width, column)) for column in zip(*lines, strict=True)]

    def width(self) -> int:
        columns = sum(width + _PADDING for width in self.column_widths())
        return max(_width(self.title), columns) + 2 + 2 * self.level

    def folded(self, terminal_width: int) -> _Section:
        """Return it with the cells of its widest column cut into lines, so that it fits."""
        widths = self.column_widths()
        excess = self.width() - terminal_width
        if excess <= 0 or not widths or max(widths) - excess < _NARROWEST:
            return self
        column = widths.index(max(widths))
        lines = -(-widths[column] // (widths[column] - excess))
        size = -(-widths[column] // lines)
        rows = []
        for row in self.rows:
            cell = row[column]
            parts = [cell[at : at + size] for at in range(0, len(cell), size)] or [""]
            rows.append([*row[:column], parts[0], *row[column + 1 :]])
            blank = [""] * len(row)
            rows += [[*blank[:column], part, *blank[column + 1 :]] for part in parts[1:]]
        return _Section(self.title, self.level, self.headers, rows)

    def upright(self) -> _Section:
        """One row under its headers, turned to one row per header."""
        if len(self.rows) != 1 or not self.headers:
            return self
        pairs = zip(self.headers, self.rows[0], strict=True)
        return _Section(self.title, self.level, [], [list(pair) for pair in pairs])


def format_table(
    title: str,
    value: Any,
    *,
    terminal_width: int = 80,
    fold: bool = False,
    colour: bool = False,
) -> str:
    """Return the table, or "" if there is nothing to show.

    Args:
        title: the first section's.
        value: JSON types.
        terminal_width: columns; single rows of a wider table are turned upright.
        fold: cut long cells into lines if the table is wider still; the AWS CLI does not.
        colour: colour cells and frames, as the AWS CLI does.

    Raises:
        BadValueError: rows of different lengths, or a mixture that has no columns.
    """
    sections: list[_Section] = []
    if not isinstance(value, dict | list) and value is not None:
        value = [value]
    _collect(sections, title, value, 0)
    if not sections:
        return ""
    width = max(section.width() for section in sections)
    if width > terminal_width:
        sections = [section.upright() for section in sections]
        if fold:
            sections = [section.folded(terminal_width) for section in sections]
        width = max(section.width() for section in sections)
    lines = ["-" * width]
    for section in sections:
        frame = (_FRAME.format("|") if colour else "|") * section.level
        lines += [
            f"{frame}{line}{frame}"
            for line in _section_lines(section, width - 2 * section.level, colour=colour)
        ]
    return "".join(f"{line}\n" for line in lines)


def _collect(sections: list[_Section], title: str | None, value: Any, level: int) -> None:
    """Cut a value into sections. Without a title it goes on in the last one."""
    if not value:
        return
    if title is not None:
        sections.append(_Section(title, level))
    if isinstance(value, dict):
        _collect_structure(sections, value, level)
    elif all(isinstance(item, dict) for item in value):
        _collect_structures(sections, title or "", value, level)
    else:
        for item in value:
            if isinstance(item, dict):
                raise _no_table("such a mixture")
            if not isinstance(item, list):
                sections[-1].add(item)
            elif any(isinstance(each, dict | list) for each in item):
                _collect(sections, None, item, 0)
            else:
                sections[-1].add(*item)


def _collect_structure(sections: list[_Section], value: dict[str, Any], level: int) -> None:
    scalars, nested = _names([value])
    section = sections[-1]
    if len(scalars) == 1:
        section.add(scalars[0], value[scalars[0]])
    elif scalars:
        section.headers = scalars
        section.add(*(value[name] for name in scalars))
    for name in nested:
        _collect(sections, name, value[name], level + 1)


def _collect_structures(
    sections: list[_Section], title: str, values: list[Any], level: int
) -> None:
    scalars, nested = _names(values)
    sections[-1].headers = scalars
    for number, value in enumerate(values):
        if number and nested:
            sections.append(_Section(title, level, scalars))
        sections[-1].add(*(value.get(name, "") for name in scalars))
        for name in nested:
            _collect(sections, name, value.get(name), level + 1)


def _names(values: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Return the names of scalars, and of structures and lists, sorted."""
    found: tuple[set[str], set[str]] = set(), set()
    for name, each in itertools.chain.from_iterable(value.items() for value in values):
        found[isinstance(each, dict | list)].add(name)
    if found[0] & found[1]:
        raise _no_table("such a mixture")
    return sorted(found[0]), sorted(found[1])


def _no_table(what: str) -> BadValueError:
    return BadValueError(f"no table can show {what}", hint="use --output json")


def _section_lines(section: _Section, width: int, *, colour: bool) -> list[str]:
    lines = []
    if section.title:
        lines.append(_centred(section.title, width, "|"))
        if not section.headers and not section.rows:
            lines.append("+" + "-" * (width - 2) + "+")
    widths = _stretched([each + _PADDING for each in section.column_widths()], width)
    if not widths:
        return lines
    rule = "+" + "".join("-" * (each - 1) + "+" for each in [widths[0] - 1, *widths[1:]])
    edges = ["|", *[""] * (len(widths) - 1)]
    if section.headers:
        cells = zip(section.headers, widths, edges, strict=True)
        lines += [rule, "".join(_centred(*cell) for cell in cells)]
    lines.append(rule)
    for row in section.rows:
        cells = zip(row, widths, edges, strict=True)
        lines.append("".join(_left(*cell, _CELL if colour else "{}") for cell in cells))
    return [*lines, rule] if section.rows else lines


def _stretched(widths: list[int], total: int) -> list[int]:
    """Widths in the same proportion that add up to `total`."""
    if not widths:
        return []
    factor = total / sum(widths)
    widths = [round(factor * width) for width in widths]
    off = sum(widths) - total
    order = range(len(widths)) if off > 0 else range(len(widths) - 1, -1, -1)
    for index in itertools.islice(itertools.cycle(order), abs(off)):
        widths[index] -= 1 if off > 0 else -1
    return widths


def _centred(text: str, width: int, left_edge: str) -> str:
    start = left_edge + " " * (width // 2 - _width(text) // 2 - 1) + text
    return start + " " * (width - _width(start) - 1) + "|"


def _left(text: str, width: int, left_edge: str, style: str) -> str:
    padding = "  " if _width(text) + 2 + len(left_edge) + 1 <= width else ""
    used = len(left_edge) + len(padding) + _width(text)
    return left_edge + padding + style.format(text) + " " * (width - used - 1) + "|"


def _width(text: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(c) in _WIDE) for c in text)
