"""How many clients the file descriptors allow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.errors import ConfigurationError
from enclave.serve import service
from enclave.serve.server import REJECTED_HELD
from enclave.serve.service import fit_clients


def allow(patch: pytest.MonkeyPatch, hard: int) -> None:
    patch.setattr(service, "raise_descriptor_limit", lambda wanted: min(wanted, hard))


@given(st.integers(1, 70_000), st.integers(1, 300), st.integers(1, 5), st.integers(1, 80_000))
def test_clients_and_calls_fit_into_the_descriptors(
    clients: int, calls: int, regions: int, hard: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        allow(patch, hard)
        try:
            fitting = fit_clients(clients, calls, regions)
        except ConfigurationError:
            assert hard <= calls * regions + service.SPARE_DESCRIPTORS + REJECTED_HELD
            return
    assert 1 <= fitting <= clients
    assert fitting + calls * regions < hard or fitting == clients


def test_fewer_clients_than_wanted_are_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    allow(monkeypatch, 64)
    assert fit_clients(256, 16, 1) == 24
    assert caplog.messages == [
        "64 file descriptors (ulimit -Hn) are enough for 24 clients, not for 256"
    ]
    assert fit_clients(24, 16, 1) == 24
    assert len(caplog.messages) == 1
