"""The page's credentials and log sources. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from parent.operations.charts import bar, columns
from parent.operations.history import rates
from parent.operations.markup import element
from parent.operations.page_enclaves import enclaves
from parent.operations.page_parts import (
    PLACES,
    SPAN,
    Tile,
    facts,
    heading,
    last_lines,
    newest,
    plural,
)
from parent.units import duration, size

if TYPE_CHECKING:
    from collections.abc import Mapping
    from xml.etree.ElementTree import Element

    from parent.operations.history import Sample

_SOON: Final = 300.0
"""Seconds to expiry that ask for a look: agents renew at half of the time left."""


def tiles(state: Mapping[str, Any], now: float) -> list[Tile]:
    """Return the age of the credentials, if the daemon serves any."""
    values = _values(state, "credentials")
    if not values:
        return []
    if values["renewed_at"] is None or not values["source"]:
        return [Tile("Credentials", "none", str(values["failure"] or ""), "bad")]
    expires = values["expires_at"]
    left = None if expires is None else expires - now
    detail = "without an expiration" if left is None else f"{duration(left)} left"
    kind = "warn" if left is not None and left < _SOON else ""
    return [Tile("Credentials' age", duration(now - values["renewed_at"]), detail, kind)]


def credentials(state: Mapping[str, Any], now: float) -> Element | None:
    """Return the section; None if the daemon serves no credentials."""
    values = _values(state, "credentials")
    if not values:
        return None
    renewed, expires = values["renewed_at"], values["expires_at"]
    content: list[Element] = []
    if renewed is None or not values["source"]:
        content.append(element("p", "There are none.", class_="none"))
    elif expires is not None and expires > renewed:
        left = f"{duration(now - renewed)} old, {duration(expires - now)} left"
        content.append(element("p", left, class_="value"))
        kind = "high" if expires - now < _SOON else ""
        content.append(bar((now - renewed) / (expires - renewed), left, kind=kind))
    else:
        content.append(element("p", f"{duration(now - renewed)} old", class_="value"))
    content.append(
        facts(
            [
                ("Source", str(values["source"] or "none")),
                ("Renewals", f"{values['renewals']:,}"),
                ("Failures", f"{values['failures']:,}"),
                ("Last failure", str(values["failure"] or "none")),
            ]
        )
    )
    return element(
        "section", heading("Credentials", "h-credentials"),
        element("div", *content, class_="card"), id="credentials", aria_labelledby="h-credentials",
    )  # fmt: skip


def logs(state: Mapping[str, Any], samples: tuple[Sample, ...], now: float) -> Element | None:
    """Return the section; None if the daemon has no log sink."""
    values = _values(state, "logs")
    if not values:
        return None
    configured = {each["cid"] for each in enclaves(state)}
    lines = {each["cid"]: each["lines"] for each in state.get("last_lines", ())}
    cards = [
        _source(
            source,
            samples,
            # Those of a configured enclave are beside its state.
            None
            if source["cid"] in configured
            else last_lines(lines.get(source["cid"], ()), now, of=str(source["name"]), open_=True),
        )
        for source in values["sources"]
    ]
    about = (
        f"{plural(values['connections'], 'connection')}, {values['rejected']:,} rejected; "
        f"{plural(values['lost'], 'line')} lost"
    )
    return element(
        "section", heading("Logs", "h-logs", len(cards)), element("p", about, class_="note"),
        element("ul", *cards, class_="cards") if cards else None,
        id="logs", aria_labelledby="h-logs",
    )  # fmt: skip


def _source(
    source: Mapping[str, Any], samples: tuple[Sample, ...], lines: Element | None
) -> Element:
    cid = source["cid"]
    grown = rates(samples, lambda sample: sample.lines.get(cid))
    described = f"lines a second in the last {SPAN}: now {newest(grown):.1f}"
    return element(
        "li",
        element(
            "div",
            element("h3", element("bdi", str(source["name"]))),
            element("span", f"{newest(grown):.1f} lines/s", class_="since"),
            class_="head",
        ),
        columns(grown, described, places=PLACES, kind="lines"),
        facts(
            [
                ("Lines", f"{source['lines']:,}"),
                ("Dropped", f"{source['dropped']:,}"),
                ("Truncated", size(source["truncated"])),
            ]
        ),
        lines,
        class_="card",
    )


def _values(state: Mapping[str, Any], component: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = state["components"].get(component, {}).get("values", {})
    return found
