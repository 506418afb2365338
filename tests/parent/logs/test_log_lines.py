"""Lines of a hostile writer: cut, made visible, counted."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parent.budget import Budget
from parent.logs.lines import neutralise
from vsock_proxy.service.log_lines import LineSplitter


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"plain", "plain"),
        (b"a\ttab", "a\ttab"),
        ("größer — 日本語 🎉".encode(), "größer — 日本語 🎉"),
        (rb"C:\path", r"C:\path"),
        (b"\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        (b"a\rb\x00c\x7f", r"a\x0db\x00c\x7f"),
        (b"\xff\xfe", r"\xff\xfe"),
        ("\x9b31m".encode(), r"\u009b31m"),
        ("a\u202eb\u2066c\u200bd\ufeff".encode(), r"a\u202eb\u2066c\u200bd\ufeff"),
        ("\u2028\U000e0041".encode(), r"\u2028\U000e0041"),
        (b"\xed\xa0\x80", r"\xed\xa0\x80"),
        (rb"\x1b" + b"\x1b", r"\\x1b\x1b"),
    ],
)
def test_what_is_hidden_becomes_visible(line: bytes, shown: str) -> None:
    assert neutralise(line) == shown


@given(
    st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode(errors="ignore"))
)
def test_nothing_in_a_line_does_anything(line: bytes) -> None:
    shown = neutralise(line)
    shown.encode()
    for character in shown:
        assert character == "\t" or unicodedata.category(character)[0] != "C"
        assert unicodedata.category(character) not in ("Zl", "Zp")
    assert len(shown.splitlines()) <= 1
    assert len(shown) <= 4 * len(line)


@given(st.lists(st.binary(max_size=40)), st.integers(1, 20))
def test_pieces_make_the_same_lines_as_the_whole(pieces: list[bytes], limit: int) -> None:
    whole, parts = LineSplitter(limit), LineSplitter(limit)
    together = whole.feed(b"".join(pieces)) + whole.end()
    assert [line for piece in pieces for line in parts.feed(piece)] + parts.end() == together
    assert parts.truncated == whole.truncated
    raw = b"".join(pieces).split(b"\n")
    assert parts.truncated == sum(max(0, len(line) - limit) for line in raw)
    assert len(together) == len(raw) - (not raw[-1])
    for line, original in zip(together, raw, strict=False):
        if len(original) <= limit:
            assert line == original.removesuffix(b"\r")
        else:
            assert line == original[:limit] + "…".encode()


def test_little_is_kept_of_a_line_that_never_ends() -> None:
    splitter = LineSplitter(100)
    for _ in range(1000):
        assert splitter.feed(b"x" * 1000) == []
    assert splitter.truncated == 1_000_000 - 100
    assert splitter.feed(b"\nnext\n") == [b"x" * 100 + "…".encode(), b"next"]


def test_a_budget_is_kept_and_what_is_over_is_counted() -> None:
    budget = Budget(10, burst=2, period=5)
    assert sum(budget.take(0) for _ in range(100)) == 20
    assert budget.dropped == 80
    assert budget.report(0) == 80
    assert sum(budget.take(1) for _ in range(100)) == 10
    assert budget.report(4) == 0
    assert budget.report(5) == 90
    assert budget.report(100) == 0
    assert sum(budget.take(1000) for _ in range(100)) == 20


@given(st.lists(st.floats(0, 10), max_size=200))
def test_no_more_than_the_rate_and_one_burst_pass(steps: list[float]) -> None:
    budget, now, passed = Budget(3, burst=2), 0.0, 0
    for step in steps:
        now += step
        passed += budget.take(now)
    assert passed <= 3 * now + 6
    assert passed + budget.dropped == len(steps)
