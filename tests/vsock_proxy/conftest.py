"""Fixtures: addresses, servers and relays for one test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vsock_proxy.rig import LOCAL, Ends, Place, Rig, Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAIRS = [(LOCAL, "tcp"), ("tcp", "tcp"), (LOCAL, LOCAL), ("tcp", LOCAL)]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(LOCAL, tmp_path)


@pytest.fixture
def server(place: Place) -> Iterator[Server]:
    with place.server() as server:
        yield server


@pytest.fixture(params=PAIRS, ids="->".join)
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ends]:
    client_kind, server_kind = request.param
    with (
        Place(server_kind, tmp_path).server() as server,
        Rig(Place(client_kind, tmp_path).address("proxy"), server.address) as rig,
    ):
        yield Ends(request.param, rig, server)
