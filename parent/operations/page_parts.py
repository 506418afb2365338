"""What several sections of the page draw in the same way. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from parent.operations.history import INTERVAL, SAMPLES
from parent.operations.markup import element
from parent.units import duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from xml.etree.ElementTree import Element

SPAN: Final = duration(INTERVAL * SAMPLES)
"""How far back curves reach."""

PLACES: Final = SAMPLES
"""Values that a curve has room for."""

MANY: Final = 6
"""With more enclaves their log lines are folded away at first."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One number of the summary; `kind` is a class, for its colour."""

    title: str
    value: str
    detail: str = ""
    kind: str = ""


def heading(text: str, id_: str, count: int | None = None) -> Element:
    """Return the heading of a section, with how many things are in it."""
    counted = element("span", f" ({count})", class_="count") if count is not None else None
    return element("h2", text, counted, id=id_)


def facts(pairs: Iterable[tuple[str, str]], *, class_: str = "facts") -> Element:
    """Return names and values, side by side."""
    return element(
        "dl",
        *(
            element("div", element("dt", name), element("dd", element("bdi", value)))
            for name, value in pairs
        ),
        class_=class_,
    )


def plural(count: int, one: str, many: str = "") -> str:
    """Return ``1 line``, ``2 lines``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def mostly(kinds: Mapping[str, int]) -> str:
    """Return what there is of each kind, the most frequent first: ``3 cid, 1 limit``."""
    ranked = sorted(kinds.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:,} {kind}" for kind, count in ranked)


def newest(values: Sequence[float | None]) -> float:
    """Return the newest value; 0 if there is none."""
    return (values[-1] or 0.0) if values else 0.0


def last_lines(
    lines: Sequence[Mapping[str, Any]], now: float, *, of: str, open_: bool
) -> Element | None:
    """Return the last log lines of an enclave; None if there are none."""
    if not lines:
        return None
    items = []
    for line in lines:
        at = datetime.fromtimestamp(now - line["age"], UTC)
        stamp = element("time", f"{at:%H:%M:%S}", datetime=f"{at:%Y-%m-%dT%H:%M:%SZ}")
        items.append(element("li", stamp, " ", element("bdi", line["text"], dir="ltr")))
    summary = element(
        "summary", f"Last {plural(len(lines), 'log line')}",
        element("span", f" of {of}", class_="unseen"),
    )  # fmt: skip
    return element("details", summary, element("ol", *items), class_="lines", open=open_)
