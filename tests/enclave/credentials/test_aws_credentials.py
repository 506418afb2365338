"""Credentials of pods, tasks and instances, from the simulator's services on loopback."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import threading
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest

from enclave.credentials import AwsCredentials, choose_provider
from enclave.credentials.aws import MAX_TOKEN
from enclave.credentials.document import MAX_BODY
from enclave.errors import CredentialsError
from enclave.surroundings import aws_source
from enclave_simulator.kms.tls import CertificateAuthority
from enclave_simulator.metadata.container import TASK_PATH, ContainerCredentials
from enclave_simulator.metadata.instance import InstanceMetadata
from enclave_simulator.metadata.server import Handler, Server
from tests.doubles import ManualClock, RedirectingDialer
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import TcpAddress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START = datetime(2026, 1, 2, tzinfo=UTC)


class Document:
    """What the services give out; counts, so that each response is another."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.number = 0
        self.lifetime = 3600.0
        self.instead: dict[str, Any] | None = None

    def __call__(self) -> dict[str, Any]:
        self.number += 1
        if self.instead is not None:
            return self.instead
        expires = self.clock.now() + timedelta(seconds=self.lifetime)
        return {
            "AccessKeyId": f"ASIA{self.number}",
            "SecretAccessKey": "hush",
            "Token": "session",
            "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def document(clock: ManualClock) -> Document:
    return Document(clock)


def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def url(server: Server, path: str = "") -> str:
    host, port = server.socket.getsockname()[:2]
    return f"http://{host}:{port}{path}"


def provider(source: str, environ: dict[str, str], clock: ManualClock, **more: Any) -> Any:
    more.setdefault("timeout", TEST_TIMEOUT)
    return AwsCredentials(
        source, environ=environ, clock=clock, uniform=lambda _, high: high, **more
    )


def error(source: str, environ: dict[str, str], clock: ManualClock, **more: Any) -> Any:
    with pytest.raises(CredentialsError) as caught:
        provider(source, environ, clock, **more).credentials(timeout=TEST_TIMEOUT)
    assert caught.value.hint
    return caught.value


# --- EKS Pod Identity, ECS ---


def test_a_pod_sends_the_token_of_its_file(
    tmp_path: Path, clock: ManualClock, document: Document
) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    service = ContainerCredentials(listener(), token=token.read_text, document=document)
    with service.running():
        environ = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": url(service, "/v1/credentials"),
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
        }
        credentials = provider("container", environ, clock)
        found = credentials.credentials()
        assert (found.access_key_id, found.session_token) == ("ASIA1", "session")
        assert found.expiration == START + timedelta(hours=1)
        assert "hush" not in repr(found)
        assert credentials.credentials() is found
        token.write_text("second")  # EKS renews it
        clock.elapsed = 3601
        assert credentials.credentials().access_key_id == "ASIA2"
    assert service.requests == 2


def test_they_are_renewed_ahead_of_their_expiry(clock: ManualClock, document: Document) -> None:
    service = ContainerCredentials(listener(), document=document)
    with service.running():
        environ = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url(service, "/v1/credentials")}
        credentials = provider("container", environ, clock)
        document.lifetime = 600
        assert credentials.credentials().access_key_id == "ASIA1"
        clock.elapsed = 400  # more than half: asked for, while the cached ones serve
        assert credentials.credentials().access_key_id == "ASIA1"
        credentials._renewal.result(TEST_TIMEOUT)
        assert credentials.credentials().access_key_id == "ASIA2"


def test_a_task_has_a_relative_uri(clock: ManualClock, document: Document) -> None:
    service = ContainerCredentials(listener(), path=TASK_PATH, document=document)
    dialer = RedirectingDialer(TcpAddress("127.0.0.1", service.socket.getsockname()[1]))
    with service.running():
        environ = {
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": TASK_PATH,
            "HTTP_PROXY": "http://127.0.0.1:9",
        }
        credentials = provider("container", environ, clock, dialer=dialer)
        assert credentials.credentials().access_key_id == "ASIA1"
    assert dialer.dialed == [TcpAddress("169.254.170.2", 80)]


def test_a_wrong_token_is_refused_and_stays_secret(tmp_path: Path, clock: ManualClock) -> None:
    token = tmp_path / "token"
    token.write_text("hush-hush")
    service = ContainerCredentials(listener(), token=lambda: "another")
    with service.running():
        found = error(
            "container",
            {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": url(service, "/v1/credentials"),
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
            },
            clock,
        )
    assert "401" in str(found)
    assert "invalid token" in str(found)
    assert "hush" not in str(found) + found.hint


@pytest.mark.parametrize("content", [b"", b"x" * (MAX_TOKEN + 1), "tökén".encode(), None])
def test_a_token_file_that_holds_none(
    tmp_path: Path, clock: ManualClock, content: bytes | None
) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    environ = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9/",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
    }
    assert str(token) in str(error("container", environ, clock))


