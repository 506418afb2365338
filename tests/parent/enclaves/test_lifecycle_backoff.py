"""Pauses between two starts of an enclave."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from parent.enclaves.lifecycle import (
    Look,
    Run,
    Wait,
    backoff,
)
from parent.enclaves.settings import Restart
from tests.parent.enclaves.lifecycles import lifecycle


def test_backoff_doubles_up_to_its_limit() -> None:
    restart = Restart(first=1.0, longest=300.0)
    least = [backoff(restart, failures, 0) for failures in range(1, 12)]
    assert least == [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 150, 150]
    assert backoff(restart, 3, 0.5) == 3


def test_pauses_grow_with_failures_in_a_row() -> None:
    machine = lifecycle(chance=0)
    now = 0.0
    waits: list[float] = []
    while len(waits) < 5:
        match machine.next(now):
            case Look():
                machine.looked(now, (), complete=True)
            case Run():
                machine.run_failed(now, "E36")
            case Wait(until):
                waits.append(until - now)
                now = until
    assert waits == [0.5, 1, 2, 4, 8]


@given(
    first=st.floats(0.1, 1e4),
    factor=st.floats(1, 1e4),
    failures=st.integers(1, 10**9),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_backoff_has_bounds(first: float, factor: float, failures: int, chance: float) -> None:
    restart = Restart(first=first, longest=first * factor)
    delay = backoff(restart, failures, chance)
    assert first / 2 <= delay <= restart.longest
    assert delay <= backoff(restart, failures + 1, chance)
    assert backoff(restart, failures, 0) <= delay
