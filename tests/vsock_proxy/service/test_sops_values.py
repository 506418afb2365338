"""Plain scalars of SOPS files: what go-yaml takes for text is text here."""

from __future__ import annotations

import pytest

from vsock_proxy.service.sops_values import resolved


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("9" * 5000, id="more digits than int takes"),
        pytest.param("-" + "1" * 400, id="an integer beyond every float"),
        "1e999",
        "-1e999",
        pytest.param("0x" + "f" * 5000, id="hexadecimal"),
    ],
)
def test_a_number_that_go_cannot_hold_is_text(text: str) -> None:
    assert resolved(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [("9223372036854775807", 2**63 - 1), ("9223372036854775808", 2.0**63), ("1e308", 1e308)],
)
def test_the_largest_numbers(text: str, value: float) -> None:
    found = resolved(text)
    assert (found, type(found)) == (value, type(value))
