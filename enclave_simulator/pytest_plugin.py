"""Fixtures for tests of enclave programs: an authority, an NSM and a KMS, all simulated.

Every run of pytest loads this module, so it imports what it needs only when a fixture is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enclave_simulator.authority import Authority
    from enclave_simulator.kms.threaded import KmsSimulator
    from enclave_simulator.nsm import SimulatedNsm


@pytest.fixture(scope="session")
def nitro_authority() -> Authority:
    """Return the root that the simulated NSM's documents chain to; one for the whole run."""
    from enclave_simulator.authority import Authority  # noqa: PLC0415 (see above)

    return Authority.generate()


@pytest.fixture
def simulated_nsm(nitro_authority: Authority) -> SimulatedNsm:
    """Return a freshly booted NSM."""
    from enclave_simulator.nsm import SimulatedNsm  # noqa: PLC0415 (see above)

    return SimulatedNsm(nitro_authority)


@pytest.fixture
def kms_simulator(nitro_authority: Authority) -> Iterator[KmsSimulator]:
    """Serve a KMS on 127.0.0.1 that takes documents of `simulated_nsm`, for one test."""
    from enclave_simulator.kms.service import KmsService  # noqa: PLC0415 (see above)
    from enclave_simulator.kms.threaded import KmsSimulator  # noqa: PLC0415 (see above)

    with KmsSimulator(KmsService(nitro_authority.root_pem)) as simulator:
        yield simulator
