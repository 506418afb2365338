"""Fixtures for tests of enclave programs: an authority, an NSM, a KMS and an agent that uses them.
`simulated_nitrotpm` and `instance_agent` are those of an EC2 instance, for one test; `hostile_kms`
and `hostile_parent` make the attacks of ``enclave-simulator attack``.

Each is there for a test, for a module (``module_...``) and for a session (``session_...``).
Every run of pytest imports this module, so it imports the simulator only when a fixture is used.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from enclave import Agent
    from enclave_simulator.attack.fixtures import HostileKms
    from enclave_simulator.attack.hostile import HostileParent
    from enclave_simulator.attack.verdict import Finding
    from enclave_simulator.authority import Authority
    from enclave_simulator.kms.threaded import KmsSimulator
    from enclave_simulator.nitrotpm import SimulatedNitroTpm
    from enclave_simulator.nsm import SimulatedNsm

REGION = "us-east-1"
"""The Region of the agents. The simulated KMS serves every Region; keys are of one."""


# One test


@pytest.fixture
def simulated_nsm(nitro_authority: Authority) -> SimulatedNsm:
    """Return a freshly booted NSM, for one test."""
    return _boot(nitro_authority)


@pytest.fixture
def kms_simulator(nitro_authority: Authority) -> Iterator[KmsSimulator]:
    """Serve a KMS on 127.0.0.1 that accepts documents of the simulated NSMs, for one test."""
    with _serve(nitro_authority) as simulator:
        yield simulator


@pytest.fixture
def agent(
    simulated_nsm: SimulatedNsm,
    kms_simulator: KmsSimulator,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Agent]:
    """Return an agent with `simulated_nsm` and `kms_simulator`, for one test."""
    with _connect(simulated_nsm, kms_simulator, tmp_path_factory) as made:
        yield made


@pytest.fixture
def simulated_nitrotpm(nitro_authority: Authority) -> SimulatedNitroTpm:
    """Return the NitroTPM of a freshly booted EC2 instance, for one test."""
    from enclave_simulator.nitrotpm import SimulatedNitroTpm  # noqa: PLC0415 (see above)

    return SimulatedNitroTpm(nitro_authority)


@pytest.fixture
def instance_agent(
    simulated_nitrotpm: SimulatedNitroTpm,
    kms_simulator: KmsSimulator,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Agent]:
    """Return an agent on an EC2 instance: with `simulated_nitrotpm` and `kms_simulator`."""
    with _connect(simulated_nitrotpm, kms_simulator, tmp_path_factory, attester="nitrotpm") as made:
        yield made


@pytest.fixture
def hostile_kms(
    nitro_authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], HostileKms]]:
    """Return a function that starts the KMS, the parent and the NSM of an attack, by its name."""
    from enclave_simulator.attack.fixtures import HostileKms, hostile  # noqa: PLC0415 (see above)

    with contextlib.ExitStack() as stack:

        def start(name: str) -> HostileKms:
            parent = stack.enter_context(hostile(nitro_authority, name))
            agent = _attacked_agent(parent, tmp_path_factory)
            return HostileKms(parent, stack.enter_context(agent))

        yield start


@pytest.fixture
def hostile_parent() -> Callable[..., Callable[[str], Finding]]:
    """Return a function that takes a program, runs it without an attack, and returns a function
    that runs it under an attack, by its name, and returns the finding.
    """
    _require()

    def prepare(argv: Sequence[str], *, deadline: float = 240.0) -> Callable[[str], Finding]:
        from enclave_simulator.attack.fixtures import prepare  # noqa: PLC0415 (see above)

        return prepare(argv, deadline=deadline)

    return prepare


# A module


@pytest.fixture(scope="module")
def module_simulated_nsm(nitro_authority: Authority) -> SimulatedNsm:
    """Return an NSM for a module."""
    return _boot(nitro_authority)


@pytest.fixture(scope="module")
def module_kms_simulator(nitro_authority: Authority) -> Iterator[KmsSimulator]:
    """Serve a KMS for a module."""
    with _serve(nitro_authority) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def module_agent(
    module_simulated_nsm: SimulatedNsm,
    module_kms_simulator: KmsSimulator,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Agent]:
    """Return an agent with `module_simulated_nsm` and `module_kms_simulator`, for a module."""
    with _connect(module_simulated_nsm, module_kms_simulator, tmp_path_factory) as made:
        yield made


# A session


@pytest.fixture(scope="session")
def nitro_authority() -> Authority:
    """Return the root that the simulated NSMs' documents chain to; one for the session."""
    _require()
    from enclave_simulator.authority import Authority  # noqa: PLC0415 (see above)

    return Authority.generate()


