"""The section ``proxy`` of a configuration file."""

from __future__ import annotations

import contextlib
import re
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.paths import ROOT
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import TcpAddress, UnixAddress, VsockAddress
from vsock_proxy.proxy.allowlist import Allowlist
from vsock_proxy.proxy.forward import Egress, Forward
from vsock_proxy.proxy.section import ProxySettings, read_proxy_section
from vsock_proxy.relay.connection import RelayLimits
from vsock_proxy.service.settings import load_settings, parse_settings

if TYPE_CHECKING:
    from pathlib import Path

FILE = """\
proxy:
  allowlist:
  - {address: "kms.*.amazonaws.com", port: 443}
  - {address: 10.0.0.5, port: 8080}
  limits: {connections: 4096, idle_timeout: 30 min}
  drain_timeout: 20 s
  forwards:
  - name: kms
    listen: vsock://any:8000
    to: tcp://kms.eu-central-1.amazonaws.com:443
    cids: [16, 17]
    family: prefer-ipv6
  - {listen: "vsock://any:8001", to: "tcp://kms.eu-west-1.amazonaws.com:443", family: ipv4}
  - listen: unix:/run/vm.sock_8080
    to: tcp://10.0.0.5:8080
    limits: {connections: 8, connect_timeout: 500 ms}
  - {name: admin, listen: "tcp://127.0.0.1:5000", to: "vsock://16:5000"}
"""


def read(text: str, *, reloading: bool = False) -> ProxySettings:
    root = parse_settings(text.encode(), source="parent.yaml")
    return read_proxy_section(root.fields("proxy")["proxy"], reloading=reloading)


def test_every_key_is_read() -> None:
    allowlist = Allowlist(frozenset({("kms.*.amazonaws.com", 443), ("10.0.0.5", 8080)}))
    limits = RelayLimits(connections=4096, idle_timeout=1800)
    assert read(FILE) == ProxySettings(
        (
            Forward(
                VsockAddress(0xFFFF_FFFF, 8000),
                TcpAddress("kms.eu-central-1.amazonaws.com", 443),
                name="kms",
                prefer=socket.AF_INET6,
                cids=frozenset({16, 17}),
                allowlist=allowlist,
                limits=limits,
            ),
            Forward(
                VsockAddress(0xFFFF_FFFF, 8001),
                TcpAddress("kms.eu-west-1.amazonaws.com", 443),
                socket.AF_INET,
                name="kms.eu-west-1.amazonaws.com:443",
                allowlist=allowlist,
                limits=limits,
            ),
            Forward(
                UnixAddress("/run/vm.sock_8080"),
                TcpAddress("10.0.0.5", 8080),
                name="10.0.0.5:8080",
                allowlist=allowlist,
                limits=RelayLimits(connections=8, idle_timeout=1800, connect_timeout=0.5),
            ),
            Forward(
                TcpAddress("127.0.0.1", 5000),
                VsockAddress(16, 5000),
                name="admin",
                limits=limits,
            ),
        ),
        drain_timeout=20,
    )


def test_cids_any_equals_no_cids() -> None:
    one = 'proxy: {forwards: [{listen: "vsock://any:1", to: "unix:/b"%s}]}'
    assert read(one % ", cids: any") == read(one % "")
    assert read(one % "").forwards[0].cids is None


def test_entry_of_an_inline_allowlist_has_no_other_keys() -> None:
    """In a file of ours an unknown key may have been meant to restrict something."""
    entry = "[{address: a.b, port: 1, cids: [16]}]"
    with pytest.raises(ConfigurationError, match="unknown key 'cids'"):
        read(f"proxy: {{allowlist: {entry}, forwards: []}}")


def test_minimal_section() -> None:
    (forward,) = read("proxy: {forwards: [{listen: 'unix:/a', to: 'unix:/b'}]}").forwards
    assert forward == Forward(UnixAddress("/a"), UnixAddress("/b"), name="unix:/b")
    assert read("proxy: {forwards: []}") == ProxySettings(())


