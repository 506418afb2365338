"""The allowlist: AWS's format, wildcards, special addresses."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.proxy.allowlist import Allowlist, is_special
from vsock_proxy.proxy.allowlist_file import (
    is_allowlist,
    load_allowlist,
    parse_allowlist,
    read_allowlist,
)
from vsock_proxy.service.settings import MAX_SIZE, parse_settings


def parse(data: bytes) -> Allowlist:
    return parse_allowlist(parse_settings(data, source="allowlist"))


AWS_STYLE = b"""\
# Comments, both styles of mapping, and IP addresses, as in AWS's own file.
allowlist:
- {address: kms.us-east-1.amazonaws.com, port: 443}
- address: 127.0.0.1
  port: 9000
- {address: "::1", port: 9001}
"""


def test_only_listed_hosts_and_ports_are_allowed() -> None:
    allowed = parse(AWS_STYLE)
    assert allowed.allows("kms.us-east-1.amazonaws.com", 443)
    assert allowed.allows("127.0.0.1", 9000)
    assert allowed.allows("::1", 9001)
    assert not allowed.allows("kms.us-east-1.amazonaws.com", 444)
    assert not allowed.allows("kms.us-east-2.amazonaws.com", 443)
    assert not allowed.allows("evil.kms.us-east-1.amazonaws.com", 443)
    assert not allowed.allows("127.0.0.1", 443)
    assert not Allowlist(frozenset()).allows("kms.us-east-1.amazonaws.com", 443)


@pytest.mark.parametrize(
    "host",
    ["KMS.us-east-1.amazonaws.com", "kms.us-east-1.amazonaws.com.", "kms.US-EAST-1.AmazonAWS.com."],
)
def test_case_and_trailing_dot_are_ignored(host: str) -> None:
    # AWS's proxy compares byte by byte.
    assert parse(AWS_STYLE).allows(host, 443)
    listed = f"allowlist: [{{address: {host}, port: 443}}]".encode()
    assert parse(listed).allows("kms.us-east-1.amazonaws.com", 443)


def listing(*addresses: str) -> Allowlist:
    lines = [f"- {{address: '{address}', port: 443}}" for address in addresses]
    return parse("\n".join(["allowlist:", *lines]).encode())


@pytest.mark.parametrize(
    ("pattern", "host", "matches"),
    [
        ("kms.*.amazonaws.com", "kms.eu-central-1.amazonaws.com", True),
        ("KMS.*.AmazonAWS.com.", "kms.EU-central-1.amazonaws.com.", True),
        ("*.kms.eu-west-1.vpce.amazonaws.com", "vpce-0a-1b.kms.eu-west-1.vpce.amazonaws.com", True),
        ("*.*.amazonaws.com", "kms.eu-central-1.amazonaws.com", True),
        ("kms.*.amazonaws.com", "kms.amazonaws.com", False),
        ("kms.*.amazonaws.com", "kms..amazonaws.com", False),
        ("kms.*.amazonaws.com", "kms.a.b.amazonaws.com", False),
        ("kms.*.amazonaws.com", "kms.eu-central-1.amazonaws.com.evil.example", False),
        ("kms.*.amazonaws.com", "evil.kms.eu-central-1.amazonaws.com", False),
        ("kms.*.amazonaws.com", "kms-evil.eu-central-1.amazonaws.com", False),
        ("kms.*.amazonaws.com", "kms.eu-central-1.amazonaws.com.cn", False),
        ("*.amazonaws.com", "amazonaws.com", False),
        ("*.amazonaws.com", ".amazonaws.com", False),
    ],
)
def test_wildcard_stands_for_exactly_one_label(pattern: str, host: str, matches: bool) -> None:
    assert listing(pattern).allows(host, 443) is matches
    assert not listing(pattern).allows(host, 444)


@pytest.mark.parametrize(
    "pattern",
    ["*", "*.com", "*.*", "*.*.com", "kms.*", "kms.amazonaws.*", "kms-*.amazonaws.com", "*a.b.c",
     "**.amazonaws.com", "*.0.0.1", "127.*.0.1", "*.*.*.*", "1.2.*.0x7f", "*..amazonaws.com",
     "::*", "*.b_.c-"],
)  # fmt: skip
def test_pattern_without_a_domain_is_rejected(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^allowlist:2: address: .* is not a pattern"):
        listing(pattern)


_octet = st.integers(0, 255)


@given(st.one_of(st.ip_addresses(), st.tuples(_octet, _octet).map("{0[0]}.{0[1]}".format)))
def test_no_pattern_matches_an_ip_address(address: object) -> None:
    patterns = listing("*.b.c", "*.*.b.c", "*.*.*.b.c", "a.*.b.c")
    assert not patterns.allows(str(address), 443)


def test_ip_address_matches_in_any_spelling() -> None:
    assert listing("2001:DB8:0:0::1").allows("2001:db8::1", 443)


PUBLIC = ["52.94.1.1", "10.0.0.5", "172.31.0.2", "192.168.1.1", "100.64.0.1", "2600:1f18::1",
          "fd12::1", "64:ff9b::52.94.1.1", "::ffff:10.0.0.5"]  # fmt: skip
SPECIAL = [
    "169.254.169.254", "169.254.170.2", "127.0.0.1", "127.8.9.1", "0.1.2.3",  "0.0.0.0",  # noqa: S104
    "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "ff02::1",
    "fd00:ec2::254", "::ffff:169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::", "::127.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_name_may_resolve_to_public_and_private_addresses(address: str) -> None:
    assert not is_special(address)
    assert listing("kms.amazonaws.com").allows_resolved("kms.amazonaws.com", address, 443)


@pytest.mark.parametrize("address", SPECIAL)
def test_name_must_not_resolve_to_a_special_address(address: str) -> None:
    assert is_special(address)
    assert not listing("kms.amazonaws.com", "*.a.b").allows_resolved("x.a.b", address, 443)


def test_special_address_may_be_listed_itself() -> None:
    allowed = listing("a.b", "127.0.0.1", "localhost", "::1")
    assert allowed.allows_resolved("a.b", "127.0.0.1", 443)
    assert not allowed.allows_resolved("a.b", "127.0.0.1", 444)
    assert not allowed.allows_resolved("a.b", "127.0.0.2", 443)
    assert allowed.allows_resolved("LOCALHOST.", "127.0.0.2", 443)
    assert not allowed.allows_resolved("localhost", "169.254.169.254", 443)


def test_empty_list_allows_nothing() -> None:
    assert parse(b"allowlist: []") == Allowlist(frozenset())


@pytest.mark.parametrize(
    ("port", "why"),
    [
        ("84536", "AWS's proxy takes it for 19000"),
        ("65536", "one too many"),
        ("0", "nothing listens there"),
        ("-443", "AWS's proxy takes it for 65093"),
        ("443.0", "not an integer"),
        ("0443", "octal to some"),
        ("0x1bb", "not decimal"),
        ("4_43", "an integer in YAML 1.1 only"),
        ("true", "not an integer"),
        ("", "nothing"),
        ("[443]", "a list"),
        ("9" * 5000, "longer than an integer may be"),
    ],
)
def test_invalid_port_is_rejected(port: str, why: str) -> None:
    text = f"allowlist:\n- address: kms.us-east-1.amazonaws.com\n  port: {port}\n"
    with pytest.raises(ConfigurationError, match=r"^allowlist:[23]: port: .*not an integer"):
        raise AssertionError(f"{why}: {parse(text.encode())}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.yaml: empty"),  # AWS's proxy panics.
        ("# only a comment\n", "f.yaml: empty"),
        ("- {address: a, port: 1}", ":1: a list without the key `allowlist`"),
        ("allow: []", ":1: key 'allowlist' is missing"),
        ("allowlist: {address: a, port: 1}", ":1: allowlist: a mapping, not a list"),
        ("allowlist:\n", ":1: allowlist: nothing, not a list"),
        ("allowlist: []\nallowlist: []", ":2: key 'allowlist' twice"),
        ("allowlist:\n- kms", ":2: allowlist: 'kms', not a mapping"),
        ("allowlist:\n- {address: a}", ":2: allowlist: key 'port' is missing"),
        ("allowlist:\n- {port: 1}", ":2: allowlist: key 'address' is missing"),
        ("allowlist:\n- {address: a, port: 1, port: 2}", ":2: allowlist: key 'port' twice"),
        ("allowlist:\n- {address: 1, port: 1}", ":2: address: '1' is not text in YAML"),
        ("allowlist:\n- {address: '*', port: 1}", ":2: address: '*' is not a pattern"),
        ("allowlist:\n- {address: 'a b', port: 1}", ":2: address: 'a b' is not a host name"),
        ("allowlist:\n- {[a]: b}", ":2: allowlist: a list, not text"),
        ("allowlist: [\n", ":2: not YAML: "),
        ("a: b\n---\nc: d\n", "not YAML"),
        ("[" * 10_000, "not YAML"),
        ("\0", "not YAML"),
    ],
)
def test_invalid_allowlist_is_rejected_with_its_line(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.yaml").write_text(text)
    with pytest.raises(ConfigurationError) as refusal:
        raise AssertionError(str(load_allowlist(Path("f.yaml"))))
    assert message in str(refusal.value)
    assert str(refusal.value).startswith("f.yaml")
    assert refusal.value.hint


def test_what_aws_ignores_is_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Its proxy looks at `allowlist`, `address` and `port` and at nothing else."""
    text = b"version: 1\nallowlist:\n- {address: a.b, port: 1, cid: 5}\n- {address: c.d, port: 2}"
    assert parse(text).entries == {("a.b", 1), ("c.d", 2)}
    assert [record.getMessage() for record in caplog.records] == [
        "allowlist:1: version: unknown key; it is ignored and restricts nothing",
        "allowlist:3: cid: unknown key; it is ignored and restricts nothing",
    ]


