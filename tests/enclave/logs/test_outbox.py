"""Lines that wait, what is left out of them, and when to connect. No I/O."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.logs.link import FIRST_DELAY, LASTED, LONGEST_DELAY, Link
from enclave.logs.outbox import BATCH, LONGEST, OVERHEAD, Outbox
from vsock_proxy.service.log_lines import CUT, MAX_LINE, LineSplitter

AGAIN = "enclave-agent: logs: connected again: lines just before this may be missing"


def left_out(lines: int, size: int) -> str:
    return (
        f"enclave-agent: logs: {lines} lines ({size} bytes) left out here: "
        "they came faster than they were read"
    )


def drain(outbox: Outbox, step: int = 1 << 20) -> list[str]:
    """What a connection gets that takes `step` bytes at a time."""
    taken = b""
    while batch := outbox.batch():
        taken += batch[:step]
        outbox.wrote(len(batch[:step]))
    return taken.decode().splitlines()


def test_lines_come_out_as_they_went_in() -> None:
    outbox = Outbox()
    assert not outbox
    assert outbox.batch() == b""
    outbox.put([b"one", b"", b"three"])
    assert outbox
    assert outbox.lines == [b"one\n", b"\n", b"three\n"]
    assert drain(outbox, 2) == ["one", "", "three"]
    assert not outbox
    assert outbox.left_out == 0


def test_the_oldest_go_and_their_place_says_how_many() -> None:
    outbox = Outbox(3 * (2 + OVERHEAD))
    outbox.put(b"%d" % n for n in range(10))
    assert outbox.left_out == 7
    assert drain(outbox) == [left_out(7, 14), "7", "8", "9"]
    outbox.put([b"a"])
    assert drain(outbox) == ["a"]


def test_what_is_left_out_while_a_batch_is_written_is_said_behind_it() -> None:
    outbox = Outbox(2 * (2 + OVERHEAD))
    outbox.put([b"a", b"b"])
    assert outbox.batch() == b"a\nb\n"
    outbox.wrote(1)
    outbox.put([b"c", b"d", b"e"])
    assert drain(outbox, 1) == ["", "b", left_out(1, 2), "d", "e"]


def test_half_a_line_is_sent_whole_on_the_next_connection() -> None:
    outbox = Outbox()
    outbox.put([b"first", b"second", b"third"])
    assert outbox.batch() == b"first\nsecond\nthird\n"
    outbox.wrote(8)
    assert outbox.lines == [b"second\n", b"third\n"]
    outbox.broke()
    assert drain(outbox) == [AGAIN, "second", "third"]
    outbox.put([b"fourth"])
    assert drain(outbox) == ["fourth"]


def test_a_connection_that_took_nothing_is_not_worth_a_word() -> None:
    outbox = Outbox()
    outbox.put([b"first"])
    outbox.batch()
    outbox.broke()
    outbox.broke()
    assert drain(outbox) == ["first"]


def test_a_note_that_nobody_got_whole_is_said_again() -> None:
    outbox = Outbox(1 * (2 + OVERHEAD))
    outbox.put([b"a", b"b"])
    note = left_out(1, 2).encode()
    assert outbox.batch() == note + b"\nb\n"
    outbox.wrote(len(note))
    outbox.broke()
    assert drain(outbox) == [AGAIN, left_out(1, 2), "b"]
    assert outbox.left_out == 1


def test_where_younger_lines_had_to_go_older_ones_are_not_brought_back() -> None:
    outbox = Outbox(2 * (2 + OVERHEAD))
    outbox.put([b"a", b"b"])
    outbox.batch()
    outbox.put([b"c", b"d", b"e"])
    outbox.broke()
    assert outbox.left_out == 3
    assert drain(outbox) == [left_out(3, 6), "d", "e"]


def test_nor_where_there_would_be_room_for_them() -> None:
    outbox = Outbox(300)
    outbox.put([b"small"])
    outbox.batch()
    outbox.put([b"x" * 150])
    outbox.put([b"y" * 150])
    outbox.broke()
    assert drain(outbox) == [left_out(2, 157), "y" * 150]


def test_a_million_empty_lines_take_no_more_than_the_limit() -> None:
    outbox = Outbox(1 << 16)
    for _ in range(1000):
        outbox.put([b""] * 1000)
    assert len(outbox.lines) <= (1 << 16) / OVERHEAD
    assert outbox.left_out + len(outbox.lines) == 1_000_000


def test_a_batch_is_bounded() -> None:
    outbox = Outbox(1 << 20)
    outbox.put([b"x" * LONGEST + CUT] * 100)
    assert len(outbox.batch()) <= BATCH


def test_a_line_that_was_cut_here_is_not_cut_again_by_the_sink() -> None:
    [line] = LineSplitter(LONGEST).feed(b"x" * 100_000 + b"\n")
    assert len(line) == MAX_LINE
    sink = LineSplitter()
    assert sink.feed(line + b"\n") == [line]
    assert sink.cut == 0


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 30)),
        st.tuples(st.just("write"), st.integers(1, 200)),
        st.tuples(st.just("break"), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS, st.integers(3, 40))
def test_nothing_is_lost_silently(steps: list[tuple[str, int]], room: int) -> None:
    """Whatever happens, each line arrives once or is counted, in order, at its place."""
    outbox = Outbox(room * (5 + OVERHEAD))
    connections = [b""]
    number = 0
    for step, amount in steps:
        if step == "put":
            outbox.put(b"%04d" % n for n in range(number, number + amount))
            number += amount
        elif step == "write":
            part = outbox.batch()[:amount]
            connections[-1] += part
            if part:
                outbox.wrote(len(part))
        else:
            outbox.broke()
            connections.append(b"")
    outbox.broke()
    connections.append("".join(f"{line}\n" for line in drain(outbox)).encode())
    expected = 0
    told = 0
    for connection in connections:
        # What is behind the last line's end comes again.
        for line in connection.decode().split("\n")[:-1]:
            if gap := re.search(r"(\d+) lines \((\d+) bytes\) left out here", line):
                assert int(gap[2]) == 5 * int(gap[1])
                told += int(gap[1])
                expected += int(gap[1])
            elif line != AGAIN:
                assert int(line) == expected
                expected += 1
    assert expected == number
    assert told == outbox.left_out
    for before, connection in itertools.pairwise(connections):
        if before and connection:
            assert connection.startswith(AGAIN.encode()[: len(connection)])


@pytest.mark.parametrize("lasted", [None, 0.0, LASTED - 0.1])
def test_delays_grow_up_to_the_longest(lasted: float | None) -> None:
    """Refused, or accepted and closed soon."""
    link, now = Link(), 100.0
    assert link.delay(now) == 0
    delays = []
    for _ in range(10):
        if lasted is not None:
            link.began(now)
            assert link.delay(now) == 0
            now += lasted
        link.ended(now)
        delays.append(link.delay(now))
        now += delays[-1]
        assert link.delay(now) == pytest.approx(0)
    assert delays[0] == pytest.approx(FIRST_DELAY)
    assert delays[1] == pytest.approx(2 * FIRST_DELAY)
    assert delays[-1] == pytest.approx(LONGEST_DELAY)


def test_after_a_good_connection_the_next_attempt_is_soon() -> None:
    link = Link()
    for _ in range(10):
        link.ended(0)
    link.began(50)
    link.ended(50 + LASTED)
    assert link.delay(50 + LASTED) == pytest.approx(FIRST_DELAY)
