"""The simulated KMS, files and variables that both programs are given."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import textwrap
from importlib import resources
from typing import TYPE_CHECKING, Any, Self

from enclave.agent import Agent
from enclave.cli import main
from enclave.cli.environment import Environment
from enclave_simulator.authority import Authority
from enclave_simulator.kms.service import KmsService
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.kms.threaded import KmsSimulator
from enclave_simulator.nsm import SimulatedNsm
from tests.doubles import ManualClock, RedirectingDialer
from vsock_proxy.net.addresses import TcpAddress

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MODEL = "data/kms/2014-11-01"
_RANDOM = bytes(range(256)) * 4


class World:
    """A KMS whose randomness is the bytes 0, 1, 2 and so on; a context manager.

    Attributes:
        environ: variables, the endpoint among them.
        variables: what ``$NAME`` stands for in command lines.
    """

    def __init__(self, folder: Path) -> None:
        authority = Authority.generate()
        self._nsm = SimulatedNsm(authority)
        self._kms = KmsSimulator(KmsService(authority.root_pem, random=lambda size: _RANDOM[:size]))
        self._dialer = RedirectingDialer(TcpAddress("127.0.0.1", self._kms.port))
        self.environ = {
            "HOME": str(folder / "home"),
            "PATH": "/usr/bin:/bin",
            "AWS_REGION": "eu-central-1",
            "AWS_CA_BUNDLE": str(folder / "ca.pem"),
            "AWS_ACCESS_KEY_ID": SIMULATED_CREDENTIALS.access_key_id,
            "AWS_SECRET_ACCESS_KEY": SIMULATED_CREDENTIALS.secret_access_key,
            "AWS_SESSION_TOKEN": SIMULATED_CREDENTIALS.session_token or "",
            "AWS_CONFIG_FILE": str(folder / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_PAGER": "",
            "AWS_ENDPOINT_URL_KMS": self._kms.endpoint_url,
        }
        (folder / "ca.pem").write_bytes(self._kms.ca_pem)
        self._give_model(folder / "home")
        self.variables = {"DIR": str(folder), **self._make_keys()}
        self._write_files(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._kms.close()

    def run(self, words: list[str], environ: Mapping[str, str]) -> tuple[int, str, str]:
        """Run ``enclave-agent``; return its exit code and what it prints."""
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        err = io.StringIO()
        environment = Environment(
            agent=self._agent,
            device=lambda: contextlib.nullcontext(self._nsm),
            environ=environ,
        )
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(words, environment=environment)
            except SystemExit as e:  # --help
                code = int(e.code or 0)
        out.seek(0)
        return code, out.read(), err.getvalue()

    def _agent(self, **settings: Any) -> Agent:
        return Agent(**settings, device=self._nsm, dialer=self._dialer, clock=ManualClock())

    def _give_model(self, home: Path) -> None:
        """Have the AWS CLI use this botocore's model of KMS: Debian's may be older."""
        models = home / ".aws/models/kms/2014-11-01"
        models.mkdir(parents=True)
        for name in ("service-2.json", "endpoint-rule-set-1.json"):
            packed = resources.files("botocore").joinpath(f"{_MODEL}/{name}.gz").read_bytes()
            (models / name).write_bytes(gzip.decompress(packed))

    def _make_keys(self) -> dict[str, str]:
        for alias in ("alias/mine", "alias/other"):
            self._kms.service.add_key(alias)
        self._kms.service.add_key("alias/agree", spec="ECC_NIST_P256", usage="KEY_AGREEMENT")
        plain = {"KeyId": "alias/mine", "Plaintext": "aGVsbG8="}
        with self._agent(region="eu-central-1", environ=self.environ) as agent:
            encrypted = agent.call("Encrypt", plain).content
            context = agent.call("Encrypt", {**plain, "EncryptionContext": {"a": "b"}}).content
            peer = agent.call("GetPublicKey", {"KeyId": "alias/agree"}).content
        return {
            "ARN": encrypted["KeyId"],
            "CIPHERTEXT": encrypted["CiphertextBlob"],
            "WITH_CONTEXT": context["CiphertextBlob"],
            "PEER": peer["PublicKey"],
        }

    def _write_files(self, folder: Path) -> None:
        ciphertext, peer = self.variables["CIPHERTEXT"], self.variables["PEER"]
        wrapped = textwrap.wrap(ciphertext, 64)
        texts = {
            "base64.txt": ciphertext,
            "base64_lines.txt": f"{ciphertext}\n",
            "base64_wrapped.txt": "".join(f"{line}\n" for line in wrapped),
            "base64_crlf.txt": "".join(f"{line}\r\n" for line in wrapped),
            "peer.b64": f"{peer}\n",
            "number": "7\n",
            "input.json": '{"NumberOfBytes":4}',
            "input.yaml": "NumberOfBytes: 4\n",
            "context.json": '{"a":"b"}',
            "tokens.json": '["a"]',
            "config": "[profile mine]\nregion = eu-central-1\n"
            "[profile text]\noutput = text\nregion = eu-central-1\n"
            "[profile raw]\ncli_binary_format = raw-in-base64-out\nregion = eu-central-1\n"
            "[profile keyless]\nregion = eu-central-1\n",
            "credentials": f"[mine]\naws_access_key_id = {SIMULATED_CREDENTIALS.access_key_id}\n"
            f"aws_secret_access_key = {SIMULATED_CREDENTIALS.secret_access_key}\n"
            f"aws_session_token = {SIMULATED_CREDENTIALS.session_token}\n",
        }
        contents = {name: text.encode() for name, text in texts.items()} | {
            "ciphertext": base64.b64decode(ciphertext),
            "with_context": base64.b64decode(self.variables["WITH_CONTEXT"]),
            "peer.der": base64.b64decode(peer),
        }
        for name, data in contents.items():
            (folder / name).write_bytes(data)
