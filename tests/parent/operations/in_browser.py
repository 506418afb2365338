"""The page in headless Chromium: ``make test-page``. Not a part of ``make test``: it needs one.

``python -m tests.parent.operations.in_browser docs/page.png`` makes the picture in docs/parent.md;
``pngquant --force --ext .png 64 docs/page.png`` makes it small.
"""

from __future__ import annotations

import itertools
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.parent.operations import daemons
from tests.parent.operations.browser import ELEMENT, ENTER, TAB, Browser, missing
from tests.waiting import eventually
from vsock_proxy.net.addresses import TcpAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parent.component import Component

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")

DAEMONS: dict[str, Callable[[], list[Component]]] = {
    "0 enclaves": lambda: daemons.ordinary(0),
    "3 enclaves": lambda: daemons.ordinary(3),
    "40 enclaves": lambda: daemons.ordinary(40),
    "hostile": daemons.hostile,
}

WIDTHS = {"phone": 360, "tablet": 800, "desktop": 1280}

TOO_WIDE = """
const wide = [...document.querySelectorAll("body *")].filter(e => {
  if (e.closest(".unseen, .skip, thead")) return false;
  const box = e.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1);
});
return [document.documentElement.scrollWidth - innerWidth, wide.map(e => e.outerHTML)];
"""

FAINT = """
function rgba(text) { const n = text.match(/[\\d.]+/g).map(Number); return [...n, 1].slice(0, 4); }
function light([r, g, b]) {
  const curve = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const [x, y, z] = [r, g, b].map(c => curve(c / 255));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
}
function behind(e) {
  for (; e; e = e.parentElement) {
    const c = rgba(getComputedStyle(e).backgroundColor);
    if (c[3] === 1) return c;
  }
  return [255, 255, 255, 1];
}
const faint = [];
for (const e of document.querySelectorAll("body *")) {
  const texts = [...e.childNodes].filter(n => n.nodeType === 3 && n.data.trim());
  if (!texts.length || e.nodeName === "SCRIPT") continue;
  const [a, b] = [light(rgba(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(e.outerHTML);
}
return faint;
"""
"""Texts of less than 4.5 to 1 to what is behind them (WCAG 2.2, 1.4.3)."""

FASTER = """
const later = window.setTimeout;
window.setTimeout = (f, ms, ...rest) => later(f, ms === 5000 ? 50 : ms, ...rest);
"""
"""The page refreshes every 5 s; a test does not wait for that."""


@pytest.fixture(scope="module")
def process() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(process: Browser) -> Iterator[Browser]:
    """The module's browser; a page that is left no longer asks for a daemon that is gone."""
    yield process
    process.look("about:blank")
    complaints(process)


@contextmanager
def served(components: Callable[[], list[Component]], **settings: Any) -> Iterator[str]:
    """Serve a daemon's page; yields its URL."""
    service = daemons.service(components, **settings)
    moments = itertools.count(600.0, -1e-9)
    service._monotonic = lambda: next(moments)  # It goes back, so no page is kept.
    service.start()
    try:
        assert isinstance(service.server.address, TcpAddress)
        yield f"http://127.0.0.1:{service.server.address.port}/"
    finally:
        service.stop(0.1)  # Chromium keeps a connection ahead of its next request.


def complaints(browser: Browser) -> list[str]:
    """What the console has, violations of the policy among them, since this was last called."""
    entries = browser.command("POST", "/se/log", type="browser")
    return [entry["message"] for entry in entries]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", DAEMONS)
def test_it_fits_and_can_be_read(browser: Browser, name: str, width: str, dark: bool) -> None:
    with served(DAEMONS[name], log_lines=20) as url:
        browser.look(url, width=WIDTHS[width], dark=dark)
        browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert browser.run(TOO_WIDE) == [0, []]
        assert browser.run(FAINT) == []
        assert browser.run("return getComputedStyle(document.body).colorScheme") == "light dark"
        background = browser.run("return getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(15, 15, 14)") is dark
        assert complaints(browser) == []


@pytest.mark.parametrize("scripts", [True, False], ids=["with script", "without"])
def test_hostile_text_does_nothing(browser: Browser, scripts: bool) -> None:
    with served(daemons.hostile, log_lines=20) as url:
        browser.look(url, scripts=scripts)
        page = browser.command("GET", "/source")
        assert "taken</h1>" not in page.replace("&lt;h1&gt;taken&lt;/h1&gt;", "")
        assert browser.command("GET", "/title") == "failing: enclave-parent on parent-1"
        assert browser.command("GET", "/url") == url
        assert len(browser.find("h1, script, style, img, meta[http-equiv]")) == 3
        assert len(browser.find("main > section")) == 6
        assert complaints(browser) == []


