"""Lines of a hostile writer: cut, made visible, counted."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parent.logs import lines
from parent.logs.intake import READS_PER_SECOND, Intake, Source
from parent.logs.lines import neutralise
from parent.logs.settings import LogSettings
from vsock_proxy.service.budget import Budget
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
def test_hidden_characters_become_visible(line: bytes, shown: str) -> None:
    assert neutralise(line) == shown


@given(
    st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode(errors="ignore"))
)
def test_no_line_controls_a_terminal(line: bytes) -> None:
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


def test_a_budget_limits_and_counts() -> None:
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


def test_no_call_is_made_for_each_character() -> None:
    """Escaping is the work of a table: 8 KiB of control codes took as many calls of Python."""
    calls = 0

    def trace(_frame: object, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    for line in (b"\0" * 8192, b"a\tb" * 2730, b"\xff" * 8192, "\u202e".encode() * 2730):
        neutralise(line)  # The table is filled.
        calls = 0
        sys.setprofile(trace)
        try:
            neutralise(line)
        finally:
            sys.setprofile(None)
        assert calls < 20, "a call for each character"


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer may send every character there is."""
    # A full table would stay full for the other tests.
    monkeypatch.setattr(lines, "_SHOWN", lines._Table(lines._SHOWN))
    for start in range(0, 0x110000, 1000):
        codes = range(start, min(start + 1000, 0x110000))
        text = "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
        neutralise(text.encode())
    assert len(lines._SHOWN) <= lines.MAX_CACHED


def test_work_is_bounded_in_reads_and_lines() -> None:
    """Single bytes, empty lines and escapes count as the work they make, not as their bytes."""
    settings = LogSettings(cids=None, bytes_per_second=1 << 20)

    def seconds_for(data: bytes, reads: int) -> float:
        source = Source(16, "worker", settings)
        intake = Intake(source)
        for _ in range(reads):
            intake.feed(0.0, data)
        return 1.0 + (source.resume_at(-10.0) or 0.0)

    assert seconds_for(b"x", READS_PER_SECOND) == pytest.approx(1.0)
    assert seconds_for(b"\n" * 16384, 32) == pytest.approx(1.0, rel=0.01)
    assert seconds_for(b"\0" * 8191 + b"\n", 32) == pytest.approx(1.0, rel=0.01)
    assert seconds_for(b"x" * 16383 + b"\n", 64) == pytest.approx(1.0, rel=0.01)
