"""A table of figures as an SVG: each figure with a bar below it. No I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Sequence

CHARACTER: Final = 7.6
"""Width of a character of the monospaced font at 13 px, with room to spare: fonts differ."""

GAP: Final = 22.0
ROW: Final = 34.0
BAR: Final = 5.0

STYLE: Final = """
svg { background: #fdfdfc; font: 13px ui-monospace, "Liberation Mono", Menlo, monospace; }
text { fill: #0b0b0b; } .head { fill: #52514e; } .track { fill: #e6e5df; } .bar { fill: #1f6cc9; }
@media (prefers-color-scheme: dark) {
  svg { background: #1b1b1a; } text { fill: #f5f5f3; } .head { fill: #c0beb5; }
  .track { fill: #32312e; } .bar { fill: #5ba0f0; }
}
"""

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def number(cell: str) -> float | None:
    """Return the figure that a cell begins with; None if it begins with none."""
    found = _NUMBER.match(cell.replace(",", ""))
    return float(found[0]) if found else None


def drawn(header: Sequence[str], rows: Sequence[Sequence[str]], *, across: bool = False) -> str:
    """Return the picture.

    Args:
        header: of the columns; the first one names the rows.
        rows: their cells.
        across: the figures of a row are of one kind, and the longest bar is the row's. Otherwise
            those of a column are.
    """
    widths = [max(len(line[n]) for line in (header, *rows)) for n in range(len(header))]
    if across:  # Bars of one length stand for one value.
        widths[1:] = [max(widths[1:])] * (len(widths) - 1)
    lefts = [GAP]
    for width in widths:
        lefts.append(lefts[-1] + width * CHARACTER + GAP)
    size = {"width": f"{lefts[-1]:.0f}", "height": f"{ROW * (len(rows) + 1) + GAP:.0f}"}
    box = {
        "viewBox": f"0 0 {size['width']} {size['height']}",
        "xmlns": "http://www.w3.org/2000/svg",
    }
    svg = ET.Element("svg", {**size, **box, "role": "img", "aria-label": _told(header, rows)})
    ET.SubElement(svg, "style").text = STYLE
    figures = [[number(cell) for cell in row[1:]] for row in rows]
    for n, name in enumerate(header):
        _text(svg, name, lefts[n], ROW - 8, "head")
    for line, (row, values) in enumerate(zip(rows, figures, strict=True)):
        y = ROW * (line + 2) - 8
        _text(svg, row[0], lefts[0], y)
        for n, (cell, value) in enumerate(zip(row[1:], values, strict=True), 1):
            _text(svg, cell, lefts[n], y)
            beside = values if across else [other[n - 1] for other in figures]
            most = max((each for each in beside if each is not None), default=0.0)
            if value is not None and most > 0:
                whole = widths[n] * CHARACTER
                _bar(svg, lefts[n], y + 6, whole, "track")
                _bar(svg, lefts[n], y + 6, whole * max(value, 0.0) / most, "bar")
    return ET.tostring(svg, encoding="unicode") + "\n"


def _told(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "; ".join(
        f"{row[0]}: " + ", ".join(f"{n} {c}" for n, c in zip(header[1:], row[1:], strict=True) if c)
        for row in rows
    )


def _text(svg: ET.Element, text: str, x: float, y: float, kind: str = "") -> None:
    made = ET.SubElement(svg, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}"})
    if kind:
        made.set("class", kind)
    made.text = text


def _bar(svg: ET.Element, x: float, y: float, width: float, kind: str) -> None:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{width:.1f}", "height": f"{BAR:.0f}"}
    ET.SubElement(svg, "rect", {"class": kind, "rx": "2", **place})