def test_marks_do_not_pile_up_over_other_lines(browser: Browser) -> None:
    """A name of many combining marks is drawn within its own box."""
    with served(daemons.hostile) as url:
        browser.look(url)
        piled = browser.run(
            "return [...document.querySelectorAll('bdi')]"
            ".filter(e => /\\u0301/.test(e.textContent))"
            ".map(e => { for (; e; e = e.parentElement)"
            " if (getComputedStyle(e).overflowY === 'clip') return true; return false; })"
        )
        assert len(piled) > 5
        assert all(piled)


def test_it_asks_nobody_else(browser: Browser) -> None:
    with served(daemons.ordinary) as url:
        browser.look(url)
        asked = browser.run("return performance.getEntriesByType('resource').map(e => e.name)")
        assert [name for name in asked if not name.startswith("data:")] == []
        assert browser.command("GET", "/cookie") == []
        assert browser.run("return localStorage.length + sessionStorage.length") == 0


def test_the_policy_holds(browser: Browser) -> None:
    """If markup got in all the same, it would do nothing."""
    with served(daemons.ordinary) as url:
        browser.look(url)
        browser.run(
            "document.body.insertAdjacentHTML('beforeend',"
            ' \'<img id=x src=/livez onerror="document.title=1"><p style="color:red" id=y>y</p>\');'
            "const s = document.createElement('script'); s.text = 'document.title = 2';"
            "document.body.append(s)"
        )
        eventually(lambda: len(complaints(browser)) > 0)
        assert browser.command("GET", "/title") == "failing: enclave-parent on parent-1"
        assert browser.run("return getComputedStyle(document.getElementById('y')).color") != (
            "rgb(255, 0, 0)"
        )
        blocked = browser.run(
            "return fetch('http://127.0.0.2:9/').then(() => 'sent', e => e.name + e.message)"
        )
        assert "Failed to fetch" in blocked
        complaints(browser)


def test_without_scripts_it_is_the_same_page(browser: Browser) -> None:
    with served(daemons.ordinary) as url:
        texts = []
        for scripts in (True, False):
            browser.look(url, scripts=scripts)
            (main,) = browser.find("main")
            texts.append(browser.command("GET", f"/element/{main}/text"))
        (pause,) = browser.find("#pause")
        assert browser.command("GET", f"/element/{pause}/displayed") is False
        (link,) = browser.find("a.button")
        browser.command("POST", f"/element/{link}/click")
        assert browser.command("GET", "/url") == url
    assert texts[0] == texts[1]
    assert "boot: 2 interfaces" in texts[0]


@pytest.fixture
def faster(browser: Browser) -> Iterator[None]:
    added = browser.devtools("Page.addScriptToEvaluateOnNewDocument", source=FASTER)
    yield
    browser.devtools("Page.removeScriptToEvaluateOnNewDocument", **added)


def text(browser: Browser, selector: str) -> str:
    return str(browser.run("return document.querySelector(arguments[0]).textContent", selector))


def test_it_refreshes_in_place(browser: Browser, faster: None) -> None:
    shown = [daemons.ordinary(3)]
    with served(lambda: shown[0]) as url:
        browser.look(url)
        browser.run(
            "document.querySelectorAll('details')[0].open = false;"
            "document.querySelectorAll('summary')[1].focus(); window.kept = document.activeElement"
        )
        shown[0] = daemons.ordinary(40)
        eventually(lambda: "(40)" in text(browser, "#h-enclaves"))
        assert browser.run("return document.activeElement === window.kept")
        assert browser.run("return document.querySelectorAll('details')[0].open") is False
        shown[0] = daemons.ordinary(0)
        eventually(lambda: text(browser, "#status") == "ok")
        assert browser.command("GET", "/title").startswith("ok: ")
        assert "configuration has no enclaves" in text(browser, "#enclaves")
        shown[0] = daemons.hostile()
        eventually(lambda: text(browser, "#status") == "failing")
        assert len(browser.find("h1, script, style, img, meta[http-equiv]")) == 3
        assert complaints(browser) == []