def test_list_in_a_file_of_ours_is_read() -> None:
    text = b"- {address: KMS.a.b, port: 443}\n- {port: '80', address: '*.a.b'}"
    entries = parse_settings(text, source="proxy.yaml")
    assert read_allowlist(entries).entries == {("kms.a.b", 443), ("*.a.b", 80)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {address: a.b, port: 1, cid: 5}", "proxy.yaml:1: unknown key 'cid'"),
        ("- {address: a.b}", "proxy.yaml:1: key 'port' is missing"),
        ("- {address: a.b, port: 1}\n- {port: 1}", "proxy.yaml:2: key 'address' is missing"),
        ("- {address: a.b, port: 0}", "proxy.yaml:1: port: '0' is not an integer in 1..65535"),
        ("- a.b:443", "proxy.yaml:1: 'a.b:443', not a mapping"),
    ],
)
def test_list_in_a_file_of_ours_is_read_strictly(
    text: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An unknown key may have been meant to restrict something."""
    with pytest.raises(ConfigurationError) as refusal:
        read_allowlist(parse_settings(text.encode(), source="proxy.yaml"))
    assert str(refusal.value).startswith(message)
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("allowlist: []", True),
        ("allowlist: []\nversion: 1", True),
        ("proxy: {allowlist: []}", False),
        ("- allowlist", False),
        ("[]", False),
    ],
)
def test_file_in_awss_format_is_recognised(text: str, is_one: bool) -> None:
    assert is_allowlist(parse_settings(text.encode(), source="f.yaml")) is is_one


@pytest.mark.parametrize("port", ['"443"', "'443'", "443"])
def test_port_may_be_quoted(port: str) -> None:
    assert parse(b"allowlist: [{address: a.b, port: %s}]" % port.encode()).allows("a.b", 443)


@pytest.mark.parametrize("port", ['"0443"', '"84536"', '" 443"', '"0x1bb"', '""'])
def test_quoted_port_must_be_valid_too(port: str) -> None:
    with pytest.raises(ConfigurationError, match=r"port: .* is not an integer in 1\.\.65535"):
        parse(b"allowlist: [{address: a.b, port: %s}]" % port.encode())


@pytest.mark.parametrize("address", ["[::1]", "::1", "[0:0::1]"])
def test_ipv6_address_may_have_brackets(address: str) -> None:
    assert listing(address).entries == {("::1", 443)}


@pytest.mark.parametrize("address", ["[127.0.0.1]", "[a.b]", "[]", "[::1", "::1]"])
def test_brackets_around_anything_else_are_rejected(address: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a host name"):
        listing(address)


_labels = st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=4)


@given(
    st.lists(st.tuples(_labels, st.integers(1, 2)), max_size=6),
    st.lists(st.sampled_from(["a", "b"]), max_size=4),
)
def test_patterns_match_label_by_label(
    patterns: list[tuple[list[str], int]], labels: list[str]
) -> None:
    listed = Allowlist(frozenset((".".join([*p, "x", "com"]), port) for p, port in patterns))
    matches = any(
        port == 1
        and len(pattern) == len(labels)
        and all(wanted in ("*", label) for wanted, label in zip(pattern, labels, strict=True))
        for pattern, port in patterns
    )
    assert listed.allows(".".join([*labels, "x", "com"]), 1) is matches


def test_aliases_are_rejected() -> None:
    bomb = "a0: &a0 [x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    with pytest.raises(ConfigurationError, match="aliases are not allowed"):
        parse(bomb.encode())


def test_recursive_list_is_rejected() -> None:
    with pytest.raises(ConfigurationError, match="aliases are not allowed"):
        parse(b"allowlist: &a [*a]")


def test_too_large_file_is_rejected(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_bytes(AWS_STYLE + b"#" * MAX_SIZE)
    with pytest.raises(ConfigurationError, match="more than"):
        load_allowlist(large)


def test_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "allowlist.yaml"
    file.write_bytes(AWS_STYLE)
    assert load_allowlist(file) == parse(AWS_STYLE)


@pytest.mark.parametrize(
    ("path", "message"), [("missing.yaml", "No such file"), (".", "Is a directory")]
)
def test_unreadable_file_is_named_in_the_error(tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refusal:
        load_allowlist(tmp_path / path)
    assert refusal.value.hint == ""  # The caller knows which option or key named it.


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda t: t.encode())))
@example(b"\xff\xfe\x00")
@example(b"%YAML 9.9\n---\na")
@example(b"? ? ? ?")
@example(b"a: !<> b")
@example(b"2001-99-99")
def test_any_bytes_parse_or_raise_configuration_error(data: bytes) -> None:
    try:
        parsed = parse(data)
    except ConfigurationError:
        return
    assert all(0 < port < 65536 for _, port in parsed.entries)


# Near misses find more than noise does.
_scalars = st.sampled_from(["allowlist", "address", "port", "443", "a.b", "*x", "&x", "[]", "{}"])
_marks = st.sampled_from([": ", "\n", "- ", ", ", "{", "}", "[", "]", " ", "  ", "'", '"', "#"])


@given(st.lists(st.one_of(_scalars, _marks), max_size=40).map("".join))
def test_any_yaml_parses_or_raises_configuration_error(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        parse(text.encode())
