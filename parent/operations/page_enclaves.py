"""The page's enclaves: state, uptime, resources, and their last log lines. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from parent.operations.charts import strip
from parent.operations.markup import element
from parent.operations.page_parts import (
    MANY,
    PLACES,
    SPAN,
    Tile,
    facts,
    heading,
    last_lines,
    plural,
)
from parent.units import duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from xml.etree.ElementTree import Element

    from parent.operations.history import Sample

_KINDS: Final = {"running": "good", "failed": "bad", "conflict": "bad", "waiting": "warn"}
"""Classes of states; all others are on their way to one of these."""


def enclaves(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the values of each enclave of the configuration."""
    return [
        {**component["values"], "healthy": component["healthy"]}
        for name, component in state["components"].items()
        if name.startswith("enclave/") and "values" in component
    ]


def kind_of(state: str) -> str:
    """Return the class of an enclave's state."""
    return _KINDS.get(state, "busy")


def tiles(state: Mapping[str, Any]) -> list[Tile]:
    """Return how many of the enclaves run."""
    found = enclaves(state)
    running = sum(each["state"] == "running" for each in found)
    ended = sum(each["ended"] for each in found)
    detail = plural(ended, "end by itself", "ends by themselves") if ended else ""
    kind = "" if running == len(found) else "warn"
    return [Tile("Enclaves running", f"{running} of {len(found)}", detail, kind)]


def section(state: Mapping[str, Any], samples: Sequence[Sample], now: float) -> Element:
    """Return the section."""
    found = enclaves(state)
    lines = {each["cid"]: each["lines"] for each in state.get("last_lines", ())}
    cards = [
        _card(each, samples, lines.get(each["cid"], ()), now, unfolded=len(found) <= MANY)
        for each in found
    ]
    none = "The configuration has no enclaves, or they run elsewhere."
    return element(
        "section",
        heading("Enclaves", "h-enclaves", len(found)),
        element("ul", *cards, class_="cards") if cards else element("p", none, class_="none"),
        id="enclaves",
        aria_labelledby="h-enclaves",
    )


def _card(
    values: Mapping[str, Any],
    samples: Sequence[Sample],
    lines: Sequence[Mapping[str, Any]],
    now: float,
    *,
    unfolded: bool,
) -> Element:
    name, state = str(values["name"]), str(values["state"])
    past = [sample.states.get(name, "") for sample in samples]
    states = list(dict.fromkeys(filter(None, past))) or [state]
    cpus = " ".join(map(str, values["cpu_ids"])) or "none yet"
    told = "up" if state == "running" else "for"
    debug = element("span", "debug mode", class_="badge warn") if values["debug"] else None
    error = values["error"] if not values["healthy"] else ""
    return element(
        "li",
        element(
            "div",
            element("h3", element("bdi", name)),
            element("span", state, class_=f"badge {kind_of(state)}"),
            debug,
            element("span", f"{told} {duration(values['seconds'])}", class_="since"),
            class_="head",
        ),
        strip(
            [kind_of(each) if each else "unknown" for each in past],
            f"states in the last {SPAN}: {', '.join(states)}",
            places=PLACES,
        ),
        element("p", element("bdi", str(error)), class_="error") if error else None,
        facts(
            [
                ("CID", str(values["cid"])),
                ("CPUs", cpus),
                ("Memory", f"{values['memory_mib']:,} MiB"),
                ("Starts", f"{values['starts']:,}"),
                ("Ended", f"{values['ended']:,}"),
            ]
        ),
        facts(
            [
                ("Id", str(values["enclave_id"] or "none yet")),
                ("PCR0", str(values["pcr0"][:16] or "not measured yet")),
            ],
            class_="facts long",
        ),
        last_lines(lines, now, of=name, open_=unfolded),
        class_="card",
    )
