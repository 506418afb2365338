"""The page at ``/``, without a browser (in_browser.py has one): its markup, headers and numbers."""

from __future__ import annotations

import base64
import hashlib
import http.client
import itertools
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parent.http_server import Request, Response
from parent.http_server.hosts import may_be_named
from parent.operations import charts, page, read_operations_section
from parent.operations.history import INTERVAL, SAMPLES, History, rates
from parent.operations.markup import document, element
from parent.operations.state import state
from tests.parent.operations import daemons
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import TcpAddress
from vsock_proxy.service.settings import parse_settings

if TYPE_CHECKING:
    from parent.component import Component

DAEMONS = {
    "none": lambda: daemons.ordinary(0),
    "three": lambda: daemons.ordinary(3),
    "forty": lambda: daemons.ordinary(40),
    "hostile": daemons.hostile,
    "empty": list,
}

VOID = {"meta", "link"}
TAGS = {
    *("html", "head", "meta", "title", "link", "style", "body", "a", "header", "div", "h1", "h2"),
    *("h3", "p", "bdi", "time", "button", "main", "section", "dl", "dt", "dd", "ul", "ol", "li"),
    *("span", "details", "summary", "table", "caption", "thead", "tbody", "tr", "th", "td"),
    *("svg", "rect", "line", "polyline", "footer", "script"),
}


