"""Fixtures of these tests."""

from __future__ import annotations

import pytest

from tests.doubles import ManualClock
from tests.enclave.credentials.aws_sources import START, Document


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def document(clock: ManualClock) -> Document:
    return Document(clock)
