"""An agent with a simulated NSM and KMS, in process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from enclave import Agent, Credentials
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from tests.doubles import RedirectingDialer
from vsock_proxy.net.addresses import TcpAddress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from enclave_simulator.kms.threaded import KmsSimulator
    from enclave_simulator.nsm import SimulatedNsm

SIMULATED = Credentials(
    SIMULATED_CREDENTIALS.access_key_id,
    SIMULATED_CREDENTIALS.secret_access_key,
    SIMULATED_CREDENTIALS.session_token,
)


@dataclass
class Enclave:
    """An agent's surroundings: NSM, KMS and the way to it, all simulated, in this process."""

    nsm: SimulatedNsm
    kms: KmsSimulator
    ca_bundle: str
    dialer: RedirectingDialer
    agents: list[Agent] = field(default_factory=list)

    def agent(self, **changes: Any) -> Agent:
        settings: dict[str, Any] = {
            "region": "eu-central-1",
            "credentials": SIMULATED,
            "ca_bundle": self.ca_bundle,
            "device": self.nsm,
            "dialer": self.dialer,
            "connect_timeout": 5.0,
            "read_timeout": 5.0,
            "deadline": 20.0,
            "environ": {},
        }
        self.agents.append(Agent(**{**settings, **changes}))
        return self.agents[-1]


@pytest.fixture
def enclave(
    simulated_nsm: SimulatedNsm, kms_simulator: KmsSimulator, tmp_path: Path
) -> Iterator[Enclave]:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(kms_simulator.ca_pem)
    dialer = RedirectingDialer(TcpAddress("127.0.0.1", kms_simulator.port))
    made = Enclave(simulated_nsm, kms_simulator, str(bundle), dialer)
    yield made
    for agent in made.agents:
        agent.close()
