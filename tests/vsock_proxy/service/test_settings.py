"""Configuration files: typed, strict, and with the line in every error."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import TcpAddress, UnixAddress, VsockAddress
from vsock_proxy.service.settings import MAX_DEPTH, MAX_SIZE, Setting, load_settings, parse_settings

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = b"""\
# An example.
name: kms
enabled: true
level: info
forwards:
- listen: vsock://any:8000
  port: 443
- {listen: 'unix:/run/vm.sock_8000', port: 80}
times: {connect: 10 s, idle: 1.5 h, tick: 250ms, half: 5 min, day: 1 d}
memory: 512 MiB
"""


def value(text: str) -> Setting:
    return parse_settings(f"\nkey: {text}".encode(), source="f.yaml").fields("key")["key"]


def test_values_are_taken_by_type() -> None:
    root = parse_settings(FILE, source="f.yaml").mapping()
    assert root["name"].string() == "kms"
    assert root["enabled"].boolean() is True
    assert root["level"].choice("debug", "info") == "info"
    forwards = [item.fields("listen", "port") for item in root["forwards"].items()]
    assert [f["listen"].address() for f in forwards] == [
        VsockAddress(0xFFFF_FFFF, 8000),
        UnixAddress("/run/vm.sock_8000"),
    ]
    assert [f["port"].port() for f in forwards] == [443, 80]
    times = {name: time.duration(0, 1e6) for name, time in root["times"].mapping().items()}
    assert times == {"connect": 10, "idle": 5400, "tick": 0.25, "half": 300, "day": 86400}
    assert root["memory"].size(0, 1 << 40) == 512 * 1024 * 1024


def test_an_address_is_one_of_ours() -> None:
    assert value("tcp://kms.eu-central-1.amazonaws.com:443").address() == TcpAddress(
        "kms.eu-central-1.amazonaws.com", 443
    )


def test_every_value_knows_its_line() -> None:
    root = parse_settings(FILE, source="f.yaml")
    fields = root.mapping()
    assert root.line == 2
    assert fields["forwards"].items()[1].mapping()["port"].line == 8
    wrong = fields["memory"].wrong("too little", hint="give it more")
    assert (str(wrong), wrong.hint) == ("f.yaml:10: memory: too little", "give it more")
    assert str(root.wrong("odd")) == "f.yaml:2: odd"


@pytest.mark.parametrize(
    ("text", "take", "message"),
    [
        ("[x]", lambda s: s.string(), "a list, not a string"),
        ("", lambda s: s.string(), "an empty string"),
        ("''", lambda s: s.string(), "an empty string"),
        ("8000", lambda s: s.string(), "'8000' is not a string in YAML"),
        ("on", lambda s: s.string(), "'on' is not a string in YAML"),
        ("1:30", lambda s: s.string(), "'1:30' is not a string in YAML"),
        ("!x y", lambda s: s.string(), "'y' is not a string in YAML"),
        ("abc", lambda s: s.string(most=2), "a string of 3 characters; the maximum is 2"),
        ("x", lambda s: s.items(), "'x', not a list"),
        ("", lambda s: s.items(), "nothing, not a list"),
        ("{}", lambda s: s.items(), "a mapping, not a list"),
        ("[1, 2]", lambda s: s.items(1), "2 items; the maximum is 1"),
        ("x", lambda s: s.mapping(), "'x', not a mapping"),
        ("{[a]: b}", lambda s: s.mapping(), "a list, not a string"),
        ("{a: 1, a: 2}", lambda s: s.mapping(), "key 'a' twice"),
        ("{<<: {a: 1}}", lambda s: s.fields("a"), "'<<' is not a string in YAML"),
        ("{litsen: x}", lambda s: s.fields("to", "listen"), "unknown key 'litsen' (did you mean l"),
        ("{zzz: x}", lambda s: s.fields("to", "listen"), "unknown key 'zzz'"),
        ("{a: 1}", lambda s: s.fields("a", "b", required=("b",)), "key 'b' is missing"),
        ("warn", lambda s: s.choice("debug", "info"), "'warn' is not one of debug, info"),
        ("yes", lambda s: s.boolean(), "'yes' is neither true nor false"),
        ("'true'", lambda s: s.boolean(), "'true' is neither true nor false"),
        ("TRUE", lambda s: s.boolean(), "'TRUE' is neither true nor false"),
        ("0443", lambda s: s.port(), "'0443' is not an integer in 1..65535"),
        ("1_000", lambda s: s.port(), "'1_000' is not an integer in 1..65535"),
        ("1:30", lambda s: s.port(), "'1:30' is not an integer in 1..65535"),
        ("'443'", lambda s: s.port(), "'443' is not an integer in 1..65535"),
        ("0", lambda s: s.port(), "'0' is not an integer in 1..65535"),
        ("84536", lambda s: s.port(), "'84536' is not an integer in 1..65535"),
        ("9" * 5000, lambda s: s.port(), f"'{'9' * 79} is not an integer in 1..65535"),
        ("-5", lambda s: s.integer(-4, 4), "'-5' is not an integer in -4..4"),
        ("10", lambda s: s.duration(0, 60), "'10' is not a time with its unit"),
        ("10 sec", lambda s: s.duration(0, 60), "'10 sec' is not a time with its unit"),
        ("-1 s", lambda s: s.duration(0, 60), "'-1 s' is not a time with its unit"),
        ("nan s", lambda s: s.duration(0, 60), "'nan s' is not a time with its unit"),
        ("61 s", lambda s: s.duration(0, 60), "'61 s' is not in 0 ms..1 min"),
        ("512 MB", lambda s: s.size(0, 1 << 30), "'512 MB' is not a size with its unit"),
        ("2 GiB", lambda s: s.size(0, 1 << 30), "'2 GiB' is not in 0 B..1 GiB"),
        ("tcp://x", lambda s: s.address(), "not an address: 'tcp://x'"),
        ("8000", lambda s: s.address(), "not an address: '8000'"),
        ("[8000]", lambda s: s.address(), "a list, not an address"),
    ],
)
def test_what_is_of_another_type_is_refused_with_line_and_key(
    text: str, take: Callable[[Setting], object], message: str
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        raise AssertionError(take(value(text)))
    assert str(refusal.value).startswith(f"f.yaml:2: key: {message}")
    assert str(refusal.value).count("f.yaml") == 1


def test_numbers_at_their_bounds_are_taken() -> None:
    assert value("-4").integer(-4, 4) == -4
    assert value("4").integer(-4, 4) == 4
    assert value("0").integer(0, 0) == 0
    assert value("60 s").duration(60, 60) == 60


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "f.yaml: empty"),
        (b"# nothing\n", "f.yaml: empty"),
        (b"a: [\n", "f.yaml:2: not YAML: "),
        (b"a: b\n---\nc: d\n", "f.yaml:2: not YAML: but found another document"),
        (b"\na: &a [*a]", "f.yaml:2: not YAML: aliases (*NAME) are not supported"),
        (b"a: &a x\nb: *a", "f.yaml:2: not YAML: aliases (*NAME) are not supported"),
        (b"a: *b", "f.yaml:1: not YAML: aliases (*NAME) are not supported"),
        (b"[" * 100_000, "f.yaml:1: not YAML: more than 20 nested levels"),
        (b"? " * 1000, "f.yaml:1: not YAML: more than 20 nested levels"),
        (b"\0", "f.yaml:1: not YAML"),
        (b"a:\n\xff\xff", "f.yaml:2: not YAML: byte 0xff is not UTF-8"),
        (b"a: \x1b[31m", "f.yaml:1: not YAML: the character U+001B"),
        (b"#" * (MAX_SIZE + 1), f"f.yaml: more than {MAX_SIZE} bytes"),
    ],
)
def test_what_is_not_one_plain_document_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse_settings(data, source="f.yaml")
    assert str(refusal.value).startswith(message)


def test_as_many_levels_as_there_may_be() -> None:
    root = parse_settings(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, source="f.yaml")
    assert len(root.items()) == 1


def test_control_characters_do_not_reach_the_terminal() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        value(r'"\e[31m"').address()
    assert str(refusal.value).isprintable()


def test_a_file_is_read_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(FILE)
    assert load_settings(path).mapping()["name"].string() == "kms"
    path.write_bytes(b"#" * (MAX_SIZE + 1))
    with pytest.raises(ConfigurationError, match="more than"):
        load_settings(path)


@pytest.mark.parametrize(("name", "why"), [("missing", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as refusal:
        load_settings(tmp_path / name, hint="name it")
    assert refusal.value.hint == ("name it" if name == "missing" else "")


@pytest.mark.timeout(20)
def test_a_fifo_does_not_make_a_reload_wait_for_ever(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(ConfigurationError, match="is not a file"):
            load_settings(path)


def walk(setting: Setting) -> None:
    """Take everything as everything."""
    takes: list[Callable[[], object]] = [
        setting.string,
        setting.boolean,
        setting.port,
        setting.address,
        lambda: setting.choice("a", "b"),
        lambda: setting.integer(-10, 10),
        lambda: setting.duration(0, 10),
        lambda: setting.size(0, 10),
        lambda: setting.fields("a", "b", required=("b",)),
    ]
    for take in takes:
        with contextlib.suppress(ConfigurationError):
            take()
    for parts in (setting.items, lambda: setting.mapping().values()):
        with contextlib.suppress(ConfigurationError):
            for part in parts():
                walk(part)


_words = st.sampled_from(["a", "b", "1", "1 s", "2 KiB", "unix:/x", "true", "*x", "&x", "!y", "<<"])
_marks = st.sampled_from([": ", "\n", "- ", ", ", "{", "}", "[", "]", " ", "? ", "'", '"', "|\n "])


@given(
    st.one_of(
        st.binary(max_size=300),
        st.lists(st.one_of(_words, _marks), max_size=40).map(lambda parts: "".join(parts).encode()),
    )
)
@example(b"%YAML 9.9\n---\na")
@example(b"a: !<> b")
@example(b"2001-99-99")
@example(b"a: 1e999 s")
def test_whatever_the_bytes_only_a_configuration_error_leaves(data: bytes) -> None:
    with contextlib.suppress(ConfigurationError):
        walk(parse_settings(data, source="f.yaml"))
