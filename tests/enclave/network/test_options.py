"""The options of ``serve`` for the program's network."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import pytest

from enclave.errors import ConfigurationError
from enclave.network.options import NetworkOptions, Target, add_options
from vsock_proxy.net.addresses import ConnectProxy, TcpAddress, UnixAddress, VsockAddress

if TYPE_CHECKING:
    from pathlib import Path

ALLOW = ("--egress", "--egress-allow", "s3.amazonaws.com:443")


def read(*words: str) -> NetworkOptions | None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return NetworkOptions.from_args(parser.parse_args(words))


def test_without_any_there_is_no_network() -> None:
    assert read() is None


def test_every_option_is_read(tmp_path: Path) -> None:
    listed = tmp_path / "allow"
    listed.write_text(
        "# what the program needs\n*.s3.amazonaws.com:443\n\n[2001:DB8::1]:8443 # v6\n"
    )
    options = read(
        *ALLOW, "--egress-allow-file", str(listed),
        "--egress-listen", "tcp://127.0.0.2:1", "--egress-proxy", "vsock://3:9",
        "--egress-host", "api.example.com:443", "--forward", "tcp://127.0.0.1:5432=db.internal:5432",
        "--forward", "unix:/run/db=[2001:db8::2]:1",
        "--ingress", "vsock://any:8443=tcp://127.0.0.1:8443",
    )  # fmt: skip
    assert options == NetworkOptions(
        listen=TcpAddress("127.0.0.2", 1),
        proxy=ConnectProxy(VsockAddress(3, 9)),
        allowed=frozenset(
            {("s3.amazonaws.com", 443), ("*.s3.amazonaws.com", 443), ("2001:db8::1", 8443)}
        ),
        targets=(
            Target("api.example.com", 443),
            Target("db.internal", 5432, TcpAddress("127.0.0.1", 5432)),
            Target("2001:db8::2", 1, UnixAddress("/run/db")),
        ),
        ingress=((VsockAddress(0xFFFF_FFFF, 8443), TcpAddress("127.0.0.1", 8443)),),
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--egress",), "--egress without a host that may be reached"),
        (("--egress-allow", "a.b:1"), "--egress-allow without --egress"),
        (("--egress", "--egress-allow", "a.b"), "--egress-allow: 'a.b' is not HOST:PORT"),
        (("--egress", "--egress-allow", "a.b:99999"), "is not HOST:PORT"),
        (("--egress", "--egress-allow", "::1:443"), "an IPv6 address has brackets"),
        (("--egress", "--egress-allow", "*.com:443"), "'*.com' is not a pattern"),
        (("--egress", "--egress-allow", "a b:443"), "'a b' is not a host name"),
        (("--egress", "--egress-allow-file", "/nowhere"), "cannot read /nowhere"),
        ((*ALLOW, "--egress-listen", "tcp://0.0.0.0:1"), "for programs in this enclave"),
        ((*ALLOW, "--egress-listen", "unix:/x"), "for programs in this enclave"),
        ((*ALLOW, "--egress-proxy", "tcp://name:1"), "the proxy is named by an IP address"),
        ((*ALLOW, "--egress-proxy", "vsock://any:1"), "`any` is for listening"),
        ((*ALLOW, "--egress-proxy", "hvsock:///x:1"), "cannot be connected to from an enclave"),
        (("--egress-host", "10.0.0.1:443"), "not a name that can be given another address"),
        (("--egress-host", "localhost:443"), "not a name that can be given another address"),
        (("--egress", "--egress-allow", "https://a.b:443"), "is a URL, not HOST:PORT"),
        ((*ALLOW, "--egress-proxy", "tcp://127.0.0.1:0"), "port 0 stands for any free port"),
        (("--egress-host", "a.b:443", "--egress-host", "A.b:443"), "a.b:443: given twice"),
        (("--egress-host", "*.b.com:443"), "one host, not a pattern"),
        (("--egress-host", "b.com"), "--egress-host: 'b.com' is not HOST:PORT"),
        (("--forward", "tcp://127.0.0.1:1"), "no target"),
        (("--forward", "tcp://10.0.0.1:1=a:1"), "for programs in this enclave"),
        (("--ingress", "vsock://any:1"), "no target"),
        (("--ingress", "tcp://0.0.0.0:1=tcp://127.0.0.1:1"), "it comes in over vsock"),
        (("--ingress", "vsock://any:1=tcp://10.0.0.1:1"), "is not in the enclave"),
        (("--ingress", "vsock://any:1=vsock://3:1"), "is not in the enclave"),
        (("--ingress", "vsock://any:1=tcp://127.0.0.1:0"), "port 0 stands for any free port"),
    ],
)
def test_options_that_make_no_sense_are_rejected(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(*words)
    assert message in str(caught.value)
    assert caught.value.hint


def test_mistake_in_the_file_has_its_line(tmp_path: Path) -> None:
    listed = tmp_path / "allow"
    listed.write_text("a.b.com:443\nnonsense\n")
    with pytest.raises(ConfigurationError, match=f"{listed}:2: 'nonsense' is not HOST:PORT"):
        read("--egress", "--egress-allow-file", str(listed))
