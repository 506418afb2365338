"""What was probably meant by text that is not a host."""

from __future__ import annotations

import pytest

from vsock_proxy.service.address_guess import host_hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("https://kms.eu-west-1.amazonaws.com/", "write the host alone"),
        ("kms.eu-west-1.amazonaws.com:443", "write kms.eu-west-1.amazonaws.com: "),
        ("kms.eu-west-1.amazonaws.com:", "write kms.eu-west-1.amazonaws.com: "),
        ("[fd00::1]:443", "write fd00::1: "),
        ("10.0.0.0/8", "networks cannot be listed"),
        ("fd00::/8", "networks cannot be listed"),
        ("stra\xdfe.example", "write the name's ASCII form"),
        ("a b", ""),
        ("evil.example/x", ""),
        ("a:b:c", ""),
        ("a b:443", ""),
        (":443", ""),
        ("", ""),
    ],
)
def test_hint(text: str, hint: str) -> None:
    told = host_hint(text)
    assert told.startswith(hint) if hint else not told
