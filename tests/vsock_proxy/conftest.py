"""Places, servers and rigs that come and go with a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vsock_proxy.rig import Ends, Place, Rig, Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from _pytest.mark.structures import ParameterSet

KINDS = ["unix", "tcp"]
PAIRS = [("unix", "tcp"), ("tcp", "tcp"), ("unix", "unix"), ("tcp", "unix")]
VSOCK_PAIRS = [("vsock", "tcp"), ("unix", "vsock"), ("vsock", "vsock")]
"""As on a parent instance, as in an enclave, and both at once."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize over transports; over AF_VSOCK only where --vsock says so."""
    vsock = metafunc.config.getoption("--vsock")
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", [*KINDS, *[_marked("vsock", "vsock")][:vsock]])
    if "ends" in metafunc.fixturenames:
        marked = [_marked(pair, "->".join(pair)) for pair in VSOCK_PAIRS if vsock]
        unmarked = [pytest.param(pair, id="->".join(pair)) for pair in PAIRS]
        metafunc.parametrize("ends", [*unmarked, *marked], indirect=True)


def _marked(value: object, id: str) -> ParameterSet:
    return pytest.param(value, id=id, marks=pytest.mark.vsock)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("unix", tmp_path)


@pytest.fixture
def server(place: Place) -> Iterator[Server]:
    with place.server() as server:
        yield server


@pytest.fixture
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ends]:
    client_kind, server_kind = request.param
    with (
        Place(server_kind, tmp_path).server() as server,
        Rig(Place(client_kind, tmp_path).address("proxy"), server.address) as rig,
    ):
        yield Ends(request.param, rig, server)
