"""Signing and sealing with KMS: whatever the credentials are set to, and whatever KMS responds."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from parent.eif.signature import ALGORITHMS
from parent.eif.signer import KmsKey, SigningError
from parent.secrets.kms import Kms
from parent.secrets.plain import SealError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vsock_proxy.errors import AgentError

ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd"
SECRET = "s3cret/key"
KEYS = f"aws_access_key_id = AKIA\naws_secret_access_key = {SECRET}\n"
ROLE = "role_arn = arn:aws:iam::111122223333:role/r\nsource_profile = base\n"


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without credentials."""
    for name in (
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL_STS",
        "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CREDENTIAL_EXPIRATION",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def failures() -> Iterator[AgentError]:
    """What signing and sealing end in."""
    with pytest.raises(SigningError) as signing:
        KmsKey(ARN).sign(b"message", ALGORITHMS["secp384r1"])
    yield signing.value
    with pytest.raises(SealError) as sealing:
        Kms(region=None, endpoint_url=None, profile=None).encrypt(ARN, SECRET.encode(), {})
    yield sealing.value


@pytest.mark.parametrize(
    ("config", "reason", "hint"),
    [
        ("", "Unable to locate credentials", "AWS CLI"),
        ("[default]\ncredential_process = echo hello\n", "is not JSON", "~/.aws/config"),
        ("[default]\ncredential_process = echo null\n", "cannot be used", "~/.aws/config"),
        ('[default]\ncredential_process = "x\n', "cannot be used", "~/.aws/config"),
        (f"[default]\n{KEYS}endpoint_url = nonsense\n", "'Invalid endpoint: nonsense'",
         "endpoint_url"),
        (f"[default]\n{KEYS}endpoint_url = http://127.0.0.1:9\n", "Could not connect",
         "AWS_ENDPOINT_URL"),
        ("[default", "Unable to parse config file", "~/.aws/config"),
        ("[default]\naws_access_key_id = AKIA\n", "Partial credentials", "or none"),
    ],
)  # fmt: skip
def test_without_a_response(config: str, reason: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(config)
    for error in failures():
        assert reason in str(error)
        assert hint in error.hint
        assert SECRET not in str(error) + error.hint


@contextlib.contextmanager
def responding(status: int, document: Any) -> Iterator[str]:
    """A server of AWS's that gives one response to everything."""
    content = json.dumps(document).encode()
    if isinstance(document, str):
        content = document.encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "document", "reason", "hint"),
    [
        (400, {"__type": "AccessDeniedException", "message": "no"}, "AccessDeniedException: no",
         "needs kms:"),
        (400, {"__type": "NotFoundException"}, "NotFoundException", "Region and account"),
        (400, {"__type": "DisabledException"}, "DisabledException", "enabled"),
        (400, {"__type": "InvalidKeyUsageException"}, "InvalidKeyUsageException", "must be"),
        (400, {"__type": "ExpiredTokenException"}, "ExpiredTokenException", "have expired"),
        (400, {"__type": "InvalidSignatureException"}, "InvalidSignature", "timedatectl"),
        (400, {"__type": "OddException"}, "OddException", ""),
        (200, {}, "has no", ""),
        (200, "<html>", "", ""),
    ],
)  # fmt: skip
def test_the_hint_is_that_of_the_code(
    status: int, document: Any, reason: str, hint: str, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "config").write_text(f"[default]\n{KEYS}")
    with responding(status, document) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", address)
        for error in failures():
            assert reason in str(error)
            assert hint in error.hint
            assert "kms:{" not in error.hint


def test_a_role_that_may_not_be_assumed_is_not_kmss_refusal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(f"[default]\n{ROLE}[profile base]\n{KEYS}")
    refused = (
        '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender'
        "</Type><Code>AccessDenied</Code><Message>not yours</Message></Error></ErrorResponse>"
    )
    with responding(403, refused) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", address)
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:9")
        for error in failures():
            assert "AssumeRole refused: AccessDenied" in str(error)
            assert "trust policy" in error.hint
