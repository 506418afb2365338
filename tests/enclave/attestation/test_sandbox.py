"""Documents of a Nitro Sandbox: told by PCR17, and taken for no other platform's."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from enclave.attestation import parse
from enclave.attestation.verify import verify
from enclave.errors import AttestationError, ConfigurationError
from enclave.nitrotpm import NitroTpm
from enclave.nsm import Nsm
from enclave_simulator.nitrotpm import SimulatedNitroTpm
from enclave_simulator.nsm import SANDBOX_POLICY, SimulatedNsm, measure

if TYPE_CHECKING:
    from enclave_simulator.authority import Authority


@pytest.fixture
def sandbox(nitro_authority: Authority) -> bytes:
    return Nsm(SimulatedNsm.of_sandbox(nitro_authority)).attest()


POLICY = measure(SANDBOX_POLICY)


def _as(platform: str, document: bytes, **more: Any) -> None:
    root = hashlib.sha256(parse(document).cabundle[0]).digest()
    settings: dict[str, Any] = {"at": datetime.now(UTC), "max_age": None, "pcrs": None}
    verify(document, platform=platform, root_fingerprint=root, **{**settings, **more})


def test_a_sandbox_is_told_by_its_policy(sandbox: bytes) -> None:
    _as("sandbox", sandbox, pcrs={17: POLICY})
    with pytest.raises(AttestationError, match="PCR17: expected 00"):
        _as("sandbox", sandbox, pcrs={17: bytes(48)})
    with pytest.raises(ConfigurationError, match="told by PCR17") as caught:
        _as("sandbox", sandbox, pcrs={4: bytes(48)})
    assert caught.value.hint


def test_a_verifier_that_expects_an_enclave_takes_no_sandbox(sandbox: bytes) -> None:
    for pcrs in (None, {17: POLICY}):
        with pytest.raises(AttestationError, match="debug mode"):
            _as("enclave", sandbox, pcrs=pcrs)
    with pytest.raises(AttestationError, match="platform: expected an EC2 instance"):
        _as("instance", sandbox)


def test_a_sandbox_is_no_instance_and_no_enclave_without_its_pcr17(
    nitro_authority: Authority,
) -> None:
    instance = NitroTpm(SimulatedNitroTpm(nitro_authority)).attest()
    with pytest.raises(AttestationError, match="platform: expected a Nitro Sandbox"):
        _as("sandbox", instance, pcrs={17: POLICY})
    enclave = SimulatedNsm(nitro_authority)
    with pytest.raises(AttestationError, match="PCR17: expected"):
        _as("sandbox", Nsm(enclave).attest(), pcrs={17: POLICY})
    # Known, and warned of: an enclave extends PCR17 by itself.
    Nsm(enclave).extend_pcr(17, SANDBOX_POLICY)
    Nsm(enclave).lock_pcr(17)
    _as("sandbox", Nsm(enclave).attest(), pcrs={17: POLICY})
