"""``enclave-simulator kms`` as a process."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from enclave_simulator import cli
from enclave_simulator.kms import command
from enclave_simulator.kms.faults import FAULTS
from enclave_simulator.kms.sigv4 import Credentials
from enclave_simulator.nsm import SimulatedNsm
from tests.enclave_simulator.documents import attest, rsa_key, spki
from tests.enclave_simulator.kms.kms_client import REGION, Client, signed
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enclave_simulator.authority import Authority

COMMAND = Path(sys.executable).with_name("enclave-simulator")


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("tcp://127.0.0.1:0", "https://127.0.0.1"),
        ("tcp://[::1]:0", "https://[::1]"),
        ("tcp://0.0.0.0:0", "https://127.0.0.1"),
        ("tcp://localhost:0", "https://"),  # an address of it: the certificates are for these
    ],
)
@pytest.mark.parametrize("command", ["kms", "credentials"])
def test_a_person_is_told_where_it_listens(
    nitro_authority: Authority, tmp_path: Path, command: str, listen: str, url: str
) -> None:
    if "::1" in listen and not has_ipv6_loopback():
        pytest.skip("no IPv6 loopback address")
    root = tmp_path / "root.pem"
    root.write_bytes(nitro_authority.root_pem)
    options: list[str | Path] = []
    if command == "kms":
        options = ["--nitro-root", root, "--ca-file", tmp_path / "ca.pem"]
    with subprocess.Popen(
        [COMMAND, command, "--listen", listen, *options],
        env={name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            if command == "kms":
                exported = process.stderr.readline()
                check_exported(exported, line.split()[-1])
        finally:
            process.terminate()
        assert (process.wait(TEST_TIMEOUT), process.stderr.read()) == (0, "")
    before, _, port = line.rstrip().rpartition(":")
    if command == "credentials":
        url = listen.rpartition(":")[0].replace("localhost", "")
    assert before.startswith(f"enclave-simulator: listening on {url}")
    assert "localhost" not in before
    assert int(port)


def check_exported(line: str, url: str) -> None:
    """Make a call with nothing but what a person is told to export."""
    words = shlex.split(line.partition("export ")[2])
    env = {"PATH": os.environ["PATH"], "AWS_DEFAULT_REGION": REGION}
    env |= dict(word.split("=", 1) for word in words)
    assert env["AWS_ENDPOINT_URL_KMS"] == url
    call = "boto3.client('kms').generate_random(NumberOfBytes=9)"
    script = f"import boto3; print(len({call}['Plaintext']))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True,
        timeout=TEST_TIMEOUT, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("9\n", "")


def has_ipv6_loopback() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@dataclasses.dataclass
class Running:
    process: subprocess.Popen[str]
    status: str
    port: int
    ca_pem: bytes


@contextlib.contextmanager
def running(authority: Authority | None, folder: Path, *options: str) -> Iterator[Running]:
    """Start the command, and wait for what it tells its starter."""
    root, ca = folder / "root.pem", folder / "ca.pem"
    if authority is not None:
        root.write_bytes(authority.root_pem)
        options = (f"--nitro-root={root}", *options)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(folder / "notify"))
        ready.settimeout(TEST_TIMEOUT)
        process = subprocess.Popen(
            [COMMAND, "kms", "--ca-file", ca, *options],
            env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify")},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            state, _, status = ready.recv(4096).decode().partition("\n")
            assert state == "READY=1"
            _, _, port = status.rpartition(":")
            yield Running(process, status, int(port), ca.read_bytes())
        finally:
            process.kill()
            process.communicate(timeout=TEST_TIMEOUT)


def test_serves_until_sigterm(nitro_authority: Authority, tmp_path: Path) -> None:
    with running(nitro_authority, tmp_path, "--fault", "throttle:1") as kms:
        assert kms.status == f"STATUS=listening on tcp://127.0.0.1:{kms.port}"
        with Client(kms) as client:
            statuses = [client.call("GenerateRandom", {"NumberOfBytes": 1})[0] for _ in range(2)]
            assert statuses == [400, 200]
            kms.process.send_signal(signal.SIGTERM)
            assert kms.process.wait(TEST_TIMEOUT) == 0
        assert kms.process.stderr is not None
        assert kms.process.stderr.read() == ""


def test_without_a_root_it_accepts_no_document(nitro_authority: Authority, tmp_path: Path) -> None:
    document = attest(SimulatedNsm(nitro_authority), spki(rsa_key()))
    recipient = {
        "AttestationDocument": base64.b64encode(document).decode(),
        "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
    }
    call = {"NumberOfBytes": 1}
    for authority, expected in ((nitro_authority, 200), (None, 400)):
        with running(authority, tmp_path) as kms, Client(kms) as client:
            assert client.call("GenerateRandom", call)[0] == 200
            status, body = client.call("GenerateRandom", {**call, "Recipient": recipient})
            assert status == expected, body
        (tmp_path / "notify").unlink()


def test_with_its_key_an_authority_stays_trusted(
    nitro_authority: Authority, tmp_path: Path
) -> None:
    key = tmp_path / "ca.key"
    trusted = b""
    for start in ("first", "second"):
        (tmp_path / start).mkdir()
        with running(nitro_authority, tmp_path / start, f"--ca-key={key}") as kms:
            trusted = trusted or kms.ca_pem
            with Client(dataclasses.replace(kms, ca_pem=trusted)) as client:
                assert client.call("GenerateRandom", {"NumberOfBytes": 1})[0] == 200
    assert key.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_a_key_of_another_kind_is_rejected(
    nitro_authority: Authority, tmp_path: Path, is_encrypted: bool
) -> None:
    (tmp_path / "root.pem").write_bytes(nitro_authority.root_pem)
    encrypted = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )
    (tmp_path / "ca.key").write_bytes(encrypted if is_encrypted else b"no key")
    ended = subprocess.run(
        [COMMAND, "kms", f"--nitro-root={tmp_path}/root.pem", f"--ca-file={tmp_path}/ca.pem",
         f"--ca-key={tmp_path}/ca.key"],
        capture_output=True, text=True, timeout=TEST_TIMEOUT, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "holds no PEM key on P-256" in ended.stderr


@pytest.mark.parametrize("member", ["AccessKeyId", "SecretAccessKey", "Token"])
def test_credentials_are_text(tmp_path: Path, member: str) -> None:
    file = tmp_path / "credentials.json"
    given = {"AccessKeyId": "a", "SecretAccessKey": "s", "Token": "t"}
    file.write_text(json.dumps({**given, member: 5}))
    with pytest.raises(ConfigurationError, match="holds no credentials"):
        command._read_credentials(str(file))


def test_credentials_come_from_a_file(nitro_authority: Authority, tmp_path: Path) -> None:
    own = Credentials("ASIAOWN", "own secret", "own token")
    file = tmp_path / "credentials.json"
    file.write_text(
        json.dumps(
            {
                "AccessKeyId": own.access_key_id,
                "SecretAccessKey": own.secret_access_key,
                "Token": own.session_token,
            }
        )
    )
    with (
        running(nitro_authority, tmp_path, "--credentials", str(file)) as kms,
        Client(kms) as client,
    ):
        parameters = {"NumberOfBytes": 1}
        assert client.call("GenerateRandom", parameters)[1]["__type"] == (
            "UnrecognizedClientException"
        )
        response = client.start(signed("GenerateRandom", parameters, credentials=own))
        assert response.status == 200
        response.read()


def test_keys_of_the_options_are_created(nitro_authority: Authority, tmp_path: Path) -> None:
    principal = "arn:aws:sts::111122223333:assumed-role/enclave/i-1"
    allow = {"Effect": "Allow", "Action": "kms:DescribeKey", "Resource": "*"}
    for file, who in (("key.json", {"Principal": {"AWS": principal}}), ("caller.json", {})):
        (tmp_path / file).write_text(json.dumps({"Statement": [{**allow, **who}]}))
    options = [
        "--key=alias/a",
        "--key=alias/b=ECC_NIST_P384",
        f"--key-policy=alias/b={tmp_path / 'key.json'}",
        f"--caller-policy={tmp_path / 'caller.json'}",
        f"--principal={principal}",
    ]
    with running(nitro_authority, tmp_path, *options) as kms, Client(kms) as client:
        for alias, spec in (("alias/a", "SYMMETRIC_DEFAULT"), ("alias/b", "ECC_NIST_P384")):
            status, response = client.call("DescribeKey", {"KeyId": alias})
            assert (status, response["KeyMetadata"]["KeySpec"]) == (200, spec)
            assert response["KeyMetadata"]["AWSAccountId"] == "111122223333"
        for alias, kind in (("alias/a", "identity-based"), ("alias/b", "resource-based")):
            described = client.call("DescribeKey", {"KeyId": alias})[1]
            key_id = described["KeyMetadata"]["KeyId"]
            _, response = client.call("GetKeyPolicy", {"KeyId": key_id})
            assert response["Message"].startswith(f"User: {principal} is not authorized")
            assert response["Message"].endswith(
                f"because no {kind} policy allows the kms:GetKeyPolicy action"
            )


def test_keys_outlive_the_process_and_calls_are_events(
    nitro_authority: Authority, tmp_path: Path
) -> None:
    state, events = tmp_path / "state.json", tmp_path / "events.jsonl"
    options = ["--key=alias/a", f"--state={state}", f"--events={events}"]
    blob = ""
    for start in ("first", "second"):
        (tmp_path / start).mkdir()
        with running(nitro_authority, tmp_path / start, *options) as kms, Client(kms) as client:
            if not blob:
                sealed = client.call("Encrypt", {"KeyId": "alias/a", "Plaintext": "AAAA"})[1]
                blob = sealed["CiphertextBlob"]
            status, opened = client.call("Decrypt", {"CiphertextBlob": blob})
            assert (status, opened["Plaintext"]) == (200, "AAAA")
    assert state.stat().st_mode & 0o777 == 0o600
    names = [json.loads(line)["eventName"] for line in events.read_text().splitlines()]
    assert names == ["Encrypt", "Decrypt", "Decrypt"]


def test_a_refusal_is_explained_on_standard_error(
    nitro_authority: Authority, tmp_path: Path
) -> None:
    allow = {"Effect": "Allow", "Action": "kms:Encrypt", "Resource": "*"}
    (tmp_path / "caller.json").write_text(json.dumps({"Statement": [allow]}))
    with running(nitro_authority, tmp_path, f"--caller-policy={tmp_path / 'caller.json'}") as kms:
        with Client(kms) as client:
            assert client.call("ListKeys", {})[1]["__type"] == "AccessDeniedException"
        kms.process.send_signal(signal.SIGTERM)
        assert kms.process.stderr is not None
        lines = kms.process.stderr.read().splitlines()
    assert lines[0].startswith("enclave-simulator: warning: refused: User: arn:aws:sts::")
    assert lines[1:] == ["enclave-simulator: hint: caller policy: no statement allows kms:ListKeys"]


def test_fault_help_lists_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["kms", "--fault", "help"])
    assert not ended.value.code
    assert re.findall(r"^  (\S+) ", capsys.readouterr().out, re.MULTILINE) == list(FAULTS)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--nitro-root", "/absent"], "cannot read /absent: No such file or directory"),
        (["--nitro-root", os.devnull], "/dev/null holds no PEM certificate"),
        (["--ca-file", "/absent/ca.pem"], "cannot write /absent/ca.pem"),
        (["--listen", "nonsense"], "not an address: 'nonsense'"),
        (["--fault", "nonsense"], "no such fault: 'nonsense'"),
        (["--key-store", "cks-1=BROKEN"], "not a custom key store: 'cks-1=BROKEN'"),
        (["--credentials", os.devnull], "/dev/null holds no credentials"),
        (["--key", "demo"], "no key 'demo': Alias must start with the prefix"),
        (["--key", "alias/x=DES"], "no key 'alias/x=DES': A specified parameter is not"),
        (["--key=alias/x", "--key=alias/x"], "no key 'alias/x': An alias with the name"),
        (["--key=alias/x", "--key-policy=alias/x"], "not a key policy: 'alias/x'"),
        (
            ["--key=alias/x", f"--key-policy=alias/x={os.devnull}"],
            f"--key-policy alias/x={os.devnull}: The policy",
        ),
        (
            ["--key-policy=alias/x=a", "--key-policy=alias/x=b"],
            "--key-policy alias/x is given twic",
        ),
        (["--key-store=a=CONNECTED", "--key-store=a=EXTERNAL"], "--key-store a is given twice"),
        (["--caller-policy", "/dev/zero"], "/dev/zero: more than 64 MiB"),
        (["--key-policy", "alias/x=/absent"], "a policy for 'alias/x', but no such key"),
        (["--caller-policy", os.devnull], "/dev/null: The policy is not valid"),
        (["--state", os.devnull], "/dev/null is not a state of the simulated KMS"),
        (["--state", "/absent/state"], "cannot write /absent/state"),
        (["--events", "/absent/events"], "cannot write /absent/events"),
        (["--principal", "me"], "not a principal: 'me'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_options_are_one_clear_line(
    nitro_authority: Authority,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    text: str,
) -> None:
    root = tmp_path / "root.pem"
    root.write_bytes(nitro_authority.root_pem)
    ca = tmp_path / "ca.pem"
    assert cli.main(["kms", f"--nitro-root={root}", f"--ca-file={ca}", *options]) == 1
    first, *hints = capsys.readouterr().err.splitlines()
    assert first.startswith(f"enclave-simulator: error: {text}")
    assert all(hint.startswith("enclave-simulator: hint: ") for hint in hints)


COMMANDS = (
    ["run", "--fault", "{}", "--", "true"],
    ["boot", "--fault", "{}", "image.eif"],
    ["kms", "--fault", "{}"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_faults_are_listed_and_checked_first(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([word.format("help") for word in command])
    assert ended.value.code == 0
    assert "no-ciphertext" in capsys.readouterr().out
    assert cli.main([word.format("nosuch") for word in command]) == 1
    assert capsys.readouterr().err.startswith(
        "enclave-simulator: error: no such fault: 'nosuch'\nenclave-simulator: hint: --fault help"
    )
