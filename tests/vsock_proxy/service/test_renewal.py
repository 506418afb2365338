"""When credentials are renewed: laws that hold for the parent and for the enclave."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsock_proxy.service.backoff import Backoff
from vsock_proxy.service.renewal import LONGEST_USE, Renewal, RenewalPolicy

POLICY = RenewalPolicy(shortest_use=5.0, pause=Backoff(first=1.0, most=60.0, jitter=0.5))


def renewal(chance: float = 1.0) -> Renewal:
    return Renewal(POLICY, lambda low, high: low + chance * (high - low))


def test_before_the_first_response_it_is_due() -> None:
    made = renewal()
    assert (made.wait(0.0), made.failures) == (0.0, 0)


@given(lifetime=st.none() | st.floats(0, 1e7), chance=st.floats(0, 1), now=st.floats(0, 1e6))
def test_credentials_are_renewed_after_half_of_their_lifetime(
    lifetime: float | None, chance: float, now: float
) -> None:
    """At least a half is left then, unless that is too soon; and never later than 15 minutes."""
    made = renewal(chance)
    made.succeeded(now, lifetime)
    wait = made.wait(now)
    assert 0.8 * POLICY.shortest_use - 1e-6 <= wait <= LONGEST_USE + 1e-6
    if lifetime is not None and lifetime / 2 >= POLICY.shortest_use:
        assert wait <= lifetime / 2 + 1e-6
    assert made.is_due(now) == (wait == 0)


@given(failures=st.integers(1, 2000), chance=st.floats(0, 1))
def test_pauses_double_up_to_their_limit(failures: int, chance: float) -> None:
    made = renewal(chance)
    for _ in range(failures):
        made.failed(0.0)
    full = min(POLICY.pause.most, 2.0 ** min(failures - 1, 60))
    assert full / 2 <= made.wait(0.0) <= full
    made.succeeded(0.0, None)
    made.failed(0.0)
    assert made.wait(0.0) <= POLICY.pause.first


@pytest.mark.parametrize("failed", [False, True])
def test_it_can_be_made_due_and_never_later(failed: bool) -> None:
    made = renewal()
    if failed:
        made.failed(0.0)
    made.succeeded(0.0, None)
    made.renew_at_once(10.0)
    assert made.wait(10.0) == 0
    made.renew_at_once(20.0)
    assert made.wait(10.0) == 0
