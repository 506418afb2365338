"""A little of ``make fuzz-eif`` with every run of the tests."""

from __future__ import annotations

import pytest

from tests.programs.fuzz_eif import fuzz


@pytest.mark.long
def test_only_the_documented_error() -> None:
    outcomes = fuzz(20_000, seed=1)
    assert outcomes["described"] + outcomes["described, doubtful"] > 1000, "no depth"
    assert len(outcomes) > 15, "no breadth"
