"""Delays between attempts: doubled from the first to the longest, with a random share."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsock_proxy.service.backoff import Backoff


def test_delays_double_up_to_the_longest() -> None:
    backoff = Backoff(first=0.1, most=5.0)
    assert [backoff.delay(n) for n in range(1, 9)] == pytest.approx(
        [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    )


@pytest.mark.parametrize(
    ("jitter", "bounds"), [(0.0, (4.0, 4.0)), (0.5, (2.0, 4.0)), (1.0, (0.0, 4.0))]
)
def test_jitter_is_the_random_share_of_a_delay(jitter: float, bounds: tuple[float, float]) -> None:
    backoff = Backoff(first=1.0, most=60.0, jitter=jitter)
    assert backoff.delay(3, lambda least, _: least) == bounds[0]
    assert backoff.delay(3, lambda _, most: most) == bounds[1]


@given(st.integers(1, 10**9), st.sampled_from([0.0, 0.5, 1.0]))
def test_any_number_of_failures_has_a_delay_within_bounds(failures: int, jitter: float) -> None:
    delay = Backoff(first=0.1, most=5.0, jitter=jitter).delay(failures, random.uniform)
    assert 0.0 <= delay <= 5.0
    assert delay >= 0.1 * (1 - jitter)