def forwards(*lines: str, allowlist: str = "[]") -> str:
    return "\n".join(
        [f"proxy:\n  allowlist: {allowlist}\n  forwards:", *(f"  - {{{line}}}" for line in lines)]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("proxy: {}", ":1: proxy: key 'forwards' or 'egress' is missing"),
        ("proxy:\n  forward: []", ":2: proxy: unknown key 'forward' (did you mean forwards?)"),
        (
            forwards('litsen: "unix:/a", to: "unix:/b"'),
            ":4: forwards: unknown key 'litsen' (did you mean listen?)",
        ),
        (forwards('listen: "unix:/a"'), ":4: forwards: key 'to' is missing"),
        (forwards('listen: "unix:", to: "unix:/b"'), ":4: listen: not an address: 'unix:'"),
        (
            forwards('listen: "unix:/a", to: "tcp://kms.amazonaws.com:443"'),
            ":4: to: kms.amazonaws.com:443 is not on the allowlist",
        ),
        (
            forwards(
                'listen: "unix:/a", to: "tcp://a.b.c:444"', allowlist="[{address: a.b.c, port: 1}]"
            ),
            ":4: to: a.b.c:444 is not on the allowlist",
        ),
        (forwards('listen: "unix:/a", to: "tcp://a:0"'), ":4: to: port 0 cannot be a target"),
        (forwards('listen: "unix:/a", to: "vsock://16:0"'), ":4: to: port 0 cannot be a target"),
        (forwards('listen: "unix:/a", to: "vsock://any:1"'), ":4: to: `any` cannot be a target"),
        (
            forwards('listen: "unix:/a", to: "unix:/b", cids: [16]'),
            ":4: cids: only for a vsock listener",
        ),
        (
            forwards('listen: "vsock://any:1", to: "unix:/b", cids: [any]'),
            ":4: cids: 'any' is not an integer",
        ),
        (
            forwards('listen: "vsock://any:1", to: "unix:/b", cids: all'),
            ":4: cids: 'all' is not one of",
        ),
        (
            forwards('listen: "vsock://any:1", to: "unix:/b", cids: [3]'),
            ":4: cids: '3' is not an integer in 4..",
        ),
        (
            forwards('listen: "vsock://any:1", to: "unix:/b", family: ipv4'),
            ":4: family: only for a TCP target",
        ),
        (
            forwards(
                'listen: "unix:/a", to: "tcp://1.2.3.4:1", family: ipv6',
                allowlist="[{address: 1.2.3.4, port: 1}]",
            ),
            ":4: family: 1.2.3.4 is of the other family",
        ),
        (
            forwards(
                'listen: "unix:/a", to: "tcp://[2001:db8::1]:1", family: ipv4',
                allowlist="[{address: '2001:db8::1', port: 1}]",
            ),
            ":4: family: 2001:db8::1 is of the other family",
        ),
        *(
            (
                forwards(
                    f'listen: "unix:/a", to: "tcp://{host}:1"',
                    allowlist=f"[{{address: '{host}', port: 1}}]",
                ),
                f":4: to: {host.strip('[]')} cannot be a target: {reason}",
            )
            for host, reason in [
                ("224.0.0.1", "an address of many"),
                ("255.255.255.255", "an address of many"),
                ("[ff02::1]", "an address of many"),
                ("[fe80::1]", "a link-local address needs its interface, fe80::1%eth0"),
            ]
        ),
        (
            forwards('listen: "vsock://0:1", to: "unix:/b"'),
            ":4: listen: vsock://0:1: CID 0 is reserved",
        ),
        (
            forwards('listen: "vsock://16:1", to: "unix:/b", cids: [16, 17]'),
            ":4: cids: 16 is also the CID in `listen`",
        ),
        (
            forwards(
                'listen: "vsock://any:0", to: "unix:/b"', 'listen: "vsock://any:0", to: "unix:/c"'
            ),
            ":5: forwards: two forwards listen on vsock://any:0",
        ),
        (
            forwards('listen: "unix:/a", to: "unix:/b", name: "a\\tb"'),
            ":4: name: contains characters that cannot be printed",
        ),
        (
            forwards('listen: "unix:/a", to: "unix:/b"', 'listen: "unix:/a", to: "unix:/c"'),
            ":5: forwards: two forwards listen on unix:/a",
        ),
        (
            forwards('listen: "unix:/a", to: "unix:/b"', 'listen: "unix:/c", to: "unix:/b"'),
            ":5: forwards: two forwards are called 'unix:/b'",
        ),
        ("proxy:\n  limits: {connections: 0}\n  forwards: []", ":2: connections: '0' is not an"),
        ("proxy:\n  limits: {idle_timeout: 5}\n  forwards: []", ":2: idle_timeout: '5' is not a"),
        ("proxy:\n  limits: {idletimeout: 5 s}\n  forwards: []", ":2: limits: unknown key 'idlet"),
        ("proxy:\n  allowlist: {}\n  forwards: []", ":2: allowlist: a mapping, not a list or"),
        ("proxy:\n  drain_timeout: 2 d\n  forwards: []", ":2: drain_timeout: '2 d' is not in"),
    ],
)
def test_invalid_section_is_rejected_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        raise AssertionError(str(read(text)))
    assert str(refusal.value).startswith(f"parent.yaml{message}")


def test_target_that_is_not_allowed_is_no_error_in_a_reload() -> None:
    text = forwards(
        'listen: "unix:/a", to: "tcp://a.b.c:443"',
        'listen: "unix:/b", to: "tcp://d.e.f:443"',
        allowlist="[{address: a.b.c, port: 443}]",
    )
    assert [forward.allowed for forward in read(text, reloading=True).forwards] == [True, False]


