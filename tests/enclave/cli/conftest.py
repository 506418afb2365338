"""Runs the command line in process, with its dependencies replaced."""

from __future__ import annotations

import base64
import contextlib
import errno
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enclave.agent import Agent
from enclave.cli import main
from enclave.cli.environment import Environment
from enclave.nitrotpm import NitroTpm
from enclave.nsm import DevNsm, Nsm
from enclave_simulator.kms.service import KmsService
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.kms.threaded import KmsSimulator
from tests.doubles import ManualClock, RedirectingDialer
from vsock_proxy.net.addresses import TcpAddress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from enclave.attester import Attester
    from enclave.nitrotpm import TpmDevice
    from enclave.nsm import NsmDevice
    from enclave_simulator.authority import Authority
    from enclave_simulator.nitrotpm import SimulatedNitroTpm
    from enclave_simulator.nsm import SimulatedNsm

RANDOM = bytes(range(256)) * 4


RECIPIENT = (
    rsa.generate_private_key(public_exponent=65537, key_size=2048)
    .public_key()
    .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
)


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    exit_code: int
    out: str
    err: str


class NoNsm:
    """Where there is none, as `DevNsm` finds it."""

    def exchange(self, _request: bytes) -> bytes:
        def refuse(*_: object) -> int:
            raise FileNotFoundError(errno.ENOENT, "")

        DevNsm(_open=refuse)
        raise AssertionError("there was one")


@dataclass
class CommandLine:
    """Runs ``enclave-agent`` in this process, everything around it simulated."""

    nsm: SimulatedNsm
    tpm: SimulatedNitroTpm
    kms: KmsSimulator
    dialer: RedirectingDialer
    environ: dict[str, str]
    capture: pytest.CaptureFixture[str]
    variables: dict[str, str]
    has_nsm: bool = True
    now: datetime | None = None
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def run(self, *words: str) -> Done:
        code = main(words, environment=self.environment())
        out, err = self.capture.readouterr()
        return Done(code, out, err)

    def environment(self) -> Environment:
        made = Environment(
            agent=self.agent,
            device=self._device,
            attester=self._attester,
            environ=self.environ,
        )
        now = self.now
        return made if now is None else replace(made, now=lambda: now)

    def agent(self, **settings: Any) -> Agent:
        device: NsmDevice | TpmDevice = self.nsm if self.has_nsm else NoNsm()
        if settings.get("attester") == "nitrotpm":
            device = self.tpm
        return Agent(**settings, device=device, dialer=self.dialer, clock=ManualClock())

    def _attester(self, name: str) -> contextlib.AbstractContextManager[Attester]:
        if name == "nitrotpm":
            return contextlib.nullcontext(NitroTpm(self.tpm))
        return contextlib.nullcontext(Nsm(self.nsm if self.has_nsm else NoNsm()))

    def _device(self) -> contextlib.AbstractContextManager[NsmDevice]:
        return contextlib.nullcontext(self.nsm if self.has_nsm else NoNsm())


@pytest.fixture
def kms(nitro_authority: Authority) -> Iterator[KmsSimulator]:
    """A KMS whose randomness is the bytes 0, 1, 2 and so on."""
    service = KmsService(nitro_authority.root_pem, random=lambda size: RANDOM[:size])
    with KmsSimulator(service) as simulator:
        yield simulator


@pytest.fixture
def command_line(
    nitro_authority: Authority,
    simulated_nsm: SimulatedNsm,
    simulated_nitrotpm: SimulatedNitroTpm,
    kms: KmsSimulator,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[CommandLine]:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(kms.ca_pem)
    environ = {
        "AWS_REGION": "eu-central-1",
        "AWS_CA_BUNDLE": str(bundle),
        "AWS_ACCESS_KEY_ID": SIMULATED_CREDENTIALS.access_key_id,
        "AWS_SECRET_ACCESS_KEY": SIMULATED_CREDENTIALS.secret_access_key,
        "AWS_SESSION_TOKEN": SIMULATED_CREDENTIALS.session_token or "",
    }
    dialer = RedirectingDialer(TcpAddress("127.0.0.1", kms.port))
    root = x509.load_pem_x509_certificate(nitro_authority.root_pem)
    variables = {"DIR": str(tmp_path), "ROOT": root.fingerprint(SHA256()).hex()}
    made = CommandLine(simulated_nsm, simulated_nitrotpm, kms, dialer, environ, capsys, variables)
    kms.service.add_key("alias/mine")
    kms.service.add_key("alias/agree", spec="ECC_NIST_P256", usage="KEY_AGREEMENT")
    with made.agent(region="eu-central-1", environ=environ) as agent:
        encrypted = agent.call("Encrypt", {"KeyId": "alias/mine", "Plaintext": "aGVsbG8="}).content
        context = {"KeyId": "alias/mine", "EncryptionContext": {"a": "b"}, "Plaintext": "aGVsbG8="}
        variables |= {
            "ARN": encrypted["KeyId"],
            "CIPHERTEXT": encrypted["CiphertextBlob"],
            "WITH_CONTEXT": agent.call("Encrypt", context).content["CiphertextBlob"],
            "PEER": agent.call("GetPublicKey", {"KeyId": "alias/agree"}).content["PublicKey"],
        }
    ciphertext = base64.b64decode(variables["CIPHERTEXT"])
    (tmp_path / "ciphertext").write_bytes(ciphertext)
    (tmp_path / "recipient.der").write_bytes(RECIPIENT)
    (tmp_path / "base64.txt").write_text(variables["CIPHERTEXT"])
    (tmp_path / "base64_lines.txt").write_text(variables["CIPHERTEXT"] + "\n")
    (tmp_path / "base64_wrapped.txt").write_bytes(base64.encodebytes(ciphertext))
    (tmp_path / "bytes.json").write_text('{"NumberOfBytes": 4}')
    (tmp_path / "large").write_bytes(bytes(1025))
    (tmp_path / "config").write_text(
        "[profile mine]\nregion = eu-central-1\n[profile role]\nrole_arn = arn:aws:iam::1:role/x\n"
        "[profile text]\noutput = text\n[profile fips]\nregion = us-gov-west-1\n"
        "use_fips_endpoint = true\nuse_dualstack_endpoint = true\n"
    )
    (tmp_path / "credentials").write_text(
        f"[mine]\naws_access_key_id = {SIMULATED_CREDENTIALS.access_key_id}\n"
        f"aws_secret_access_key = {SIMULATED_CREDENTIALS.secret_access_key}\n"
        f"aws_session_token = {SIMULATED_CREDENTIALS.session_token}\n"
    )
    (tmp_path / "input.json").write_text('{"NumberOfBytes": 4, "CustomKeyStoreId": "cks-none"}')
    dialer.dialed.clear()
    with made.stack:
        yield made
