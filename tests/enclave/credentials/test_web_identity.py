"""Credentials for a web identity (IRSA), from an STS on loopback."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest

from enclave_simulator.kms.tls import CertificateAuthority
from enclave_simulator.threaded_server import Handler, Server
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.doubles import ManualClock
from tests.enclave.credentials.aws_sources import START, error, listener, provider


class Sts(Handler):
    """AssumeRoleWithWebIdentity, in the query protocol."""

    server: StsServer

    def do_POST(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append({name: value[0] for name, value in parse_qs(body).items()})
        self.server.headers.append(dict(self.headers))
        self.respond(*self.server.response, "text/xml")


class StsServer(Server):
    def __init__(self, authority: CertificateAuthority, response: tuple[int, bytes]) -> None:
        listening = listener()
        super().__init__(authority.server_context().wrap_socket(listening, server_side=True), Sts)
        self.response = response
        self.asked: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []


ASSUMED = b"""<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIASTS</AccessKeyId>
<SecretAccessKey>hush</SecretAccessKey><SessionToken>session</SessionToken>
<Expiration>2026-01-02T01:00:00Z</Expiration></Credentials><AssumedRoleUser>
<Arn>arn:aws:sts::111122223333:assumed-role/enclave/enclave-agent</Arn>
<AssumedRoleId>AROA:enclave-agent</AssumedRoleId></AssumedRoleUser>
</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""
DENIED = b"""<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error>
<Type>Sender</Type><Code>AccessDenied</Code><Message>Not authorized</Message></Error>
</ErrorResponse>"""


@pytest.fixture
def irsa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    authority = CertificateAuthority()
    bundle, token = tmp_path / "ca.pem", tmp_path / "token"
    bundle.write_bytes(authority.certificate_pem)
    token.write_text("web.identity.token")
    with ExitStack() as stack:

        def start(status: int = 200, body: bytes = ASSUMED) -> tuple[StsServer, dict[str, Any]]:
            server = StsServer(authority, (status, body))
            stack.enter_context(server.running())
            port = server.socket.getsockname()[1]
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"https://127.0.0.1:{port}")
            monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
            environ = {
                "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
                "AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/enclave",
            }
            return server, {"environ": environ, "region": "eu-west-1", "ca_bundle": str(bundle)}

        yield start


def test_a_web_identity_becomes_a_role(irsa: Any, clock: ManualClock) -> None:
    server, options = irsa()
    found = provider("web-identity", clock=clock, **options).credentials(timeout=TEST_TIMEOUT)
    assert (found.access_key_id, found.session_token) == ("ASIASTS", "session")
    assert found.expiration == START + timedelta(hours=1)
    [asked] = server.asked
    assert asked["Action"] == "AssumeRoleWithWebIdentity"
    assert asked["WebIdentityToken"] == "web.identity.token"
    assert asked["RoleArn"].endswith("role/enclave")
    assert "Authorization" not in server.headers[0]


def test_sts_refuses(irsa: Any, clock: ManualClock) -> None:
    _, options = irsa(403, DENIED)
    found = error("web-identity", clock=clock, **options)
    assert "refused: 'AccessDenied': 'Not authorized'" in str(found)
    assert "web.identity.token" not in str(found)
    assert not found.transient


def test_sts_must_prove_its_name(irsa: Any, clock: ManualClock) -> None:
    server, options = irsa()
    found = error("web-identity", clock=clock, **options | {"ca_bundle": None})
    assert "certificate" in str(found).lower()
    assert server.asked == []


def test_half_of_a_web_identity(irsa: Any, clock: ManualClock) -> None:
    _, options = irsa()
    del options["environ"]["AWS_ROLE_ARN"]
    assert "AWS_ROLE_ARN is not set" in str(error("web-identity", clock=clock, **options))
