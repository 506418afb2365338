"""Fixtures of these tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.enclave.attested_tls.serving import (
    Program,
    program,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def behind() -> Iterator[Program]:
    with program(Program()) as made:
        yield made