@pytest.fixture(scope="session")
def session_simulated_nsm(nitro_authority: Authority) -> SimulatedNsm:
    """Return an NSM for the session."""
    return _boot(nitro_authority)


@pytest.fixture(scope="session")
def session_kms_simulator(nitro_authority: Authority) -> Iterator[KmsSimulator]:
    """Serve a KMS for the session."""
    with _serve(nitro_authority) as simulator:
        yield simulator


@pytest.fixture(scope="session")
def session_agent(
    session_simulated_nsm: SimulatedNsm,
    session_kms_simulator: KmsSimulator,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Agent]:
    """Return an agent with `session_simulated_nsm` and `session_kms_simulator`."""
    with _connect(session_simulated_nsm, session_kms_simulator, tmp_path_factory) as made:
        yield made


def _require() -> None:
    """Fail the test if a package is shadowed, or the libraries of the extra are not installed."""
    from vsock_proxy.errors import ConfigurationError  # noqa: PLC0415 (see above)
    from vsock_proxy.service.entries import require_own  # noqa: PLC0415 (see above)
    from vsock_proxy.service.extras import require  # noqa: PLC0415 (see above)

    missing = ""
    try:
        require_own("enclave", "parent")
        require("simulator", "asn1crypto", "h11")
    except ConfigurationError as e:
        missing = f"{e}\n{e.hint}"
    if missing:
        pytest.fail(f"the fixtures of enclave_simulator cannot be used: {missing}", pytrace=False)


def _boot(authority: Authority) -> SimulatedNsm:
    from enclave_simulator.nsm import SimulatedNsm  # noqa: PLC0415 (see above)

    return SimulatedNsm(authority)


@contextlib.contextmanager
def _serve(authority: Authority) -> Iterator[KmsSimulator]:
    from enclave_simulator.kms.service import KmsService  # noqa: PLC0415 (see above)
    from enclave_simulator.kms.threaded import KmsSimulator  # noqa: PLC0415 (see above)

    with KmsSimulator(KmsService(authority.root_pem)) as simulator:
        yield simulator


def _attacked_agent(parent: HostileParent, folders: pytest.TempPathFactory) -> Agent:
    from enclave import Agent, Credentials  # noqa: PLC0415 (see above)
    from enclave_simulator.attack.model import Place  # noqa: PLC0415 (see above)

    of = parent.world.input.credentials
    from_parent = parent.attack.place is Place.CREDENTIALS
    return Agent(
        region=REGION,
        device=parent.nsm,
        proxy=parent.proxy,
        ca_bundle=_written(parent.ca_pem, folders),
        credentials=(
            str(parent.credentials)
            if from_parent
            else Credentials(of.access_key_id, of.secret_access_key, of.session_token)
        ),
        # For tests: an attack by waiting ends soon.
        connect_timeout=5.0,
        read_timeout=5.0,
        deadline=12.0,
        environ={},
    )


def _written(ca_pem: bytes, folders: pytest.TempPathFactory) -> str:
    ca_bundle = folders.mktemp("kms") / "ca.pem"
    ca_bundle.write_bytes(ca_pem)
    return str(ca_bundle)


@contextlib.contextmanager
def _connect(
    device: SimulatedNsm | SimulatedNitroTpm,
    kms: KmsSimulator,
    folders: pytest.TempPathFactory,
    *,
    attester: str = "auto",
) -> Iterator[Agent]:
    from enclave import Agent, Credentials  # noqa: PLC0415 (see above)
    from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS  # noqa: PLC0415 (see above)

    with Agent(
        region=REGION,
        attester=attester,
        device=device,
        proxy=f"tcp://127.0.0.1:{kms.port}",
        ca_bundle=_written(kms.ca_pem, folders),
        credentials=Credentials(
            SIMULATED_CREDENTIALS.access_key_id,
            SIMULATED_CREDENTIALS.secret_access_key,
            SIMULATED_CREDENTIALS.session_token,
        ),
        # Of the developer's own environment nothing counts: no profile, no Region, no proxy.
        environ={},
    ) as made:
        yield made
