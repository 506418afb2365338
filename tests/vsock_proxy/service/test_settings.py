"""Configuration files: types, unknown keys, and the line in every error."""

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
from vsock_proxy.service.mistakes import ConfigurationErrors
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


def test_values_are_read_by_type() -> None:
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


def test_address_is_parsed() -> None:
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
        ("[x]", lambda s: s.string(), "a list, not text"),
        ("", lambda s: s.string(), "empty text"),
        ("''", lambda s: s.string(), "empty text"),
        ("8000", lambda s: s.string(), "'8000' is not text in YAML"),
        ("on", lambda s: s.string(), "'on' is not text in YAML"),
        ("1:30", lambda s: s.string(), "'1:30' is not text in YAML"),
        ("!x y", lambda s: s.string(), "'y' is not text in YAML"),
        ("abc", lambda s: s.string(most=2), "3 characters; at most 2"),
        ("x", lambda s: s.items(), "'x', not a list"),
        ("", lambda s: s.items(), "nothing, not a list"),
        ("{}", lambda s: s.items(), "a mapping, not a list"),
        ("[1, 2]", lambda s: s.items(1), "2 items; at most 1 are allowed"),
        ("x", lambda s: s.mapping(), "'x', not a mapping"),
        ("{[a]: b}", lambda s: s.mapping(), "a list, not text"),
        ("{a: 1, a: 2}", lambda s: s.mapping(), "key 'a' twice"),
        ("{<<: {a: 1}}", lambda s: s.fields("a"), "'<<' is not text in YAML"),
        ("{litsen: x}", lambda s: s.fields("to", "listen"), "unknown key 'litsen' (did you mean l"),
        ("{zzz: x}", lambda s: s.fields("to", "listen"), "unknown key 'zzz'"),
        ("{a: 1}", lambda s: s.fields("a", "b", required=("b",)), "key 'b' is missing"),
        ("warn", lambda s: s.choice("debug", "info"), "'warn' is not one of: debug, info"),
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
        ("10", lambda s: s.duration(0, 60), "'10' is not a duration with a unit"),
        ("10 sec", lambda s: s.duration(0, 60), "'10 sec' is not a duration with a unit"),
        ("-1 s", lambda s: s.duration(0, 60), "'-1 s' is not a duration with a unit"),
        ("nan s", lambda s: s.duration(0, 60), "'nan s' is not a duration with a unit"),
        ("61 s", lambda s: s.duration(0, 60), "'61 s' is not in 0 s..60 s"),
        ("512 MB", lambda s: s.size(0, 1 << 30), "'512 MB' is not a size with a unit"),
        ("2 GiB", lambda s: s.size(0, 1 << 30), "'2 GiB' is not in 0 B..1 GiB"),
        ("tcp://x", lambda s: s.address(), "not an address: 'tcp://x'"),
        ("8000", lambda s: s.address(), "not an address: '8000'"),
        ("[8000]", lambda s: s.address(), "a list, not an address"),
        ("[yes]", lambda s: s.choice("yes", "no"), "a list is not one of: yes, no"),
    ],
)
def test_wrong_type_is_rejected_with_line_and_key(
    text: str, take: Callable[[Setting], object], message: str
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        raise AssertionError(take(value(text)))
    assert str(refusal.value).startswith(f"f.yaml:2: key: {message}")
    assert str(refusal.value).count("f.yaml") == 1


def test_numbers_at_their_bounds_are_accepted() -> None:
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
        (b"\na: &a [*a]", "f.yaml:2: not YAML: aliases are not allowed"),
        (b"a: &a x\nb: *a", "f.yaml:2: not YAML: aliases are not allowed"),
        (b"a: *b", "f.yaml:1: not YAML: aliases are not allowed"),
        (b"[" * 100_000, "f.yaml:1: not YAML: too many nested levels"),
        (b"? " * 1000, "f.yaml:1: not YAML: too many nested levels"),
        (b"\0", "f.yaml:1: not YAML"),
        (b"a:\n\xff\xff", "f.yaml:2: not YAML: byte 0xff is not UTF-8"),
        (b"a: \x1b[31m", "f.yaml:1: not YAML: the character U+001B"),
        (b'a:\n  b: "\\UFFFFFFFF"', "f.yaml:2: not YAML: a number out of range"),
        (b"%YAML 1." + b"1" * 5000, "f.yaml:1: not YAML: a number out of range"),
        (b'a:\n  b: "/x\\0y"', "f.yaml:2: not YAML: the character U+0000 is not allowed"),
        (b'"/\\ud800": b', "f.yaml:1: not YAML: the character U+D800 is not allowed"),
        (b"#" * (MAX_SIZE + 1), f"f.yaml: more than {MAX_SIZE} bytes"),
    ],
)
def test_anything_but_one_plain_document_is_rejected(data: bytes, message: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse_settings(data, source="f.yaml")
    assert str(refusal.value).startswith(message)


def test_deepest_allowed_nesting_is_accepted() -> None:
    root = parse_settings(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, source="f.yaml")
    assert len(root.items()) == 1


def test_control_characters_are_escaped_in_errors() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        value(r'"\e[31m"').address()
    assert str(refusal.value).isprintable()


def test_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(FILE)
    assert load_settings(path).mapping()["name"].string() == "kms"
    path.write_bytes(b"#" * (MAX_SIZE + 1))
    with pytest.raises(ConfigurationError, match="more than"):
        load_settings(path)


@pytest.mark.parametrize(("name", "why"), [("missing", "No such file"), (".", "Is a directory")])
def test_unreadable_file_is_named_in_the_error(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as refusal:
        load_settings(tmp_path / name)
    assert refusal.value.hint == ""  # The caller knows which option or key named it.


@pytest.mark.timeout(20)
def test_fifo_does_not_block_a_reload(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(ConfigurationError, match="is not a regular file"):
            load_settings(path)


def walk(setting: Setting) -> None:
    """Read every value as every type."""
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
def test_any_bytes_parse_or_raise_configuration_error(data: bytes) -> None:
    with contextlib.suppress(ConfigurationError):
        walk(parse_settings(data, source="f.yaml"))


def test_all_mistakes_of_a_mapping_are_reported_in_order() -> None:
    """In the order of the file, whatever order they are found in; each is reported once."""
    text = b"b: x\nc: 1\na: x\nc: 2\ntimout: 3\n"

    def read() -> None:
        with parse_settings(text, source="f").reading(
            *("a", "b", "c", "d", "timeout"), required=("d", "timeout")
        ) as keys:
            keys.read("a", Setting.boolean)
            assert keys.read("b", Setting.port) is None
            assert keys.read("c", lambda value: value.integer(0, 9)) == 1
            assert keys.read("d", Setting.port, 7) == 7
            assert keys.failed == {"a", "b", "d", "timeout"}

    with pytest.raises(ConfigurationErrors) as refusal:
        read()
    assert [str(error) for error in refusal.value.errors] == [
        "f:1: key 'd' is missing",
        "f:1: b: 'x' is not an integer in 1..65535",
        "f:3: a: 'x' is neither true nor false",
        "f:4: key 'c' twice: also on line 2",
        "f:5: unknown key 'timout' (did you mean timeout?)",
    ]


def test_all_mistakes_of_a_list_are_reported() -> None:
    with pytest.raises(ConfigurationErrors) as refusal:
        value("[1, x, 3, y]").each(Setting.port)
    assert len(refusal.value.errors) == 2
    assert value("[1, 2]").each(Setting.port) == [1, 2]


def test_another_error_in_the_block_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), value("{}").reading("a", required=("a",)):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("8002", "vsock://any:8002"),
        ("https://kms.example", "tcp://kms.example:443"),
        ("http://kms.example:8080/path?query", "tcp://kms.example:8080"),
        ("kms.example:443", "tcp://kms.example:443"),
        ("/run/socket", "unix:/run/socket"),
    ],
)
def test_the_address_that_was_probably_meant_is_in_the_hint(text: str, meant: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        value(f"'{text}'").address()
    assert refusal.value.hint.startswith(f"did you mean {meant}? write vsock://")


@pytest.mark.parametrize("text", ["", "kms", "vsock://x:1", "ftp://a:1", "a:b:c"])
def test_no_address_is_guessed_from_what_does_not_look_like_one(text: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        value(f"'{text}'").address()
    assert "did you mean" not in refusal.value.hint
