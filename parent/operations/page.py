"""The page at ``/``: the state of a daemon for people, as one HTML document. No I/O.

It holds everything it needs, and works without its script, which only refreshes it. What enclaves,
nitro-cli and the configuration say is text to `markup`, so it stays text.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from parent.operations import page_enclaves, page_forwards, page_others
from parent.operations.markup import document, element, raw

if TYPE_CHECKING:
    from collections.abc import Mapping
    from xml.etree.ElementTree import Element

    from parent.operations.history import Sample

CONTENT_TYPE: Final = "text/html; charset=utf-8"

_FOLDER = files("parent.operations")
_STYLE: Final = (_FOLDER / "page.css").read_text(encoding="utf-8")
_SCRIPT: Final = (_FOLDER / "page.js").read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the source expression that allows one inline script or style (CSP Level 3)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_POLICY: Final = (
    "default-src 'none'",
    f"style-src {_hash(_STYLE)}",
    f"script-src {_hash(_SCRIPT)}",
    "connect-src 'self'",
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)

HEADERS: Final = (
    ("Content-Security-Policy", "; ".join(_POLICY)),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
)

_COLOURS: Final = {"ok": "%230ca30c", "failing": "%23d03b3b"}


@dataclass(frozen=True, slots=True)
class View:
    """What the page shows.

    Attributes:
        state: what `state.state` returns.
        samples: of the last minutes, oldest first; the last one is of this state.
        now: seconds since 1970.
        host: the name of this machine.
    """

    state: Mapping[str, Any]
    samples: tuple[Sample, ...]
    now: float
    host: str = ""


def page(view: View) -> bytes:
    """Return the document."""
    status = str(view.state["status"])
    return document(element("html", _head(view, status), _body(view, status), lang="en"))


def _head(view: View, status: str) -> Element:
    colour = _COLOURS.get(status, _COLOURS["failing"])
    icon = (
        "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>"
        f"<circle cx='8' cy='8' r='7' fill='{colour}'/></svg>"
    )
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{status}: enclave-parent" + (f" on {view.host}" if view.host else "")),
        element("link", rel="icon", href=icon),
        raw("style", _STYLE),
    )


def _body(view: View, status: str) -> Element:
    state, samples, now = view.state, view.samples, view.now
    sections = (
        _trouble(state["components"]),
        _summary(view),
        page_enclaves.section(state, samples, now),
        page_forwards.section(state, samples),
        page_others.credentials(state, now),
        page_others.logs(state, samples, now),
    )
    return element(
        "body",
        element("a", "Skip to the state", href="#main", class_="skip"),
        _header(view, status),
        element("main", *sections, id="main", tabindex=-1),
        element(
            "footer",
            element("p", "The same as data: ", *_links("/status", "/healthz", "/metrics")),
            element("p", id="live", role="status", class_="live"),
        ),
        raw("script", _SCRIPT),
    )


def _links(*paths: str) -> list[Element | str]:
    parts: list[Element | str] = []
    for path in paths:
        # Relative: the page may be behind a reverse proxy, under a path.
        parts += [element("a", path, href=path.removeprefix("/")), " "]
    return parts


def _header(view: View, status: str) -> Element:
    at = datetime.fromtimestamp(view.now, UTC)
    time = element("time", f"{at:%Y-%m-%d %H:%M:%S} UTC", datetime=f"{at:%Y-%m-%dT%H:%M:%SZ}")
    return element(
        "header",
        element(
            "div",
            element("h1", "enclave-parent"),
            element("p", status, id="status", role="status", class_=f"badge {_kind(status)}"),
            class_="title",
        ),
        element(
            "p",
            element("bdi", view.host) if view.host else None,
            " \u00b7 " if view.host else None,
            f"version {view.state['version']} \u00b7 ",
            time,
            class_="about",
        ),
        element(
            "p",
            element("a", "Refresh", href="./", class_="button"),
            element(
                "button", "Pause", type="button", id="pause", hidden=True, aria_pressed="false"
            ),
            class_="actions",
        ),
    )


def _kind(status: str) -> str:
    return "good" if status == "ok" else "bad"


def _trouble(components: Mapping[str, Any]) -> Element:
    """Say what is not healthy, first: a reader should not have to look for it."""
    items = [
        element("li", element("bdi", name, class_="name"), ": ", element("bdi", each["detail"]))
        for name, each in components.items()
        if not each["healthy"]
    ]
    shown = [element("h2", "Not healthy", id="h-trouble"), element("ul", *items)] if items else []
    return element(
        "section", *shown, id="trouble", class_="trouble", hidden=not items,
        aria_labelledby="h-trouble" if items else None,
    )  # fmt: skip


def _summary(view: View) -> Element:
    tiles = [
        *page_enclaves.tiles(view.state),
        *page_forwards.tiles(view.state, view.samples),
        *page_others.tiles(view.state, view.now),
    ]
    drawn = [
        element("div", element("dt", tile.title), element("dd", tile.value, class_=tile.kind),
                element("dd", tile.detail, class_="more") if tile.detail else None)
        for tile in tiles
    ]  # fmt: skip
    return element(
        "section", element("h2", "Summary", id="h-summary", class_="unseen"),
        element("dl", *drawn, class_="tiles"), id="summary", aria_labelledby="h-summary",
    )  # fmt: skip
