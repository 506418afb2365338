"""The page's forwards: connections, bytes, and what was rejected or failed. No I/O."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from parent.hosts_used import most_used
from parent.operations.charts import bar, columns, curves
from parent.operations.history import rates
from parent.operations.markup import element
from parent.operations.page_parts import PLACES, SPAN, Tile, heading, mostly, newest
from parent.units import size

if TYPE_CHECKING:
    from collections.abc import Mapping
    from xml.etree.ElementTree import Element

    from parent.operations.history import Sample

_NEARLY_FULL: Final = 0.8

_HOSTS: Final = 8
"""Hosts of one egress listener; more would hide the other forwards."""

_COLUMNS: Final = ("Forward", "Connections", "Bytes", "Rejected", "Failed")


def tiles(state: Mapping[str, Any], samples: tuple[Sample, ...]) -> list[Tile]:
    """Return connections, bytes and rejections of all forwards, if there is a proxy."""
    if "proxy" not in state["components"]:
        return []
    forwards = state.get("forwards", ())
    gauges, counters = ([forward[key] for forward in forwards] for key in ("gauges", "counters"))
    open_ = sum(each["connections"] + each["connecting"] for each in gauges)
    waiting = sum(each["waiting"] for each in gauges)
    up, down = (sum(each["bytes"].get(way, 0) for each in counters) for way in ("up", "down"))
    rejected = sum(sum(each["rejected"].values()) for each in counters)
    grown = rates(samples, lambda sample: sum(sample.up.values()) + sum(sample.down.values()))
    relayed = sum(each["relayed"] for each in counters)
    # Rejections in these minutes: those of last month are no news.
    recent = any(rates(samples, lambda sample: sum(sample.rejected.values())))
    return [
        Tile("Connections open", f"{open_:,}", f"{waiting:,} waiting", "warn" if waiting else ""),
        Tile("Relayed", size(up + down), f"{size(newest(grown))}/s, {relayed:,} connections"),
        Tile("Rejected", f"{rejected:,}", f"some in the last {SPAN}" if recent else "",
             "warn" if recent else ""),
    ]  # fmt: skip


def section(state: Mapping[str, Any], samples: tuple[Sample, ...]) -> Element:
    """Return the section."""
    forwards = state.get("forwards")
    content = [element("p", "The configuration has no forwards.", class_="none")]
    if forwards is None and "proxy" in state["components"]:
        content = [element("p", "The proxy does not respond.", class_="none")]
    elif forwards:
        names = [element("th", name, scope="col", role="columnheader") for name in _COLUMNS]
        content = [
            element(
                "table",
                element("caption", _caption(), class_="note"),
                element("thead", element("tr", *names, role="row"), role="rowgroup"),
                element("tbody", *(_row(each, samples) for each in forwards), role="rowgroup"),
                role="table",
            )
        ]
    leaving = state.get("leaving")
    if leaving:
        content.append(
            element(
                "p", f"{leaving:,} connections of forwards that a reload removed", class_="note"
            )
        )
    return element(
        "section", heading("Forwards", "h-forwards", len(forwards or ())), *content,
        id="forwards", aria_labelledby="h-forwards",
    )  # fmt: skip


def _caption() -> Element:
    return element(
        "span",
        element("span", "up", class_="key up"),
        ", from the enclave; ",
        element("span", "down", class_="key down"),
        f", to it; curves show the last {SPAN}",
    )


def _row(forward: Mapping[str, Any], samples: tuple[Sample, ...]) -> Element:
    now, so_far = forward["gauges"], forward["counters"]
    cells = (
        _connections(now, so_far),
        _bytes(forward["name"], so_far["bytes"], samples),
        _rejected(forward["name"], so_far["rejected"], samples),
        _failed(so_far),
    )
    target = str(forward["target"]).removeprefix("tcp://")
    name = element(
        "th",
        element("bdi", forward["name"], class_="name"),
        element("span", element("bdi", forward["listen"]), class_="more"),
        element("span", "to ", element("bdi", target), class_="more"),
        *_hosts(forward.get("hosts", {})),
        scope="row",
        role="rowheader",
    )
    shown = (
        element("td", *cell, role="cell", data_label=label)
        for label, cell in zip(_COLUMNS[1:], cells, strict=True)
    )
    return element("tr", name, *shown, role="row")


def _hosts(hosts: Mapping[str, Any]) -> list[Element]:
    """Return a line for each host that clients of an egress listener use."""
    drawn = []
    for host, so_far in most_used(hosts, _HOSTS):
        moved = sum(so_far["bytes"].values())
        told = f": {so_far['relayed']:,} tunnels, {size(moved)}"
        if so_far["connect_failures"]:
            told += f"; not connected: {mostly(so_far['connect_failures'])}"
        drawn.append(element("span", element("bdi", host), told, class_="more"))
    if len(hosts) > _HOSTS:
        drawn.append(element("span", f"and {len(hosts) - _HOSTS:,} more hosts", class_="more"))
    return drawn


def _connections(now: Mapping[str, Any], so_far: Mapping[str, Any]) -> list[Element]:
    open_, limit = now["connections"] + now["connecting"], now["connection_limit"]
    text = f"{open_:,} of {limit:,}"
    if now["waiting"]:
        text += f", {now['waiting']:,} waiting"
    share = open_ / limit if limit else 1.0
    return [
        element("span", text, class_="value"),
        bar(share, f"{text} connections", kind="high" if share >= _NEARLY_FULL else ""),
        element("span", f"{so_far['relayed']:,} so far", class_="more"),
    ]


def _bytes(name: str, so_far: Mapping[str, int], samples: tuple[Sample, ...]) -> list[Element]:
    up = rates(samples, lambda sample: sample.up.get(name))
    down = rates(samples, lambda sample: sample.down.get(name))
    highest = max((value for value in (*up, *down) if value is not None), default=0.0)
    described = (
        f"bytes a second in the last {SPAN}: up {size(newest(up))}, down {size(newest(down))}, "
        f"at most {size(highest)}"
    )
    return [
        element(
            "span",
            element("span", "up ", size(so_far.get("up", 0)), class_="key up"),
            " ",
            element("span", "down ", size(so_far.get("down", 0)), class_="key down"),
            class_="value",
        ),
        curves([("down", down), ("up", up)], described, places=PLACES),
        element("span", f"{size(newest(up))}/s up, {size(newest(down))}/s down", class_="more"),
    ]


def _rejected(name: str, kinds: Mapping[str, int], samples: tuple[Sample, ...]) -> list[Element]:
    grown = rates(samples, partial(_of, name))
    total = sum(kinds.values())
    drawn = [element("span", f"{total:,}", class_="value")]
    if total:
        recent = any(grown)
        described = f"rejected in the last {SPAN}: {'some' if recent else 'none'}"
        drawn.append(columns(grown, described, places=PLACES, kind="bad"))
        drawn.append(element("span", mostly(kinds), class_="more"))
    return drawn


def _of(name: str, sample: Sample) -> int | None:
    return sample.rejected.get(name)


def _failed(so_far: Mapping[str, Any]) -> list[Element]:
    failures, broken = so_far["connect_failures"], so_far["broken"]
    total = sum(failures.values()) + sum(broken.values())
    drawn = [element("span", f"{total:,}", class_="value")]
    for what, kinds in (("not connected", failures), ("broken", broken)):
        if kinds:
            drawn.append(element("span", f"{what}: {mostly(kinds)}", class_="more"))
    return drawn
