"""``enclave-agent verify``: documents in the shapes that people keep them in, and its help."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from enclave.attestation import parse
from tests.enclave.nitro import NOW, Document

if TYPE_CHECKING:
    from tests.enclave.cli.conftest import CommandLine

SHARED = Path(__file__).resolve().parents[4] / "shared"
PCR0 = bytes(48).hex()

DOCUMENT = Document(
    payload={"pcrs": {index: bytes([index + 1]) * 48 for index in range(16)}, "nonce": b"n"}
)
RAW = DOCUMENT.encode()
BASE64 = base64.b64encode(RAW).decode()

SHAPES: dict[str, bytes] = {
    "as it is": RAW,
    "line end": RAW + b"\n",
    "hex": RAW.hex().encode(),
    "base64": base64.encodebytes(RAW),
    "base64 without padding": BASE64.rstrip("=").encode(),
    "base64url": base64.urlsafe_b64encode(RAW).rstrip(b"="),
    "byte order mark": b"\xef\xbb\xbf" + BASE64.encode(),
    "JSON string": json.dumps(BASE64).encode(),
    "JSON object": json.dumps({"attestation": BASE64, "nonce": "bg=="}).encode(),
    "list of bytes": json.dumps(list(RAW)).encode(),
    "NSM's response": b"\xa1\x6bAttestation\xa1\x68document\x59" + len(RAW).to_bytes(2) + RAW,
    "armour": f"-----BEGIN DOCUMENT-----\n{BASE64}\n-----END DOCUMENT-----\n".encode(),
}


def verify(command_line: CommandLine, path: Path, *options: str) -> str:
    command_line.now = NOW
    root = DOCUMENT.root_fingerprint.hex()
    done = command_line.run("verify", str(path), "--simulated-root", root, *options)
    assert done.exit_code == 0, done.err
    return done.out


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(command_line: CommandLine, name: str, tmp_path: Path) -> None:
    (tmp_path / "document").write_bytes(SHAPES[name])
    out = verify(command_line, tmp_path / "document", "--output", "json", "--nonce", "6e")
    assert json.loads(out)["Nonce"] == "6e"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b".eif\0\4", "this is an enclave image"),
        (b'{"Measurements": {"PCR0": ""}}', "nitro-cli's JSON with measurements"),
        (b"-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----", "a PEM file of CERT"),
        (b"hello, world", "malformed attestation document"),
    ],
)
def test_what_is_named(
    command_line: CommandLine, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "document").write_bytes(content)
    done = command_line.run("verify", str(tmp_path / "document"))
    assert (done.exit_code, done.out) == (255, "")
    assert message in done.err


@pytest.mark.skipif(not (SHARED / "cases").is_dir(), reason="no shared cases beside us")
def test_every_shared_document(command_line: CommandLine) -> None:
    expected = parse((SHARED / "vectors/attestation/tee-verifier-0.bin").read_bytes())
    command_line.now = expected.timestamp
    for path in sorted((SHARED / "cases/documents").iterdir()):
        done = command_line.run("verify", str(path), "--query", "ModuleId", "--output", "text")
        assert (done.exit_code, done.out) == (0, f"{expected.module_id}\n"), path.name


def test_the_output_form_is_as_the_help_says(
    command_line: CommandLine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command_line.run("verify", "--help")
    helped = " ".join(capsys.readouterr().out.split())
    assert "Prints a table, unless --output or AWS_DEFAULT_OUTPUT says otherwise" in helped
    assert "or json (verify and describe: table)" in helped
    (tmp_path / "document").write_bytes(RAW)
    assert verify(command_line, tmp_path / "document").startswith("-----")
    command_line.environ["AWS_DEFAULT_OUTPUT"] = "json"
    assert json.loads(verify(command_line, tmp_path / "document"))["DebugMode"] is False
