from __future__ import annotations

import ssl

import pytest

from enclave.http.pool import ConnectionPool
from enclave_simulator.kms.tls import CertificateAuthority
from tests.doubles import ManualClock


@pytest.fixture(scope="session")
def authority() -> CertificateAuthority:
    return CertificateAuthority()


@pytest.fixture
def trusting(authority: CertificateAuthority) -> ssl.SSLContext:
    """What a client has that trusts the servers of these tests."""
    return ssl.create_default_context(cadata=authority.certificate_pem.decode())


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def pool(clock: ManualClock) -> ConnectionPool:
    return ConnectionPool(2, clock=clock)