@pytest.mark.parametrize(
    ("environ", "part"),
    [
        ({}, "names no container credentials service"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://kms.example/x"}, "Unsupported host"),
        (
            {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9/",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN": "a\nb",
            },
            "the header",
        ),
    ],
)
def test_an_environment_that_leads_nowhere(
    clock: ManualClock, environ: dict[str, str], part: str
) -> None:
    found = error("container", environ, clock)
    assert part in str(found)
    assert not found.transient


@pytest.mark.parametrize(
    ("instead", "part"),
    [
        ({}, "a response without 'AccessKeyId'"),
        ({"AccessKeyId": "AKIA1", "SecretAccessKey": "hush", "Token": ""}, "'Expiration'"),
        (
            {"AccessKeyId": "ASIA1", "SecretAccessKey": "hush", "Token": "",
             "Expiration": "2026-01-02T01:00:00Z"},
            "Token is not set",
        ),
        (
            {"AccessKeyId": "ASIA1", "SecretAccessKey": "hush\r\n", "Token": "t",
             "Expiration": "2026-01-02T01:00:00Z"},
            "SecretAccessKey",
        ),
        (
            {"AccessKeyId": "ASIA1", "SecretAccessKey": "hush", "Token": "t",
             "Expiration": "2026-01-01T00:00:00Z"},
            "expired",
        ),
        (
            {"AccessKeyId": "ASIA1", "SecretAccessKey": "hush", "Token": "t",
             "Expiration": "soon"},
            "Expiration is not a time",
        ),
        ({"AccessKeyId": "x" * MAX_BODY}, "no AWS credentials"),
    ],
)  # fmt: skip
def test_a_response_that_holds_no_credentials(
    clock: ManualClock, document: Document, instead: dict[str, Any], part: str
) -> None:
    document.instead = instead
    service = ContainerCredentials(listener(), document=document)
    with service.running():
        environ = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url(service, "/v1/credentials")}
        found = error("container", environ, clock)
    assert part in str(found)
    assert "hush" not in str(found)


@pytest.mark.parametrize("source", ["container", "instance"])
def test_nobody_listens(clock: ManualClock, source: str) -> None:
    with listener() as free:
        port = free.getsockname()[1]
    environ = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{port}/",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{port}/",
    }
    found = error(source, environ, clock)
    assert found.transient
    assert "Connection refused" in str(found)


def test_a_service_that_is_silent_ends_with_the_calls_own_time(clock: ManualClock) -> None:
    with listener() as silent:
        port = silent.getsockname()[1]
        environ = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{port}/"}
        credentials = provider("container", environ, clock, timeout=0.01)
        with pytest.raises(CredentialsError) as caught:
            credentials.credentials(timeout=TEST_TIMEOUT)
        assert caught.value.transient
        slow = provider("container", environ, clock)
        with pytest.raises(CredentialsError, match=r"within 0\.01 s") as caught:
            slow.credentials(timeout=0.01)
        assert caught.value.hint
    slow._renewal.exception(TEST_TIMEOUT)


