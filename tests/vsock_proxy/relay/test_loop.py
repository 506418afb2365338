"""The event loop: order of a turn, calls from other threads, ticks."""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING

import pytest

from vsock_proxy.relay.loop import BUFFER_SIZE, MAX_HELD, SCARCE_BUFFER_SIZE, Loop

if TYPE_CHECKING:
    from collections.abc import Iterator


class Recorder:
    """Records events and resumptions."""

    def __init__(self, loop: Loop, said: list[str]) -> None:
        self.loop = loop
        self.said = said

    def ready(self, fd: int, _events: int) -> None:
        os.eventfd_read(fd)
        self.said.append("event")
        self.loop.later(lambda: self.said.append("later"))
        for _ in range(3):
            self.loop.resume_soon(self)

    def resume(self) -> None:
        self.said.append("resumed")


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop(tick=1000) as loop:
        yield loop


def test_turn_runs_events_then_resumed_then_later_calls(loop: Loop) -> None:
    said: list[str] = []
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    loop.add(fd, Recorder(loop, said), select.EPOLLIN)
    os.eventfd_write(fd, 1)
    loop.turn()
    assert said == ["event", "later"]
    os.eventfd_write(fd, 1)
    loop.turn()
    assert said[2:] == ["event", "resumed", "later"]
    loop.turn()
    assert said[5:] == ["resumed"]
    loop.forget(fd)
    os.close(fd)


def test_calls_added_by_calls_run_in_the_next_turn(loop: Loop) -> None:
    def again() -> None:
        loop.later(again)

    loop.later(again)
    for _ in range(3):
        loop.turn()
    assert loop.turns == 3


def test_call_from_another_thread_wakes_the_loop(loop: Loop) -> None:
    called: list[str] = []
    thread = threading.Thread(
        target=lambda: loop.call_from_thread(lambda: called.append(threading.current_thread().name))
    )
    thread.start()
    while not called:
        loop.turn()
    thread.join()
    assert called == [threading.current_thread().name]


def test_closed_loop_ignores_calls() -> None:
    with Loop() as loop:
        pass
    loop.call_from_thread(lambda: pytest.fail("it was called"))


def test_tick_comes_on_time() -> None:
    times = iter([0.0, 1.0, 9.0, 10.0, 11.0, 35.0, 36.0])
    ticks = []
    with Loop(tick=10, monotonic=lambda: next(times)) as loop:
        loop.every_tick(lambda: ticks.append(loop.now))
        for _ in range(6):
            loop.later(lambda: None)  # So that the turn does not wait.
            loop.turn()
    assert ticks == [10.0, 35.0]


def test_reads_are_small_while_too_much_is_held(loop: Loop) -> None:
    assert len(loop.buffer) == BUFFER_SIZE
    loop.hold(MAX_HELD + 1)
    assert len(loop.buffer) == SCARCE_BUFFER_SIZE
    loop.hold(-1)
    assert len(loop.buffer) == BUFFER_SIZE
