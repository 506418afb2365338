"""Fixtures: addresses, servers and relays for one test."""

from __future__ import annotations

import functools
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.vsock_proxy import rig
from tests.vsock_proxy.rig import LOCAL, Ends, Place, Rig, Server
from vsock_proxy.relay import connection
from vsock_proxy.relay.build import replace_library
from vsock_proxy.relay.native import LIBRARY, NativeLoop, Pump

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAIRS = [(LOCAL, "tcp"), ("tcp", "tcp"), (LOCAL, LOCAL), ("tcp", LOCAL)]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The relay's innermost part in C, compiled."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler (cc)")
    made = tmp_path_factory.mktemp("pump") / LIBRARY.name
    replace_library(made)
    return made


@pytest.fixture(params=["python", "native"])
def innermost(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The relay under test: in Python alone, and with its innermost part in C.

    Over vsock in the guest, which has no compiler, the second is skipped.
    """
    if request.param == "native":
        pump = Pump(request.getfixturevalue("library"))
        monkeypatch.setattr(rig, "make_loop", functools.partial(NativeLoop, pump))
        # Its own work shows from the first event on.
        monkeypatch.setattr(connection, "PLAIN_EVENTS", 1)
    return str(request.param)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(LOCAL, tmp_path)


@pytest.fixture
def server(place: Place) -> Iterator[Server]:
    with place.server() as server:
        yield server


@pytest.fixture(params=PAIRS, ids="->".join)
def ends(request: pytest.FixtureRequest, tmp_path: Path, innermost: str) -> Iterator[Ends]:
    del innermost
    client_kind, server_kind = request.param
    with (
        Place(server_kind, tmp_path).server() as server,
        Rig(Place(client_kind, tmp_path).address("proxy"), server.address) as rig,
    ):
        yield Ends(request.param, rig, server)
