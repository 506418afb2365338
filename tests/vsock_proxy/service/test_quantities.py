"""Numbers in text."""

from __future__ import annotations

import pytest

from vsock_proxy.service.quantities import whole_number


@pytest.mark.parametrize(
    ("text", "number"), [("1", 1), ("100", 100), ("0042", 42), ("0" * 5000 + "7", 7)]
)
def test_whole_numbers(text: str, number: int) -> None:
    assert whole_number(text, 1, 100) == number


@pytest.mark.parametrize(
    "text",
    ["", "0", "101", "-1", "+1", "1.0", "1_0", " 1", "\u0661", "\u00b2", "9" * 5000,
     "000000005" + "0" * 9],
)  # fmt: skip
def test_what_is_not_a_whole_number_in_range(text: str) -> None:
    assert whole_number(text, 1, 100) is None


def test_zero_and_an_empty_range() -> None:
    assert whole_number("000", 0, 0) == 0
    assert whole_number("0", 0, -1) is None