def test_allowlist_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "allow.yaml").write_text("allowlist:\n- {address: a.b.c, port: 443}\n")
    path = tmp_path / "parent.yaml"
    path.write_text(forwards('listen: "unix:/a", to: "tcp://a.b.c:443"', allowlist="allow.yaml"))
    section = load_settings(path).fields("proxy")["proxy"]
    (forward,) = read_proxy_section(section).forwards
    assert forward.allowlist == Allowlist(frozenset({("a.b.c", 443)}))
    (tmp_path / "allow.yaml").unlink()
    with pytest.raises(
        ConfigurationError, match=r"parent.yaml:2: allowlist: cannot read .*allow\.yaml"
    ):
        read_proxy_section(section)


_words = st.sampled_from(
    ["proxy", "forwards", "listen", "to", "cids", "16", "unix:/a", "tcp://a:1", "allowlist", "*"]
)
_marks = st.sampled_from([": ", "\n", "- ", ", ", "{", "}", "[", "]", " ", "  ", "'"])


@given(st.lists(st.one_of(_words, _marks), max_size=40).map("".join))
def test_any_section_parses_or_raises_configuration_error(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        read("proxy: {forwards: [" + text)
    with contextlib.suppress(ConfigurationError):
        read_proxy_section(parse_settings(text.encode(), source="parent.yaml"))


EGRESS = """\
proxy:
  allowlist:
  - {address: "kms.*.amazonaws.com", port: 443}
  limits: {connections: 4096}
  egress:
    listen: vsock://any:8004
    cids: [16]
    family: ipv4
    limits: {per_cid: 100}
"""


def test_egress_is_read() -> None:
    (forward,) = read(EGRESS).forwards
    assert forward == Forward(
        VsockAddress(0xFFFF_FFFF, 8004),
        Egress(),
        socket.AF_INET,
        name="egress",
        cids=frozenset({16}),
        allowlist=Allowlist(frozenset({("kms.*.amazonaws.com", 443)})),
        limits=RelayLimits(connections=4096, per_cid=100),
    )
    assert forward.allowed


def test_egress_may_have_an_allowlist_of_its_own_and_be_several() -> None:
    settings = read(
        "proxy:\n"
        "  allowlist: [{address: a.b.com, port: 1}]\n"
        "  egress:\n"
        "  - {listen: 'unix:/a', allowlist: [{address: c.d.com, port: 2}]}\n"
        "  - {listen: 'unix:/b', name: other, limits: {idle_timeout: 1 min}}\n"
        "  forwards: [{listen: 'unix:/c', to: 'tcp://a.b.com:1'}]\n"
    )
    assert [each.title for each in settings.forwards] == ["a.b.com:1", "egress", "other"]
    lists = [each.allowlist.entries for each in settings.forwards if each.allowlist]
    assert lists == [{("a.b.com", 1)}, {("c.d.com", 2)}, {("a.b.com", 1)}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("egress: {listen: 'vsock://any:8004'}", ":1: egress: key 'cids' is missing"),
        ("egress: {listen: 'unix:/a', cids: any}", ":1: cids: only for a vsock listener"),
        ("egress: {cids: any}", ":1: egress: key 'listen' is missing"),
        ("egress: {listen: 'unix:/a', to: 'tcp://a:1'}", ":1: egress: unknown key 'to'"),
        ("egress: 8004", ":1: egress: '8004', not a mapping"),
        ("egress: [{listen: 'unix:/a'}, {listen: 'unix:/b'}]", ":1: egress: two forwards are"),
        ("egres: {listen: 'unix:/a'}", ":1: proxy: unknown key 'egres' (did you mean egress?)"),
        ("egress: {listen: 'unix:/a', limits: {per_cid: 0}}", ":1: per_cid: '0' is not an integer"),
    ],
)
def test_invalid_egress_is_rejected_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        read(f"proxy: {{{text}}}")
    assert str(refusal.value).startswith(f"parent.yaml{message}")


def test_the_documented_egress_is_read() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/egress.md").read_text(), re.DOTALL)
    (forward,) = read(text).forwards
    assert forward.allowlist
    assert forward.allowlist.entry_for("b.s3.eu-central-1.amazonaws.com", 443) == (
        "*.s3.eu-central-1.amazonaws.com"
    )
    assert forward.limits == RelayLimits(connections=2048, per_cid=512)


def test_tests_that_the_document_names_exist() -> None:
    page = (ROOT / "docs/egress.md").read_text(encoding="utf-8")
    written = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "tests/vsock_proxy").rglob("test_*.py")
    )
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) >= 20
    assert named <= set(re.findall(r"^def (test_\w+)", written, re.MULTILINE))