class Parsed(HTMLParser):
    """A document's elements; fails on what is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), "a doubled attribute"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


def respond(
    components: list[Component], path: str = "/", host: str = "localhost:9100", **kwargs: Any
) -> Response:
    service = daemons.service(lambda: components, **kwargs)
    return service._respond(Request("GET", path, host))


@pytest.mark.parametrize("name", DAEMONS)
def test_the_page_is_well_formed_and_holds_only_our_elements(name: str) -> None:
    parsed = Parsed(respond(DAEMONS[name]()).body.decode())
    assert {tag for tag, _ in parsed.elements} <= TAGS
    assert [tag for tag, _ in parsed.elements].count("script") == 1
    for tag, attributes in parsed.elements:
        assert not any(key.startswith("on") or key == "style" for key in attributes), tag
        assert attributes.get("src") is None
    targets = {a["href"] for _, a in parsed.elements if not str(a.get("href", "d")).startswith("d")}
    assert targets == {"#main", "./", "status", "healthz", "metrics"}
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in parsed.elements:
        if labelled := attributes.get("aria-labelledby"):
            assert labelled in ids


def test_what_is_hostile_is_shown_as_text() -> None:
    parsed = Parsed(respond(daemons.hostile(), log_lines=20).body.decode())
    for attack in daemons.MARKUP:
        if attack.isprintable():
            assert attack in parsed.text
    assert "\\u202e" in parsed.text
    assert not set("\0\x1b\x7f\u202e\u200b\u2066") & set(parsed.text)


@given(st.text(st.characters(), max_size=40), st.text(st.characters(), max_size=40))
def test_no_text_becomes_markup(text: str, value: str) -> None:
    made = document(element("p", element("b", text, title=value), text)).decode()
    parsed = Parsed(made.removeprefix("<!DOCTYPE html>"))
    assert [tag for tag, _ in parsed.elements] == ["p", "b"]
    assert set(parsed.elements[1][1]) == {"title"}
    assert parsed.text.isprintable() or parsed.text == "\n"
    if text.isprintable():
        assert parsed.text.rstrip("\n") == (2 * text).rstrip("\n")
    if value.isprintable():
        assert parsed.elements[1][1] == {"title": value}


def test_the_policy_allows_our_style_and_script_and_nothing_else() -> None:
    response = respond(daemons.ordinary())
    headers = dict(response.headers)
    policy = dict(
        directive.partition(" ")[::2]
        for directive in headers["Content-Security-Policy"].split("; ")
    )
    assert policy["default-src"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    body = response.body.decode()
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", body, re.DOTALL)
        hashed = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{hashed}'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert response.content_type == "text/html; charset=utf-8"


def test_the_page_over_http() -> None:
    service = daemons.service(daemons.ordinary)
    service.start()
    try:
        assert isinstance(service.server.address, TcpAddress)
        port = service.server.address.port
        found = {}
        for method, host in (
            ("GET", "localhost"), ("HEAD", "127.0.0.1"), ("POST", "localhost"),
            ("GET", "attacker.example"),
        ):  # fmt: skip
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=TEST_TIMEOUT)
            client.request(method, "/?x=1", headers={"Host": f"{host}:{port}"})
            response = client.getresponse()
            found[method, host] = response.status, response.read()
            assert response.headers["Set-Cookie"] is None
            assert response.headers["Cache-Control"] == "no-store"
            if response.status == 200:
                assert response.headers["Content-Security-Policy"]
            client.close()
    finally:
        service.stop(TEST_TIMEOUT)
    assert found["GET", "localhost"][0] == 200
    assert found["GET", "localhost"][1].startswith(b"<!DOCTYPE html>\n<html")
    assert found["HEAD", "127.0.0.1"] == (200, b"")
    assert found["POST", "localhost"][0] == 405
    assert found["GET", "attacker.example"][0] == 421


@pytest.mark.parametrize("path", ["/", "/status", "/healthz", "/metrics", "/livez", "/nothing"])
def test_every_path_checks_the_host(path: str) -> None:
    assert respond([], path, "rebound.example:9100").status == 421
    assert respond([], path, "").status != 421, "HTTP/1.0"
    assert respond([], path, "10.0.0.7:9100").status != 421, "a scrape by address"


def test_a_host_named_in_the_configuration_is_allowed() -> None:
    listen = TcpAddress("ops.internal", 0)
    for host in ("parent.example", "PARENT.example.:9100", "ops.internal:1", "[fd00::7]:9100"):
        given_ = respond([], host=host, listen=listen, hosts=("Parent.Example", "[fd00::8]"))
        assert given_.status == 200, host


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:80", "localhost.", "127.0.0.1", "127.0.0.1:9100", "[::1]:9100", "::1"],
)
def test_hosts_that_cannot_be_rebound(host: str) -> None:
    assert may_be_named(host, ()) is (host != "::1"), "IPv6 addresses are in brackets"


@pytest.mark.parametrize(
    "host",
    [
        "example.com", "localhost.example.com", "127.0.0.1.example.com", "127.0.0.1:9100@evil",
        "localhost:x", "a,localhost", "localhost ", "[::1", "[localhost]", "127.1", "0x7f000001",
        "2130706433", "127.0.0.1:999999", ":80",
    ],
)  # fmt: skip
def test_other_hosts(host: str) -> None:
    assert not may_be_named(host, ())


@given(st.text(max_size=40))
def test_a_host_is_never_an_error(host: str) -> None:
    may_be_named(host, {"a"})


def test_the_page_shows_what_status_shows() -> None:
    components = daemons.ordinary()
    text = Parsed(respond(components).body.decode()).text
    shown = state(components, log_lines=10)
    for forward in shown["forwards"]:
        assert forward["name"] in text
        assert forward["listen"] in text
        now = forward["gauges"]
        assert f"{now['connections'] + now['connecting']} of 1,024" in text
    for name, component in shown["components"].items():
        if name.startswith("enclave/"):
            values = component["values"]
            assert values["state"] in text
            assert values["error"] in text
            assert (values["enclave_id"] or "") in text
    for enclave in shown["last_lines"]:
        for line in enclave["lines"]:
            assert line["text"] in text
    assert "14 cid, 2 limit" in text
    assert "5 min 2 s old, 5 h 54 min left" in text


def test_lines_are_left_out_if_the_configuration_says_so() -> None:
    components = daemons.ordinary()
    assert b"last_lines" not in respond(components, "/status", log_lines=0).body
    assert b"boot: 2 interfaces" not in respond(components, log_lines=0).body
    assert b"boot: 2 interfaces" in respond(components, log_lines=20).body
    assert b"boot: 2 interfaces" in respond(components, "/status", log_lines=20).body
    assert b"last_lines" not in respond(components, "/healthz", log_lines=20).body


def test_every_enclave_and_source_without_an_enclave_is_there() -> None:
    parsed = Parsed(respond(daemons.ordinary(40)).body.decode())
    for n in range(3, 40):
        assert f"worker-{n}" in parsed.text
    assert "cid-99" in parsed.text
    folded = [attributes for tag, attributes in parsed.elements if tag == "details"]
    assert sum("open" in attributes for attributes in folded) == 1, "that of cid-99"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{listen: 'tcp://127.0.0.1:1', hosts: ['http://a/']}", "not a host name: 'http://a/'"),
        ("{listen: 'tcp://127.0.0.1:1', hosts: ['a:80']}", "not a host name: 'a:80'"),
        ("{listen: 'tcp://127.0.0.1:1', hosts: a}", "hosts"),
        ("{listen: 'tcp://127.0.0.1:1', log_lines: 21}", "log_lines"),
        ("{listen: 'tcp://127.0.0.1:1', log_lines: -1}", "log_lines"),
        ("{listen: 'tcp://127.0.0.1:1', log_line: 1}", "log_line"),
    ],
)
def test_mistakes_in_the_settings(text: str, error: str) -> None:
    with pytest.raises(ConfigurationError, match=error):
        read_operations_section(parse_settings(text.encode(), source="f"))


def test_settings() -> None:
    text = b"{listen: 'tcp://127.0.0.1:1', hosts: [a.example, '[fd00::1]', fd00::2], log_lines: 0}"
    found = read_operations_section(parse_settings(text, source="f"))
    assert found.hosts == ("a.example", "[fd00::1]", "fd00::2")
    assert found.log_lines == 0


def test_an_empty_daemon_says_so() -> None:
    text = Parsed(respond([]).body.decode()).text
    assert "The configuration has no enclaves" in text
    assert "The configuration has no forwards" in text


def test_pages_take_a_bounded_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    takes = [0.0]
    made = itertools.count(1)

    def make(_view: page.View) -> bytes:
        now[0] += takes[0]
        return b"%d" % next(made)

    service = daemons.service(list)
    service._monotonic = lambda: now[0]
    monkeypatch.setattr(page, "page", make)

    def at(moment: float, *, takes_: float = 0.0) -> int:
        now[0], takes[0] = moment, takes_
        return int(service._respond(Request("GET", "/", "localhost")).body)

    assert [at(10.0), at(10.5), at(10.99), at(11.0)] == [1, 1, 1, 2], "once a second"
    assert at(20.0, takes_=0.5) == 3
    assert [at(20.6), at(29.9), at(30.1)] == [3, 3, 4], "a twentieth of the time"
    assert at(5.0) == 5, "a clock that was set back"


def test_the_history_is_bounded_and_ends_with_this_moment() -> None:
    shown = state(daemons.ordinary())
    history = History()
    for n in range(3 * SAMPLES):
        history.add(n * INTERVAL, shown)
    samples = history.until(3 * SAMPLES * INTERVAL, shown)
    assert len(samples) == SAMPLES + 1
    assert [sample.at for sample in samples[-2:]] == [(3 * SAMPLES - 1) * 10.0, 3 * SAMPLES * 10.0]
    close = history.until((3 * SAMPLES - 1) * INTERVAL + 0.1, shown)
    assert close[-1].at - close[-2].at > INTERVAL, "not two samples of nearly one moment"
    assert samples[-1].states == {"worker": "running", "signer": "running", "ledger": "waiting"}


def counted(*values: tuple[float, int | None]) -> list[float | None]:
    history = History()
    for at, value in values:
        shown = daemons.forward("f", up=value or 0)
        history.add(at, state([daemons.Proxy([shown] if value is not None else [])]))
    return rates(history._samples, lambda sample: sample.up.get("f"))


def test_rates() -> None:
    assert counted((0, 0), (10, 50), (20, 50), (25, 100)) == [5.0, 0.0, 10.0]
    assert counted((0, 50), (10, 40), (20, 60)) == [None, 2.0], "a forward that was added anew"
    assert counted((0, None), (10, 40), (20, 60)) == [None, 2.0]
    assert counted((0, 1), (0, 2)) == [None], "no time has passed"
    assert counted((0, 1)) == counted() == []


VALUES = st.lists(st.none() | st.floats(0, 1e15), max_size=80)


@given(VALUES, VALUES, st.lists(st.sampled_from(["good", "bad", "unknown"]), max_size=80))
@settings(max_examples=50)
def test_charts_stay_within_their_frames(
    up: list[float | None], down: list[float | None], kinds: list[str]
) -> None:
    drawn = [
        charts.curves([("up", up), ("down", down)], "x", places=60),
        charts.columns(up, "x", places=60),
        charts.strip(kinds, "x", places=60),
        *(charts.bar(share, "x") for share in (-1.0, 0.0, 1e-9, 0.5, 1.0, 7.0)),
    ]
    for chart in drawn:
        width, height = map(float, chart.attrib["viewBox"].split()[2:])
        assert chart.attrib["role"] == "img"
        assert chart.attrib["aria-label"] == "x"
        for shape in chart.iter():
            a = shape.attrib
            if shape.tag == "rect":
                x, y = float(a.get("x", 0)), float(a.get("y", 0))
                assert -0.1 <= x <= x + float(a["width"]) <= width + 0.2
                assert -0.1 <= y <= y + float(a["height"]) <= height + 0.2
            for point in a.get("points", "").split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= width + 1
                assert 0 <= y <= height
