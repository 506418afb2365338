"""Fixtures of these tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vsock_proxy.proxy.outside import Outside, outside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vsock_proxy.rig import Place


@pytest.fixture
def out(place: Place, innermost: str) -> Iterator[Outside]:
    with outside(place) as out:
        yield out
