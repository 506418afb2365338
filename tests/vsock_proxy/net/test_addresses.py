"""Addresses as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import (
    MAX_PORT,
    MAX_UNIX_PATH,
    MAX_VSOCK,
    VMADDR_CID_ANY,
    Address,
    HybridAddress,
    TcpAddress,
    UnixAddress,
    VsockAddress,
    is_host,
    parse_address,
    parse_destination,
    parse_proxy,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("vsock://3:8000", VsockAddress(3, 8000)),
        ("vsock://any:8000", VsockAddress(VMADDR_CID_ANY, 8000)),
        ("vsock://16:4294967294", VsockAddress(16, 4294967294)),
        ("unix:/run/proxy.sock", UnixAddress("/run/proxy.sock")),
        ("unix:///run/proxy.sock", UnixAddress("/run/proxy.sock")),
        ("unix:here.sock", UnixAddress("here.sock")),
        ("unix:////run", UnixAddress("//run")),
        ("hvsock:///run/vm.sock:5000", HybridAddress("/run/vm.sock", 5000)),
        ("hvsock://a:b:1", HybridAddress("a:b", 1)),
        ("tcp://127.0.0.1:0", TcpAddress("127.0.0.1", 0)),
        ("tcp://kms.us-east-1.amazonaws.com:443", TcpAddress("kms.us-east-1.amazonaws.com", 443)),
        ("tcp://[::1]:443", TcpAddress("::1", 443)),
        ("tcp://[fe80::1%eth0]:443", TcpAddress("fe80::1%eth0", 443)),
    ],
)
def test_every_address_form_is_parsed(text: str, address: object) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3:8000",
        "vsock:3:8000",
        "vsock://",
        "vsock://3",
        "vsock://3:",
        "vsock://3:-1",
        "vsock://3:4294967295",
        "vsock://4294967296:1",
        "vsock://3:80:80",
        "vsock://\u0663:8000",
        "vsock://3:8000 ",
        "vsock://3:8000\n",
        "vsock://+3:8000",
        "hvsock://:1",
        "hvsock:///run/vm.sock",
        "hvsock:///run/vm.sock:",
        "hvsock:///run/vm.sock:4294967295",
        "hvsock:/run/vm.sock:1",
        "hvsock://a\0:1",
        f"hvsock:///{'x' * 103}:8000",
        "unix:",
        "unix://",
        "unix:/a\0b",
        "unix:/a\ud800",
        "unix:/" + "a" * MAX_UNIX_PATH,
        "unix:/" + "\u00e4" * 60,
        "tcp://",
        "tcp://:80",
        "tcp://host",
        "tcp://host:65536",
        "tcp://host:1_0",
        "tcp://::1:80",
        "tcp://[127.0.0.1]:80",
        "tcp://[::1:80",
        "tcp://user@host:80",
        "tcp://host/path:80",
        "tcp://-host:80",
        "tcp://host-:80",
        "tcp://256.1.1.1:80",
        "tcp://010.0.0.1:80",
        "tcp://" + "a" * 300 + ":80",
        "http://host:80",
        "VSOCK://3:8000",
    ],
)
def test_invalid_address_is_rejected_with_a_hint(text: str) -> None:
    with pytest.raises(ConfigurationError, match="not an address") as refusal:
        raise AssertionError(str(parse_address(text)))
    assert refusal.value.hint


@given(
    st.one_of(
        st.text(max_size=60),
        st.builds(
            "".join,
            st.tuples(
                st.sampled_from(["vsock://", "unix:", "unix://", "tcp://", "tcp://["]),
                st.text(
                    st.sampled_from("0123456789abcdef.:[]%-_/\0\n \u0663\udc80\ud800"), max_size=40
                ),
            ),
        ),
    )
)
def test_any_text_parses_or_raises_configuration_error(text: str) -> None:
    try:
        address = parse_address(text)
    except ConfigurationError:
        return
    assert parse_address(str(address)) == address


_cids = st.integers(0, MAX_VSOCK)
_vsock = st.builds(VsockAddress, _cids, st.integers(0, MAX_VSOCK - 1))
_paths = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=26)
_unix = st.builds(UnixAddress, _paths.map(lambda path: "/" + path.strip("/")))
_hosts = st.one_of(
    st.from_regex(
        r"([a-z0-9]([a-z0-9.-]{0,40}[a-z0-9])?\.)?[a-z]([a-z0-9-]{0,9}[a-z0-9])?", fullmatch=True
    ),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
)
_tcp = st.builds(TcpAddress, _hosts, st.integers(0, MAX_PORT))


_hybrid = st.builds(
    HybridAddress, _paths.map(lambda path: "/" + path[:20]), st.integers(0, MAX_VSOCK - 1)
)


@given(st.one_of(_vsock, _unix, _hybrid, _tcp))
def test_address_round_trips_through_text(address: Address) -> None:
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["a", "kms.amazonaws.com", "a.b.", "127.0.0.1", "::1", "fe80::1%lo", "1a", "0x1.a", "1.2.3.4a"],
)
def test_valid_hosts(text: str) -> None:
    assert is_host(text)


@pytest.mark.parametrize("text", ["", "[::1]", "a b", "a:80", "*", "a/b", "a\n", "::1%" + "x" * 16])
def test_invalid_hosts(text: str) -> None:
    assert not is_host(text)


@pytest.mark.parametrize(
    "text",
    ["127.1", "2130706433", "0x7f.1", "0X7F000001", "010.0.0.1", "1.2.3.4.", "256.1.1.1", "a.1",
     "1.2.3.4.5", "1", "0x", "a.0x"],
)  # fmt: skip
def test_what_ends_in_a_number_is_an_ipv4_address_or_no_host(text: str) -> None:
    """getaddrinfo(3) reads the first five as addresses, 010.0.0.1 as another one than is meant."""
    assert not is_host(text)
    with pytest.raises(ConfigurationError, match="is not a host"):
        raise AssertionError(str(parse_address(f"tcp://{text}:80")))


@pytest.mark.parametrize("text", ["tcp://127.0.0.1:0", "tcp://[::1]:0", "vsock://any:8000"])
@pytest.mark.parametrize("before", ["", "connect:"])
def test_where_one_can_only_listen_is_no_destination(text: str, before: str) -> None:
    parse_address(text)
    with pytest.raises(ConfigurationError, match="cannot be connected to: ") as caught:
        parse_proxy(before + text)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["tcp://127.0.0.1:1", "vsock://3:0", "unix:/x", "hvsock:///x:0"])
def test_every_other_address_is_a_destination(text: str) -> None:
    assert parse_destination(text) == parse_address(text)
