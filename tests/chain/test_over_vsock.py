"""The agent's way out: its own dialing, over the enclave's kind of socket, through the proxy as a
process, to KMS. True AF_VSOCK in the guest (`make test-vsock`), UNIX sockets elsewhere.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from enclave import Agent
from enclave.errors import KmsUnreachableError
from tests.enclave.conftest import SIMULATED
from tests.vsock_proxy.rig import LOCAL, Place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from enclave_simulator.kms.threaded import KmsSimulator
    from enclave_simulator.nsm import SimulatedNsm
    from vsock_proxy.net.addresses import Address

PROXY = (
    sys.executable,
    "-c",
    "import sys; from vsock_proxy.proxy.command import main; sys.exit(main())",
)


@pytest.fixture
def address(tmp_path: Path) -> Address:
    """Where the proxy listens."""
    return Place(LOCAL, tmp_path).address("proxy")


@pytest.fixture
def agent(
    address: Address, simulated_nsm: SimulatedNsm, kms_simulator: KmsSimulator, tmp_path: Path
) -> Iterator[Agent]:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(kms_simulator.ca_pem)
    with Agent(
        region="eu-central-1",
        credentials=SIMULATED,
        ca_bundle=str(bundle),
        device=simulated_nsm,
        proxy=str(address),
        environ={},
    ) as agent:
        yield agent


@contextlib.contextmanager
def proxy(address: Address, kms: KmsSimulator, folder: Path) -> Iterator[None]:
    """Run it, to the KMS simulator, and kill it: the agent's connection breaks."""
    allowlist = folder / "allowlist.yaml"
    allowlist.write_text(f"allowlist:\n- {{address: 127.0.0.1, port: {kms.port}}}\n")
    command = [*PROXY, str(address), "127.0.0.1", str(kms.port), "--config", str(allowlist)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert f"listening on {address}," in process.stderr.readline()
            yield
        finally:
            process.kill()


def test_kms_is_reached_through_the_proxy(
    agent: Agent, address: Address, kms_simulator: KmsSimulator, tmp_path: Path
) -> None:
    with proxy(address, kms_simulator, tmp_path):
        assert len({agent.generate_random(32) for _ in range(20)}) == 20


def test_a_proxy_that_went_and_came_again_is_dialed_again(
    agent: Agent, address: Address, kms_simulator: KmsSimulator, tmp_path: Path
) -> None:
    for _ in range(2):
        with proxy(address, kms_simulator, tmp_path):
            assert len(agent.generate_random(32)) == 32


def test_without_a_proxy_the_error_says_so(agent: Agent, address: Address) -> None:
    with pytest.raises(KmsUnreachableError, match="cannot connect to") as caught:
        agent.generate_random(32)
    assert str(address) in str(caught.value)
