"""The queue of lines to send, what it drops, and the delays between connections."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.logs.link import BACKOFF, LASTED, Link
from enclave.logs.outbox import BATCH, LONGEST, OVERHEAD, Outbox
from vsock_proxy.service.log_lines import MAX_LINE, TRUNCATED, LineSplitter

RECONNECTED = "enclave-agent: logs: reconnected: lines just before this may be missing"


def dropped(lines: int, size: int) -> str:
    return (
        f"enclave-agent: logs: {lines} lines ({size} bytes) dropped here: "
        "they came faster than they were read"
    )


def drain(outbox: Outbox, step: int = 1 << 20) -> list[str]:
    """Return the lines that a connection gets which takes `step` bytes at a time."""
    taken = b""
    while batch := outbox.batch():
        taken += batch[:step]
        outbox.wrote(len(batch[:step]))
    return taken.decode().splitlines()


def test_lines_come_out_in_order() -> None:
    outbox = Outbox()
    assert not outbox
    assert outbox.batch() == b""
    outbox.put([b"one", b"", b"three"])
    assert outbox
    assert outbox.lines == [b"one\n", b"\n", b"three\n"]
    assert drain(outbox, 2) == ["one", "", "three"]
    assert not outbox
    assert outbox.dropped == 0


def test_oldest_lines_are_dropped_and_counted_in_their_place() -> None:
    outbox = Outbox(3 * (2 + OVERHEAD))
    outbox.put(b"%d" % n for n in range(10))
    assert outbox.dropped == 7
    assert drain(outbox) == [dropped(7, 14), "7", "8", "9"]
    outbox.put([b"a"])
    assert drain(outbox) == ["a"]


def test_lines_dropped_during_a_batch_are_reported_after_it() -> None:
    outbox = Outbox(2 * (2 + OVERHEAD))
    outbox.put([b"a", b"b"])
    assert outbox.batch() == b"a\nb\n"
    outbox.wrote(1)
    outbox.put([b"c", b"d", b"e"])
    assert drain(outbox, 1) == ["", "b", dropped(1, 2), "d", "e"]


def test_half_written_line_is_sent_whole_on_the_next_connection() -> None:
    outbox = Outbox()
    outbox.put([b"first", b"second", b"third"])
    assert outbox.batch() == b"first\nsecond\nthird\n"
    outbox.wrote(8)
    assert outbox.lines == [b"second\n", b"third\n"]
    outbox.broke()
    assert drain(outbox) == [RECONNECTED, "second", "third"]
    outbox.put([b"fourth"])
    assert drain(outbox) == ["fourth"]


def test_connection_that_took_nothing_is_not_reported() -> None:
    outbox = Outbox()
    outbox.put([b"first"])
    outbox.batch()
    outbox.broke()
    outbox.broke()
    assert drain(outbox) == ["first"]


def test_half_written_note_is_sent_again() -> None:
    outbox = Outbox(1 * (2 + OVERHEAD))
    outbox.put([b"a", b"b"])
    note = dropped(1, 2).encode()
    assert outbox.batch() == note + b"\nb\n"
    outbox.wrote(len(note))
    outbox.broke()
    assert drain(outbox) == [RECONNECTED, dropped(1, 2), "b"]
    assert outbox.dropped == 1


def test_older_lines_are_not_requeued_after_younger_were_dropped() -> None:
    outbox = Outbox(2 * (2 + OVERHEAD))
    outbox.put([b"a", b"b"])
    outbox.batch()
    outbox.put([b"c", b"d", b"e"])
    outbox.broke()
    assert outbox.dropped == 3
    assert drain(outbox) == [dropped(3, 6), "d", "e"]


def test_older_lines_are_not_requeued_even_if_there_is_room() -> None:
    outbox = Outbox(300)
    outbox.put([b"small"])
    outbox.batch()
    outbox.put([b"x" * 150])
    outbox.put([b"y" * 150])
    outbox.broke()
    assert drain(outbox) == [dropped(2, 157), "y" * 150]


def test_empty_lines_count_against_the_limit() -> None:
    outbox = Outbox(1 << 16)
    for _ in range(1000):
        outbox.put([b""] * 1000)
    assert len(outbox.lines) <= (1 << 16) / OVERHEAD
    assert outbox.dropped + len(outbox.lines) == 1_000_000


def test_batch_size_is_bounded() -> None:
    outbox = Outbox(1 << 20)
    outbox.put([b"x" * LONGEST + TRUNCATED] * 100)
    assert len(outbox.batch()) <= BATCH


def test_line_truncated_here_is_not_truncated_again_by_the_sink() -> None:
    [line] = LineSplitter(LONGEST).feed(b"x" * 100_000 + b"\n")
    assert len(line) == MAX_LINE
    sink = LineSplitter()
    assert sink.feed(line + b"\n") == [line]
    assert sink.truncated == 0


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 30)),
        st.tuples(st.just("write"), st.integers(1, 200)),
        st.tuples(st.just("break"), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS, st.integers(3, 40))
def test_every_lost_line_is_counted(steps: list[tuple[str, int]], room: int) -> None:
    """Each line arrives once, in order, or is counted in its place."""
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
        # The part after the last line end is sent again.
        for line in connection.decode().split("\n")[:-1]:
            if gap := re.search(r"(\d+) lines \((\d+) bytes\) dropped here", line):
                assert int(gap[2]) == 5 * int(gap[1])
                told += int(gap[1])
                expected += int(gap[1])
            elif line != RECONNECTED:
                assert int(line) == expected
                expected += 1
    assert expected == number
    assert told == outbox.dropped
    for before, connection in itertools.pairwise(connections):
        if before and connection:
            assert connection.startswith(RECONNECTED.encode()[: len(connection)])


@pytest.mark.parametrize("lasted", [None, 0.0, LASTED - 0.1])
def test_delays_grow_up_to_the_longest(lasted: float | None) -> None:
    """After refused connections, and after connections that were closed soon."""
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
    assert delays[0] == pytest.approx(BACKOFF.first)
    assert delays[1] == pytest.approx(2 * BACKOFF.first)
    assert delays[-1] == pytest.approx(BACKOFF.most)


def test_delay_is_short_after_a_lasting_connection() -> None:
    link = Link()
    for _ in range(10):
        link.ended(0)
    link.began(50)
    link.ended(50 + LASTED)
    assert link.delay(50 + LASTED) == pytest.approx(BACKOFF.first)