def test_it_can_be_paused(browser: Browser, faster: None) -> None:
    shown = [daemons.ordinary(3)]
    with served(lambda: shown[0]) as url:
        browser.look(url)
        (pause,) = browser.find("#pause")
        browser.command("POST", f"/element/{pause}/click")
        assert browser.run("return arguments[0].ariaPressed", {ELEMENT: pause}) == "true"
        made = browser.run("return performance.getEntriesByType('resource').length")
        shown[0] = daemons.ordinary(40)
        # Three turns of the page's clock; one request may have been under way.
        browser.command(
            "POST", "/execute/async", args=[], script="window.setTimeout(arguments[0], 200)"
        )
        assert browser.run("return performance.getEntriesByType('resource').length") <= made + 1
        browser.command("POST", f"/element/{pause}/click")
        eventually(lambda: "(40)" in text(browser, "#h-enclaves"))


def test_it_says_that_the_daemon_is_gone(browser: Browser, faster: None) -> None:
    with served(daemons.ordinary) as url:
        browser.look(url)
    eventually(lambda: "No response from the daemon" in text(browser, "#live"))
    assert "(3)" in text(browser, "#h-enclaves"), "its last state stays"
    complaints(browser)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_keyboard_reaches_everything(browser: Browser, width: str) -> None:
    with served(daemons.ordinary) as url:
        browser.look(url, width=WIDTHS[width])
        wanted = browser.run(
            "return [...document.querySelectorAll('a, button, summary')]"
            ".filter(e => e.checkVisibility()).map(e => e.textContent)"
        )
        reached = []
        for _ in wanted:
            browser.press([TAB])
            focused, outline, tall = browser.run(
                "const e = document.activeElement, s = getComputedStyle(e);"
                "return [e.textContent, s.outlineStyle + s.outlineWidth, e.offsetHeight]"
            )
            reached.append(focused)
            assert outline == "solid3px", focused
            if not focused.startswith(("/", "Skip")):  # Links within a sentence are exempt.
                assert tall >= 24, "WCAG 2.2, 2.5.8"
        assert reached == wanted
        assert reached[:3] == ["Skip to the state", "Refresh", "Pause"]


def test_keys_skip_and_unfold(browser: Browser) -> None:
    with served(daemons.ordinary) as url:
        browser.look(url)
        browser.press([TAB, ENTER])
        assert browser.run("return document.activeElement.id") == "main"
        browser.press([TAB])
        assert browser.run("return document.activeElement.nodeName") == "SUMMARY"
        browser.press([ENTER])
        assert browser.run("return document.activeElement.parentElement.open") is False


@pytest.mark.parametrize("width", WIDTHS)
def test_what_a_screen_reader_gets(browser: Browser, width: str) -> None:
    with served(daemons.ordinary) as url:
        browser.look(url, width=WIDTHS[width])

        def roles(selector: str) -> list[tuple[str, str]]:
            return [(browser.role(e), browser.label(e)) for e in browser.find(selector)]

        assert roles("header, main, footer") == [
            ("banner", ""), ("main", ""), ("contentinfo", "")
        ]  # fmt: skip
        assert roles("h1") == [("heading", "enclave-parent")]
        regions = [
            "Not healthy",
            "Summary",
            "Enclaves (3)",
            "Forwards (4)",
            "Credentials",
            "Logs (3)",
        ]
        assert roles("main > section") == [("region", name) for name in regions]
        assert [role for role, _ in roles("#status, #live")] == ["status", "status"]
        assert roles("#pause") == [("button", "Pause")]
        ((role, name),) = roles("table")
        assert role == "table"
        assert name.startswith("up, from the enclave")
        assert {role for role, _ in roles("tr")} == {"row"}
        assert {role for role, _ in roles("td")} == {"cell"}
        columns = roles("thead th")
        assert columns[1] == ("columnheader", "Connections")
        assert roles("tbody th")[0][0] == "rowheader"
        images = roles("svg")
        assert len(images) > 10
        for role, name in images:
            assert role in ("image", "img")
            assert name
        assert ("image", "4 of 1,024 connections") in images or (
            "img", "4 of 1,024 connections") in images  # fmt: skip
        assert "Last 5 log lines of worker" in [
            browser.run("return arguments[0].textContent", {ELEMENT: e})
            for e in browser.find("summary")
        ]


def picture(path: Path) -> None:
    """Make the picture in the documentation."""
    with Browser() as browser, served(daemons.ordinary) as url:
        browser.look(url, width=1200)
        end = browser.run(
            "return document.querySelector('#forwards').getBoundingClientRect().bottom"
        )
        browser.look(url, width=1200, height=int(end) + 24)
        path.write_bytes(browser.screenshot(whole=False))


if __name__ == "__main__":
    picture(Path(sys.argv[1]))
