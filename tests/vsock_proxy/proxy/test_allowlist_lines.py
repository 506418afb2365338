"""An allowlist written as lines, ``HOST:PORT``: what an enclave has, without PyYAML."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.proxy.allowlist import MAX_LINES, Allowlist, parse_entry, parse_lines


def parse(text: str) -> Allowlist:
    return parse_lines(text, source="list")


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("kms.us-east-1.amazonaws.com:443", ("kms.us-east-1.amazonaws.com", 443)),
        ("KMS.*.amazonaws.com.:443", ("kms.*.amazonaws.com", 443)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("a.b:65535", ("a.b", 65535)),
        ("a.b:00443", ("a.b", 443)),
        ("[2001:DB8:0::1]:443", ("2001:db8::1", 443)),
    ],
)
def test_entry(text: str, entry: tuple[str, int]) -> None:
    assert parse_entry(text) == entry


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not HOST:PORT"),
        ("a.b", "'a.b' is not HOST:PORT"),
        (":443", "':443' is not HOST:PORT"),
        ("a.b:", "'a.b:' is not HOST:PORT"),
        ("a.b:0", "'a.b:0' is not HOST:PORT"),
        ("a.b:65536", "'a.b:65536' is not HOST:PORT"),
        ("a.b:84536", "'a.b:84536' is not HOST:PORT"),
        ("a.b:000443", "'a.b:000443' is not HOST:PORT"),
        ("a.b:-1", "'a.b:-1' is not HOST:PORT"),
        ("a.b:4_43", "'a.b:4_43' is not HOST:PORT"),
        ("a.b:٤٤٣", "is not HOST:PORT"),
        ("::1:443", "'::1:443': an IPv6 address has brackets"),
        ("a.b:1:443", "'a.b:1:443': an IPv6 address has brackets"),
        ("[::1]", "is not HOST:PORT"),
        ("[::1:443", "'[::1:443': an IPv6 address has brackets"),
        ("a b:443", "'a b' is not a host name"),
        ("[a.b]:443", "'[a.b]' is not a host name"),
        ("*:443", "'*' is not a pattern"),
        ("*.com:443", "'*.com' is not a pattern"),
    ],
)
def test_entry_that_is_none_is_rejected_with_a_hint(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse_entry(text)
    assert message in str(refusal.value)
    assert refusal.value.hint


def test_hint_of_a_pattern_is_its_own() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse_entry("*.com:443")
    assert "one of the last two" in (refusal.value.hint or "")
    with pytest.raises(ConfigurationError) as refusal:
        parse_entry("a b:443")
    assert "write HOST:PORT" in (refusal.value.hint or "")


def test_lines_with_comments_and_white_space() -> None:
    text = "# hosts # of the program\n\n  a.b:443  # one # of two\n\tc.d:80\r\n#e.f:1\n[::1]:443"
    assert parse(text) == Allowlist(frozenset({("a.b", 443), ("c.d", 80), ("::1", 443)}))


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n"])
def test_nothing_allows_nothing(text: str) -> None:
    assert parse(text).entries == frozenset()


@pytest.mark.parametrize(("text", "line"), [("a.b", 1), ("a.b:443\n\n# c\nc.d:443\ne.f 443", 5)])
def test_error_has_source_line_and_hint(text: str, line: int) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse(text)
    assert str(refusal.value).startswith(f"list:{line}: ")
    assert "write HOST:PORT" in (refusal.value.hint or "")


def test_number_of_lines_is_bounded() -> None:
    assert parse("\n" * (MAX_LINES - 1) + "a.b:443").allows("a.b", 443)
    with pytest.raises(ConfigurationError, match=f"list: more than {MAX_LINES} lines"):
        parse("\n" * MAX_LINES + "a.b:443")


@given(st.lists(st.sampled_from([*"a*.:[]#4 \n", "443", "::1", "amazonaws.com"])).map("".join))
def test_any_text_parses_or_raises_configuration_error(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        assert all(0 < port < 65536 for _, port in parse(text).entries)