def test_bytes_that_are_not_http(clock: ManualClock) -> None:
    with listener() as server:
        server.settimeout(TEST_TIMEOUT)

        def answer() -> None:
            for _ in range(3):
                connected, _ = server.accept()
                with connected:
                    connected.recv(4096)
                    connected.sendall(b"SSH-2.0-x\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        port = server.getsockname()[1]
        environ = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{port}/"}
        assert error("container", environ, clock).transient
        thread.join(TEST_TIMEOUT)


# --- IMDSv2 ---


@contextmanager
def instance(**options: Any) -> Iterator[tuple[InstanceMetadata, dict[str, str]]]:
    service = InstanceMetadata(listener(), **options)
    with service.running():
        yield service, {"AWS_EC2_METADATA_SERVICE_ENDPOINT": url(service)}


def test_an_instance_asks_with_a_token(clock: ManualClock, document: Document) -> None:
    with instance(document=document) as (service, environ):
        credentials = provider("instance", environ | {"HTTP_PROXY": "http://127.0.0.1:9"}, clock)
        assert credentials.credentials().access_key_id == "ASIA1"
    assert service.requests == 1


def test_the_environment_cannot_lead_past_the_token(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class V1(Handler):
        def do_PUT(self) -> None:  # noqa: N802
            self.respond(404, b"")

        def do_GET(self) -> None:  # noqa: N802
            pytest.fail("asked without a token")

    service = Server(listener(), V1)
    with service.running():
        found = error("instance", {"AWS_EC2_METADATA_SERVICE_ENDPOINT": url(service)}, clock)
    assert "sent status 404 to PUT" in str(found)


@pytest.mark.parametrize(
    ("options", "part", "hint"),
    [
        ({"role": None}, "has no role (status 404)", "associate-iam-instance-profile"),
        ({"document": lambda: {"Code": "x"}}, "has a role, and no credentials", "trust policy"),
        ({"hops": 2}, "sent no response", "HttpPutResponseHopLimit"),
    ],
)
def test_the_instance_has_none(
    clock: ManualClock, options: dict[str, Any], part: str, hint: str
) -> None:
    with instance(**options) as (_, environ):
        found = error("instance", environ, clock, timeout=0.5 if "hops" in options else 10)
    assert part in str(found)
    assert hint in found.hint


def test_in_a_container_two_hops_are_enough(clock: ManualClock, document: Document) -> None:
    with instance(document=document, hops=2, hop_limit=2) as (_, environ):
        assert provider("instance", environ, clock).credentials().access_key_id == "ASIA1"


def test_metadata_that_is_turned_off(clock: ManualClock) -> None:
    class Off(Handler):
        def do_PUT(self) -> None:  # noqa: N802
            self.respond(403, b"")

    service = Server(listener(), Off)
    with service.running():
        found = error("instance", {"AWS_EC2_METADATA_SERVICE_ENDPOINT": url(service)}, clock)
    assert "turned off (status 403)" in str(found)
    found = error("instance", {"AWS_EC2_METADATA_DISABLED": "true"}, clock)
    assert "AWS_EC2_METADATA_DISABLED" in str(found)


# --- IRSA ---


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


# --- the choice ---

NOTHING: dict[str, str] = {}
POD = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials"}
TASK = {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/x"}
IRSA = {"AWS_WEB_IDENTITY_TOKEN_FILE": "/t", "AWS_ROLE_ARN": "r"}


@pytest.mark.parametrize(
    ("environ", "attester", "devices", "source"),
    [
        (NOTHING, "auto", {"/dev/nsm"}, None),
        (NOTHING, "auto", {"/dev/nsm", "/dev/tpmrm0"}, None),
        (NOTHING, "auto", set(), None),
        (NOTHING, "auto", {"/dev/tpmrm0", "/dev/tpm0"}, "instance"),
        (NOTHING, "auto", {"/dev/tpm0"}, "instance"),
        (NOTHING, "nsm", {"/dev/tpm0"}, None),
        (NOTHING, "nitrotpm", {"/dev/nsm"}, "instance"),
        (POD, "auto", {"/dev/nsm"}, "container"),
        (TASK, "auto", {"/dev/nsm"}, "container"),
        (TASK, "auto", {"/dev/tpm0"}, "container"),
        (IRSA, "auto", {"/dev/nsm"}, "web-identity"),
        (IRSA | POD, "auto", {"/dev/nsm"}, "web-identity"),  # botocore's order
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": ""}, "auto", {"/dev/nsm"}, None),
    ],
)
def test_what_is_there_decides(
    environ: dict[str, str], attester: str, devices: set[str], source: str | None
) -> None:
    assert aws_source(environ, attester=attester, exists=devices.__contains__) == source


def test_auto_takes_what_is_here_and_a_name_takes_that(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    for asked, here in (("auto", "container"), ("container", None), ("container", "instance")):
        assert isinstance(choose_provider(asked, environ={}, here=here), AwsCredentials)
        assert caplog.records[-1].getMessage() == "credentials come from the source container"
    own = {"AWS_ACCESS_KEY_ID": "AKIA1", "AWS_SECRET_ACCESS_KEY": "hush"}
    found = choose_provider("auto", environ=own, here="container").credentials()
    assert found.access_key_id == "AKIA1"


def test_nothing_is_imported_before_it_is_needed() -> None:
    """botocore's fetchers cost 90 ms of CPU: an enclave never pays them."""
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    script = (
        "import sys; from enclave import Agent; Agent(region='us-east-1', environ={});"
        "print(json.dumps([m for m in sys.modules if m.startswith('botocore.cred')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import json; {script}"],
        capture_output=True, text=True, check=True, timeout=TEST_TIMEOUT,
    )  # fmt: skip
    assert json.loads(done.stdout) == []


def test_a_service_that_speaks_https(
    tmp_path: Path, clock: ManualClock, document: Document
) -> None:
    authority = CertificateAuthority()
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(authority.certificate_pem)
    service = ContainerCredentials(listener(), document=document)
    port = service.socket.getsockname()[1]
    service.socket = authority.server_context().wrap_socket(service.socket, server_side=True)
    with service.running():
        environ = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"https://127.0.0.1:{port}/v1/credentials"}
        trusted = provider("container", environ, clock, ca_bundle=str(bundle))
        assert trusted.credentials().access_key_id == "ASIA1"
        assert "certificate" in str(error("container", environ, clock)).lower()
    assert isinstance(service.socket, ssl.SSLSocket)
