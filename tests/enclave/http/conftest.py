from __future__ import annotations

import ssl

import pytest

from enclave_simulator.kms.tls import CertificateAuthority


@pytest.fixture(scope="session")
def authority() -> CertificateAuthority:
    return CertificateAuthority()


@pytest.fixture
def trusting(authority: CertificateAuthority) -> ssl.SSLContext:
    """What a client has that trusts the servers of these tests."""
    return ssl.create_default_context(cadata=authority.certificate_pem.decode())
