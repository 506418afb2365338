"""What the tests of the endpoint share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.enclave.serve.serving import Kms

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def kms() -> Iterator[Kms]:
    made = Kms()
    yield made
    made.let_go()
