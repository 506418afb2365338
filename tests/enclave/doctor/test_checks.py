"""Each check of ``enclave-agent doctor``, with each verdict that it can have."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from enclave.attestation.verify import AWS_ROOT_FINGERPRINT
from enclave.credentials import Credentials
from enclave.doctor.checks import Doctor
from enclave.doctor.machine import Tls
from enclave.errors import (
    DialError,
    KmsRefusedError,
    KmsUnreachableError,
    NsmUnavailableError,
)
from enclave.nitrotpm import NitroTpm
from enclave.nsm import Nsm
from enclave_simulator.nitrotpm import SimulatedNitroTpm
from enclave_simulator.nsm import SimulatedNsm
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import parse_address, parse_proxy
from vsock_proxy.service.checkup import Finding, Verdict, examine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from enclave.attester import Attester
    from enclave.kms.client import KmsResponse
    from enclave_simulator.authority import Authority

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
SECRET, TOKEN = "the/secret/key", "the/session/token"
ROOT = b"certificate"


def refused(type: str, hint: str = "") -> KmsRefusedError:
    return KmsRefusedError(type, "", request_id=None, status=400, hint=hint)


class FakeAgent:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error or refused("DryRunOperationException")
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def generate_random(self, number: int) -> bytes:
        return bytes(number)

    def call(self, operation: str, parameters: dict[str, Any]) -> KmsResponse:
        self.calls.append((operation, parameters))
        raise self.error


@dataclass
class FakeMachine:
    """All is well, but for what a test changes."""

    attesting: Attester
    kms: FakeAgent = field(default_factory=FakeAgent)
    clock: datetime = NOW
    files: dict[str, str] = field(
        default_factory=lambda: {
            "/proc/sys/kernel/random/entropy_avail": "256\n",
            "/sys/class/misc/hw_random/rng_current": "nsm-hwrng\n",
            "/proc/meminfo": "MemTotal: 200000 kB\nMemAvailable:  131072 kB\n",
        }
    )
    unreachable: set[str] = field(default_factory=set)
    no_loopback: OSError | None = None
    limits: tuple[int, int] = (1024, 7)
    found: Credentials = field(
        default_factory=lambda: Credentials("ASIA", SECRET, TOKEN, NOW + timedelta(hours=1))
    )
    connected: Tls | Exception = field(default_factory=lambda: Tls("kms", "TLSv1.3", ROOT))
    proxy: Any = field(default_factory=lambda: parse_address("vsock://3:8000"))
    credential_service: Any = field(default_factory=lambda: parse_address("vsock://3:8002"))
    credentials_source: str = "vsock://3:8002"
    root_fingerprint: bytes = b""

    @contextlib.contextmanager
    def attester(self) -> Iterator[Attester]:
        yield self.attesting

    def agent(self) -> Any:
        return self.kms

    def now(self) -> datetime:
        return self.clock

    def read(self, path: str) -> str:
        if path not in self.files:
            raise FileNotFoundError(2, "No such file or directory")
        return self.files[path]

    def dial(self, address: Any) -> None:
        if str(address) in self.unreachable:
            raise DialError(str(address), "Connection reset by peer", hint="start it")

    def loopback(self) -> None:
        if self.no_loopback:
            raise self.no_loopback

    def endpoint(self) -> str:
        return "https://kms"

    def tls(self) -> Tls:
        if isinstance(self.connected, Exception):
            raise self.connected
        return self.connected

    def credentials(self) -> Credentials:
        return self.found

    def descriptors(self) -> tuple[int, int]:
        return self.limits


class NoAttester:
    def attest(self, *_: Any, **__: Any) -> bytes:
        raise NsmUnavailableError("cannot open /dev/nsm", hint="run it in an enclave")


class RepeatingNsm:
    """The simulated one, but for its random bytes."""

    def __init__(self, authority: Authority) -> None:
        self.nsm = SimulatedNsm(authority, now=lambda: NOW, random=bytes)

    def exchange(self, request: bytes) -> bytes:
        return self.nsm.exchange(request)


@pytest.fixture
def machine(nitro_authority: Authority) -> FakeMachine:
    nsm = Nsm(SimulatedNsm(nitro_authority, now=lambda: NOW))
    return FakeMachine(nsm, root_fingerprint=hashlib.sha256(nitro_authority.root_der).digest())


def look(machine: FakeMachine, call: dict[str, Any] | None = None) -> dict[str, Finding]:
    root = machine.root_fingerprint or AWS_ROOT_FINGERPRINT
    checks = Doctor(machine, call, root_fingerprint=root).checks()
    return {each.name: each.finding for each in examine(checks, timeout=TEST_TIMEOUT)}


def test_all_is_well(machine: FakeMachine) -> None:
    found = look(machine, {"KeyId": "alias/demo"})
    assert {name for name, each in found.items() if each.verdict is not Verdict.PASS} == set()
    assert machine.kms.calls == [
        ("GenerateDataKey", {"KeyId": "alias/demo", "DryRun": True, "KeySpec": "AES_256"})
    ]


def test_nothing_secret_is_said(machine: FakeMachine) -> None:
    machine.kms.generate_random = lambda number: b"S" * number  # type: ignore[method-assign]
    text = repr(look(machine, {"KeyId": "alias/demo", "CiphertextBlob": "c2VjcmV0"}))
    for secret in (SECRET, TOKEN, "ASIA", "SSSS", "c2VjcmV0"):
        assert secret not in text
    assert machine.kms.calls[0][0] == "Decrypt"


def files(**values: str | None) -> Callable[[FakeMachine], None]:
    names = {
        "entropy": "/proc/sys/kernel/random/entropy_avail",
        "hwrng": "/sys/class/misc/hw_random/rng_current",
        "memory": "/proc/meminfo",
    }

    def change(machine: FakeMachine) -> None:
        for name, value in values.items():
            machine.files.pop(names[name])
            if value is not None:
                machine.files[names[name]] = value

    return change


def put(**values: Any) -> Callable[[FakeMachine], None]:
    def change(machine: FakeMachine) -> None:
        for name, value in values.items():
            setattr(machine, name, value)

    return change


def ends_in(seconds: float | None) -> Callable[[FakeMachine], None]:
    expiration = None if seconds is None else NOW + timedelta(seconds=seconds)
    return put(found=Credentials("ASIA", SECRET, TOKEN, expiration))


@pytest.mark.parametrize(
    ("name", "verdict", "said", "change"),
    [
        ("platform", "fail", "cannot open /dev/nsm", put(attesting=NoAttester())),
        ("clock", "warn", "60.0 s behind", put(clock=NOW - timedelta(seconds=60))),
        ("clock", "fail", "400.0 s ahead", put(clock=NOW + timedelta(seconds=400))),
        ("entropy", "warn", "12 bits", files(entropy="12\n")),
        ("entropy", "skip", "is /proc mounted?", files(entropy=None)),
        ("entropy", "skip", "does not tell", files(entropy="many")),
        ("hwrng", "warn", "no source", files(hwrng="none\n")),
        ("hwrng", "skip", "no hw_random", files(hwrng=None)),
        ("loopback", "fail", "Network is unreachable",
         put(no_loopback=OSError(101, "Network is unreachable"))),
        ("proxy", "fail", "vsock://3:8000", put(unreachable={"vsock://3:8000"})),
        ("proxy", "pass", "none is used", put(proxy=None)),
        ("proxy", "pass", "connect:vsock://3:8004", put(proxy=parse_proxy("connect:vsock://3:8004"))),
        ("log sink", "skip", "no parent", put(proxy=None)),
        ("TLS to KMS", "skip", "needs: proxy", put(unreachable={"vsock://3:8000"})),
        ("GenerateRandom", "skip", "needs: TLS to KMS", put(unreachable={"vsock://3:8000"})),
        ("credential service", "fail", "vsock://3:8002", put(unreachable={"vsock://3:8002"})),
        ("credential service", "skip", "the environment",
         put(credential_service=None, credentials_source="the environment")),
        ("log sink", "warn", "vsock://3:8003", put(unreachable={"vsock://3:8003"})),
        ("TLS to KMS", "fail", "no TLS", put(connected=KmsUnreachableError("no TLS", hint=""))),
        ("TLS to KMS", "pass", "does not name", put(connected=Tls("kms", "TLSv1.3", None))),
        ("TLS to KMS", "pass", "a root with SHA-256 ", put(connected=Tls("kms", "TLSv1.2", b"x"))),
        ("credentials", "warn", "1 min left", ends_in(119)),
        ("credentials", "pass", "not known", ends_in(None)),
        ("key", "skip", "--key-id", lambda _: None),
        ("memory", "warn", "31 MiB", files(memory="MemAvailable: 32000 kB\n")),
        ("memory", "skip", "not in /proc/meminfo", files(memory="MemTotal: 1 kB\n")),
        ("memory", "skip", "not in /proc/meminfo", files(memory="MemAvailable:\n")),
        ("memory", "skip", "is /proc mounted?", files(memory=None)),
        ("descriptors", "warn", "7 of 64", put(limits=(64, 7))),
    ],
)  # fmt: skip
def test_findings(
    name: str, verdict: str, said: str, change: Callable[[FakeMachine], None], machine: FakeMachine
) -> None:
    change(machine)
    found = look(machine)[name]
    assert found.verdict.value == verdict, found
    assert said in found.text


@pytest.mark.parametrize(
    ("error", "verdict", "hint"),
    [
        (refused("AccessDeniedException", hint="compare"), "fail", "compare"),
        (refused("InvalidKeyUsageException"), "skip", ""),
        (KmsUnreachableError("no", hint="proxy?"), "fail", "proxy?"),
    ],
)  # fmt: skip
def test_a_call_that_is_refused(
    error: Exception, verdict: str, hint: str, machine: FakeMachine
) -> None:
    machine.kms.error = error
    found = look(machine, {"KeyId": "alias/demo"})["key"]
    assert (found.verdict.value, found.hint) == (verdict, hint)


def test_debug_mode(nitro_authority: Authority) -> None:
    nsm = SimulatedNsm(nitro_authority, now=lambda: NOW, debug_mode=True)
    found = look(FakeMachine(Nsm(nsm)))["debug mode"]
    assert found.verdict is Verdict.WARN
    assert "--debug-mode" in found.hint


def test_a_document_of_a_simulator_is_told_from_aws(nitro_authority: Authority) -> None:
    for attester in (
        Nsm(SimulatedNsm(nitro_authority, now=lambda: NOW)),
        NitroTpm(SimulatedNitroTpm(nitro_authority, now=lambda: NOW)),
    ):
        found = look(FakeMachine(attester))["root"]
        assert found.verdict is Verdict.WARN
        assert found.text.startswith("KMS rejects documents of this: root")
        assert "simulat" in found.hint


def test_a_sandbox(nitro_authority: Authority) -> None:
    found = look(FakeMachine(Nsm(SimulatedNsm.of_sandbox(nitro_authority, now=lambda: NOW))))
    assert found["debug mode"].verdict is Verdict.WARN
    assert "Sandbox" in found["debug mode"].text
    assert "PCR17 " in found["PCRs"].text


def test_an_nsm_that_repeats_itself(nitro_authority: Authority) -> None:
    found = look(FakeMachine(Nsm(RepeatingNsm(nitro_authority))))["NSM"]
    assert found.verdict is Verdict.FAIL
    assert "same random bytes twice" in found.text


def test_an_instance(nitro_authority: Authority) -> None:
    tpm = NitroTpm(SimulatedNitroTpm(nitro_authority, now=lambda: NOW))
    found = look(FakeMachine(tpm))
    assert "an EC2 instance with a NitroTPM" in found["platform"].text
    assert found["debug mode"].verdict is found["NSM"].verdict is Verdict.SKIP
    assert "PCR4 " in found["PCRs"].text
