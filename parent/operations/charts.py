"""Small charts as inline SVG: a bar, curves, columns, a strip of states. No I/O.

Each is an image with a description, for people who cannot see it. Sizes are attributes and colours
are classes, so that the page needs no inline style (its Content-Security-Policy has none).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from parent.operations.markup import element

if TYPE_CHECKING:
    from collections.abc import Sequence
    from xml.etree.ElementTree import Element

    Values = Sequence[float | None]

WIDTH: Final = 120.0
HEIGHT: Final = 24.0
_BAR: Final = 6.0


def bar(share: float, description: str, *, kind: str = "") -> Element:
    """Draw how much of a whole there is.

    Args:
        share: 0 to 1; what is beyond is cut.
        description: for a screen reader.
        kind: a class, for the colour.
    """
    filled = min(max(share, 0.0), 1.0) * WIDTH
    # So that a little is not drawn as nothing.
    shown = max(filled, 2.0) if filled else 0.0
    track = element("rect", class_="track", width=WIDTH, height=_BAR)
    fill = element("rect", class_=f"fill {kind}".strip(), width=shown, height=_BAR)
    return _chart("bar", description, _BAR, track, fill)


def curves(series: Sequence[tuple[str, Values]], description: str, *, places: int) -> Element:
    """Draw values over time, the newest at the right; all to one scale that begins at 0.

    Args:
        series: a class and the values of each curve; None breaks the curve.
        description: for a screen reader.
        places: for how many values there is room.
    """
    highest = max((v for _, values in series for v in values if v is not None), default=0.0)
    drawn = []
    for kind, values in series if highest else ():
        recent = values[-places:]
        offset = places - len(recent)
        points = [
            (WIDTH * (offset + n + 0.5) / places, _y(value, highest))
            for n, value in enumerate(recent)
            if value is not None
        ]
        runs = _runs(recent)
        start = 0
        for length in runs:
            run = points[start : start + length]
            start += length
            if len(run) == 1:  # A line of no length is not drawn.
                run = [run[0], (run[0][0] + 1.0, run[0][1])]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in run)
            drawn.append(element("polyline", class_=kind, points=path))
    return _chart("curves", description, HEIGHT, _baseline(), *drawn)


def columns(values: Values, description: str, *, places: int, kind: str = "") -> Element:
    """Draw a column for each value, the newest at the right."""
    recent = values[-places:]
    highest = max((value for value in recent if value is not None), default=0.0)
    step = WIDTH / places
    drawn = []
    for n, value in enumerate(recent, places - len(recent)):
        if value:
            top = min(_y(value, highest), HEIGHT - 3.0)
            drawn.append(
                element(
                    "rect", class_=f"column {kind}".strip(), x=n * step + 0.2, y=top,
                    width=step - 0.4, height=HEIGHT - 1.0 - top,
                )
            )  # fmt: skip
    return _chart("columns", description, HEIGHT, _baseline(), *drawn)


def strip(kinds: Sequence[str], description: str, *, places: int) -> Element:
    """Draw a row of coloured pieces, one for each class, the newest at the right."""
    recent = kinds[-places:]
    step = WIDTH / places
    drawn: list[Element] = []
    start = 0
    for n in range(1, len(recent) + 1):
        if n == len(recent) or recent[n] != recent[start]:
            x = (places - len(recent) + start) * step
            width = (n - start) * step
            piece = f"piece {recent[start]}"
            drawn.append(element("rect", class_=piece, x=x, width=width, height=_BAR))
            start = n
    track = element("rect", class_="track", width=WIDTH, height=_BAR)
    return _chart("strip", description, _BAR, track, *drawn)


def _chart(kind: str, description: str, height: float, *content: Element) -> Element:
    return element(
        "svg", *content, class_=f"chart {kind}", viewBox=f"0 0 {WIDTH:g} {height:g}",
        preserveAspectRatio="none", role="img", aria_label=description,
    )  # fmt: skip


def _baseline() -> Element:
    return element("line", class_="base", x1=0, x2=WIDTH, y1=HEIGHT - 0.5, y2=HEIGHT - 0.5)


def _y(value: float, highest: float) -> float:
    share = value / highest if highest > 0 else 0.0
    return HEIGHT - 1.5 - share * (HEIGHT - 3.5)


def _runs(values: Values) -> list[int]:
    """Return the lengths of the stretches without None."""
    lengths, length = [], 0
    for value in [*values, None]:
        if value is not None:
            length += 1
        elif length:
            lengths.append(length)
            length = 0
    return lengths
