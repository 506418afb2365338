"""``enclave-parent seal``: what it writes, what it sends to KMS, and what it rejects."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from parent.cli import main
from parent.secrets import kms as kms_module
from parent.secrets.kms import Encrypted
from parent.secrets.plain import Tree, read_plain, type_of
from parent.secrets.sops import sealed
from tests.parent.eif import eifs
from tests.parent.policy.policies import ROLE
from vsock_proxy.service.sops_values import Timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ARN = "arn:aws:kms:us-east-1:111122223333:key/one"


@dataclass
class FakeKms:
    calls: list[tuple[str, bytes, dict[str, str]]] = field(default_factory=list)

    def encrypt(
        self, key_id: str, plaintext: bytes | bytearray, context: Mapping[str, str]
    ) -> Encrypted:
        self.calls.append((key_id, bytes(plaintext), dict(context)))
        return Encrypted(ARN, b"ciphertext of " + key_id.encode())


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> FakeKms:
    made = FakeKms()
    monkeypatch.setattr(kms_module, "Kms", lambda **_: made)
    return made


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["seal", *words]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def fail(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["seal", *words]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("enclave-parent: error: ")
    assert "hunter2" not in captured.err
    return captured.err


def test_values_are_encrypted_one_by_one_and_names_stay(
    tmp_path: Path, kms: FakeKms, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.yaml").write_text(
        "# lost\ndb: {password: hunter2, port: 5432}\nh_unencrypted: x\n"
    )
    output = tmp_path / "sealed.yaml"
    told = run(
        capsys, "--key-id", "alias/app", "--context", "app=demo", "--context", "b=c=d",
        "--output", str(output), str(tmp_path / "s.yaml"),
    )  # fmt: skip
    assert told == ""
    tree = yaml.safe_load(output.read_text())
    assert tree["h_unencrypted"] == "x"
    assert tree["db"]["password"].startswith("ENC[AES256_GCM,data:")
    assert tree["db"]["port"].endswith("type:int]")
    assert "hunter2" not in output.read_text()
    (key,) = tree["sops"]["kms"]
    assert (key["arn"], key["context"]) == (ARN, {"app": "demo", "b": "c=d"})
    assert base64.b64decode(key["enc"]) == b"ciphertext of alias/app"
    ((name, data_key, context),) = kms.calls
    assert (name, len(data_key), context) == ("alias/app", 32, {"app": "demo", "b": "c=d"})


def test_the_data_key_is_new_each_time_and_the_same_for_every_kms_key(
    tmp_path: Path, kms: FakeKms, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.env").write_text("A=1\n")
    for _ in range(2):
        run(capsys, "--key-id", "one", "--key-id", "two", str(tmp_path / "s.env"))
    keys = [plaintext for _, plaintext, _ in kms.calls]
    assert keys[0] == keys[1] != keys[2] == keys[3]


def test_raw_is_a_ciphertext_of_the_bytes_from_standard_input(
    kms: FakeKms, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\x00hunter2")))
    told = run(capsys, "--key-id", ARN, "--format", "raw", "-")
    assert base64.b64decode(told) == b"ciphertext of " + ARN.encode()
    assert kms.calls == [(ARN, b"\x00hunter2", {})]


def test_a_line_end_that_is_sealed_is_told(
    tmp_path: Path, kms: FakeKms, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s").write_text("hunter2\n")
    for form in ("raw", "sops"):
        assert main(["seal", "--key-id", ARN, "--format", form, str(tmp_path / "s")]) == 0
        assert "ends with a line end" in capsys.readouterr().err


def test_the_statement_for_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "image.eif").write_bytes(eifs.eif())
    told = run(capsys, "--policy-for", str(tmp_path / "image.eif"), "--role", ROLE,
               "--context", "app=demo")  # fmt: skip
    assert json.loads(told) == {
        "Sid": "AttestedDecrypt",
        "Effect": "Allow",
        "Principal": {"AWS": [ROLE]},
        "Action": "kms:Decrypt",
        "Resource": "*",
        "Condition": {
            "StringEqualsIgnoreCase": {
                "kms:RecipientAttestation:ImageSha384": eifs.pcrs()[0].hex()
            },
            "StringEquals": {"kms:EncryptionContext:app": "demo"},
        },
    }


INPUTS: dict[str, tuple[tuple[str, ...], bytes, str]] = {
    "nothing": ((), b"", "the input is empty"),
    "json": (("--type", "json"), b'{"a": hunter2', "not json, line 1"),
    "a list": (("--type", "json"), b'["hunter2"]', "not a mapping"),
    "not a number": (("--type", "json"), b'{"a": NaN}', "not json"),
    "a surrogate": (("--type", "json"), b'{"a": "\\ud800"}', "not json"),
    "a key twice in JSON": (("--type", "json"), b'{"a": 1, "a": 2}', "stands twice"),
    "yaml": (("--type", "yaml"), b"a: [hunter2", "not yaml, line 1"),
    "a key twice in YAML": (("--type", "yaml"), b"a: 1\na: 2", "line 2: 'a' stands twice"),
    "a key that is no text": (("--type", "yaml"), b"1: hunter2", "a key is not a text"),
    "a Python object": (("--type", "yaml"), b"a: !!python/object:os.system {}", "not yaml"),
    "metadata": (("--type", "yaml"), b"sops: 1", "'sops' belongs to the metadata"),
    "metadata in dotenv": (("--type", "dotenv"), b"sops_mac=1", "belongs to the metadata"),
    "dotenv": (("--type", "dotenv"), b"A=1\nhunter2", "line 2 .* has no '='"),
    "a key twice in dotenv": (("--type", "dotenv"), b"A=1\nA=2", "line 2 .*'A' stands twice"),
    "too much for a ciphertext": (("--format", "raw"), bytes(4_097), "KMS encrypts up to 4096"),
    "a ciphertext of YAML": (("--format", "raw", "--type", "yaml"), b"a: b", "no --type"),
    "a ciphertext of two keys": (("--format", "raw", "--key-id", "x"), b"a", "has one key"),
    "a context": (("--context", "app"), b"a", "is not KEY=VALUE"),
    "a context twice": (("--context", "a=b", "--context", "a=c"), b"a", "given twice"),
    "too large": ((), bytes(1 << 20), "is larger than"),
    "no output": (("--policy-for", "x", "--role", "y"), b"a", "both print"),
    "no role": (("--policy-for", "x"), b"a", "without --role"),
}


@pytest.mark.parametrize("fault", INPUTS)
def test_what_cannot_be_sealed_is_one_error_and_no_call(
    tmp_path: Path, kms: FakeKms, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    words, content, message = INPUTS[fault]
    (tmp_path / "s").write_bytes(content)
    assert re.search(message, fail(capsys, "--key-id", ARN, *words, str(tmp_path / "s")))
    assert kms.calls == []


def test_what_is_missing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing to seal" in fail(capsys)
    (tmp_path / "s").write_text("x")
    assert "--key-id is missing" in fail(capsys, str(tmp_path / "s"))
    assert "No such file" in fail(capsys, "--key-id", ARN, str(tmp_path / "none"))


def test_an_error_of_kms_is_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s").write_text("hunter2")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert "no response from KMS: " in fail(capsys, "--key-id", "alias/x", str(tmp_path / "s"))


TYPES: Any = [("a.env", "dotenv"), ("a.json", "json"), ("a.yml", "yaml"), ("a.pem", "binary")]


@pytest.mark.parametrize(("name", "kind"), TYPES)
def test_the_name_of_a_file_tells_its_type(name: str, kind: str) -> None:
    assert type_of(name) == kind


def test_texts_that_look_like_other_types_stay_texts() -> None:
    """SOPS reads YAML by other rules than PyYAML: what is a text must be one for both."""
    texts = ["yes", "1e3", "010", "0o10", "2020-01-01", "~", "", "true", ".5", "1_000", "0x1F", "="]
    tree: Tree = {"t_unencrypted": [*texts]}
    for kind in ("yaml", "json"):
        made = sealed([tree], kind, data_key=bytes(32), keys=[], now=datetime.now(UTC),
                      random=bytes)  # fmt: skip
        read = json.loads(made) if kind == "json" else yaml.safe_load(made)
        assert read["t_unencrypted"] == texts
    (typed,) = read_plain(b"t: [yes, 1e3, 010, 2020-01-01, ~, true, '1', !!str 1]", "yaml")
    assert typed == {"t": ["yes", 1000.0, 8, Timestamp("2020-01-01"), None, True, "1", "1"]}
