"""botocore's chain on the parent, against services of AWS's that answer badly."""

from __future__ import annotations

import contextlib
import http.server
import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from parent.credentials.model import CredentialsError
from parent.credentials.source import load
from parent.credentials.source_process import SourceProcess

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "s3cret/key"
TOKEN = "t0ken" * 20


def in_an_hour() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")


def whole() -> dict[str, str]:
    return {
        "Code": "Success",
        "AccessKeyId": "ASIAPARENT",
        "SecretAccessKey": SECRET,
        "Token": TOKEN,
        "Expiration": in_an_hour(),
    }


Reply = Callable[[], tuple[int, str]]


@dataclass
class Aws:
    """What answers, by method and the beginning of the path; and what was asked."""

    url: str = ""
    replies: dict[str, Reply] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)

    def imds(self, document: object, *, token: int = 200) -> None:
        role = "/latest/meta-data/iam/security-credentials/"
        self.replies = {
            "PUT /latest/api/token": lambda: (token, "imds-token"),
            f"GET {role}enclave-role": lambda: (200, json.dumps(document)),
            f"GET {role}": lambda: (200, "enclave-role"),
        }

    def container(self, status: int, text: str) -> None:
        self.replies = {"GET /v1/credentials": lambda: (status, text)}

    def sts(self, status: int, text: str) -> None:
        self.replies = {"POST /": lambda: (status, text)}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Aws]:
    """A stand-in for every service; and an environment in which only it can be found."""
    aws = Aws()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            line = f"{self.command} {self.path}"
            aws.asked.append(line)
            aws.headers.append(dict(self.headers.items()))
            aws.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
            reply = next((r for start, r in aws.replies.items() if line.startswith(start)), None)
            status, text = reply() if reply else (404, "")
            with contextlib.suppress(ConnectionError):  # Who asked did not wait.
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

        do_PUT = do_POST = do_GET  # noqa: N815 (the standard library's names)

        def log_message(self, *_: Any) -> None:
            pass

    for name in (
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE",
        "AWS_CREDENTIAL_EXPIRATION", "AWS_DEFAULT_PROFILE", "AWS_EC2_METADATA_DISABLED",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        aws.url = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", aws.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", aws.url)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        monkeypatch.setenv("BOTO_CONFIG", str(tmp_path / "boto"))
        yield aws
        server.shutdown()
        thread.join(20)


def failure(profile: str | None = None) -> CredentialsError:
    with pytest.raises(CredentialsError) as caught:
        load(profile, now=datetime.now(UTC))
    for secret in (SECRET, TOKEN):
        assert secret not in str(caught.value) + repr(caught.value) + caught.value.hint
    return caught.value


# Instance metadata


def test_imdsv2(aws: Aws, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    aws.imds(whole())
    credentials = load(None, now=datetime.now(UTC))
    assert credentials.access_key_id == "ASIAPARENT"
    assert (credentials.secret_access_key, credentials.session_token) == (SECRET, TOKEN)
    assert credentials.source == "iam-role"
    assert credentials.expiration
    assert timedelta(minutes=50) < credentials.expiration - datetime.now(UTC)
    assert aws.asked[0] == "PUT /latest/api/token"
    assert aws.headers[1]["x-aws-ec2-metadata-token"] == "imds-token"
    assert SECRET not in caplog.text + repr(credentials)
    assert TOKEN not in caplog.text + repr(credentials)


@pytest.mark.parametrize("token", [401, 403, 404, 500])
def test_imdsv1_is_not_used(aws: Aws, token: int) -> None:
    """A response is no lost one: the hop limit is not the cause; 403 is a service turned off."""
    aws.imds(whole(), token=token)
    error = failure()
    assert error.kind == "no-metadata"
    assert f"status {token}" in str(error)
    assert "HttpPutResponseHopLimit" not in error.hint
    assert ("--http-endpoint enabled" in error.hint) == (token == 403)
    assert {line.split()[0] for line in aws.asked} == {"PUT"}


def test_no_metadata_service(monkeypatch: pytest.MonkeyPatch, aws: Aws) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    assert failure().kind == "no-metadata"


def test_a_metadata_service_that_hangs(aws: Aws) -> None:
    """As behind one hop too many: the answer to the question for a token never comes."""
    go_on = threading.Event()

    def hang() -> tuple[int, str]:
        go_on.wait(20)
        return 200, "late"

    aws.replies = {"PUT /latest/api/token": hang}
    try:
        error = failure()
    finally:
        go_on.set()
    assert error.kind == "no-metadata"
    assert "HttpPutResponseHopLimit" in error.hint


def test_a_role_that_the_metadata_service_refuses(aws: Aws) -> None:
    aws.imds(whole())
    for path in list(aws.replies)[1:]:
        aws.replies[path] = lambda: (401, "")
    error = failure()
    assert error.kind == "refused"
    assert "status 401" in str(error)


def test_an_instance_without_a_role(aws: Aws) -> None:
    aws.imds(whole())
    del aws.replies["GET /latest/meta-data/iam/security-credentials/"]
    del aws.replies["GET /latest/meta-data/iam/security-credentials/enclave-role"]
    error = failure()
    assert error.kind == "none"
    assert "the instance has no role" in str(error)
    assert "status 404" in str(error)
    assert "instance profile" in error.hint


def test_a_role_without_credentials(aws: Aws) -> None:
    """Attached a moment ago, or deleted: the list has it, but there is nothing behind it."""
    aws.imds(whole())
    aws.replies = dict(list(aws.replies.items())[::2])  # The token, and the list.
    aws.replies["GET /latest/meta-data/iam/security-credentials/enclave-role"] = lambda: (404, "")
    aws.replies = dict(sorted(aws.replies.items(), key=lambda item: -len(item[0])))
    error = failure()
    assert error.kind == "none"
    assert "'enclave-role'" in str(error)
    assert "status 404" in str(error)


def test_a_role_that_ec2_may_not_assume(aws: Aws) -> None:
    aws.imds({"Code": "AssumeRoleUnauthorizedAccess", "Message": f"EC2 cannot assume {SECRET}"})
    error = failure()
    assert error.kind == "refused"
    assert "AssumeRoleUnauthorizedAccess" in str(error)
    assert "'enclave-role'" in str(error)
    assert "trust policy must allow sts:AssumeRole for ec2.amazonaws.com" in error.hint


def test_metadata_that_are_turned_off_for_botocore_are_not_looked_at(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.imds(whole())
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert failure().kind == "none"
    assert aws.asked == []


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({**whole(), "SecretAccessKey": ""}, "half-written"),
        ({**whole(), "Token": ""}, "half-written"),
        ({k: v for k, v in whole().items() if k != "SecretAccessKey"}, "none"),
        ({"Code": "Failed", "Message": "no trust"}, "refused"),
        ({**whole(), "AccessKeyId": "ASIA\r\nX: y"}, "malformed"),
        ({**whole(), "Token": "x" * 20_000}, "malformed"),
        ([], "none"),
    ],
)
def test_metadata_without_valid_credentials(aws: Aws, document: object, kind: str) -> None:
    aws.imds(document)
    assert failure().kind == kind


# Containers: ECS, and EKS Pod Identity with its token in a file


@pytest.fixture
def pod(aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Aws:
    token = tmp_path / "eks-pod-identity-token"
    token.write_text("pod-token")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{aws.url}/v1/credentials")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(token))
    return aws


def test_pod_identity(pod: Aws) -> None:
    pod.container(200, json.dumps(whole()))
    credentials = load(None, now=datetime.now(UTC))
    assert (credentials.secret_access_key, credentials.source) == (SECRET, "container-role")
    assert pod.headers[0]["Authorization"] == "pod-token"


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (200, json.dumps({k: v for k, v in whole().items() if k != "SecretAccessKey"}),
         "half-written"),
        (200, json.dumps({**whole(), "Token": None}), "half-written"),
        (200, json.dumps(whole())[:100], "no-response"),
        (200, json.dumps({**whole(), "Expiration": "2020-01-01T00:00:00Z"}), "expired"),
        (500, "no agent", "no-response"),
        (403, "", "no-response"),
    ],
)  # fmt: skip
def test_invalid_responses_of_a_container_endpoint(
    pod: Aws, status: int, text: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    pod.container(status, text)
    assert failure().kind == kind


# Roles through STS: IRSA, and a profile


def assumed(action: str) -> str:
    return (
        f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result>'
        f"<Credentials><AccessKeyId>ASIASTS</AccessKeyId><SecretAccessKey>{SECRET}"
        f"</SecretAccessKey><SessionToken>{TOKEN}</SessionToken>"
        f"<Expiration>{in_an_hour()}</Expiration></Credentials><AssumedRoleUser>"
        "<Arn>arn:aws:sts::111122223333:assumed-role/r/s</Arn><AssumedRoleId>A:s</AssumedRoleId>"
        f"</AssumedRoleUser></{action}Result></{action}Response>"
    )


REFUSED = (
    '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
    "<Code>AccessDenied</Code><Message>not yours</Message></Error></ErrorResponse>"
)


@pytest.fixture
def irsa(aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Aws:
    token = tmp_path / "token"
    token.write_text("a.web.identity")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/r")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    return aws


def test_irsa(irsa: Aws) -> None:
    irsa.sts(200, assumed("AssumeRoleWithWebIdentity"))
    credentials = load(None, now=datetime.now(UTC))
    assert (credentials.access_key_id, credentials.session_token) == ("ASIASTS", TOKEN)
    assert credentials.source == "assume-role-with-web-identity"
    assert "WebIdentityToken=a.web.identity" in irsa.bodies[0]


def test_a_web_identity_that_was_rotated(irsa: Aws, tmp_path: Path) -> None:
    irsa.sts(200, assumed("AssumeRoleWithWebIdentity"))
    load(None, now=datetime.now(UTC))
    (tmp_path / "token").write_text("another.web.identity")
    load(None, now=datetime.now(UTC))
    assert "WebIdentityToken=another.web.identity" in irsa.bodies[-1]
    (tmp_path / "token").unlink()
    error = failure()
    assert error.kind == "no-response"
    assert str(tmp_path / "token") in str(error)


def test_a_role_that_may_not_be_assumed(irsa: Aws) -> None:
    irsa.sts(403, REFUSED)
    error = failure()
    assert error.kind == "refused"
    assert "AssumeRoleWithWebIdentity refused: AccessDenied: 'not yours'" in str(error)


def profile(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        "[profile enclave]\nrole_arn = arn:aws:iam::111122223333:role/r\nsource_profile = base\n"
    )
    (tmp_path / "credentials").write_text(
        "[base]\naws_access_key_id = AKIABASE\naws_secret_access_key = base\n"
        f"[session]\naws_access_key_id = ASIAOLD\naws_secret_access_key = {SECRET}\n"
        f"aws_session_token = {TOKEN}\n"
    )


def test_a_profile_that_assumes_a_role(aws: Aws, tmp_path: Path) -> None:
    profile(tmp_path)
    aws.sts(200, assumed("AssumeRole"))
    credentials = load("enclave", now=datetime.now(UTC))
    assert (credentials.access_key_id, credentials.source) == ("ASIASTS", "assume-role")
    assert "role%2Fr" in aws.bodies[0]


def test_an_iam_users_keys(aws: Aws, tmp_path: Path) -> None:
    profile(tmp_path)
    credentials = load("base", now=datetime.now(UTC))
    assert (credentials.access_key_id, credentials.session_token, credentials.expiration) == (
        "AKIABASE",
        None,
        None,
    )


def test_a_token_without_an_expiration_lasts_15_minutes(aws: Aws, tmp_path: Path) -> None:
    profile(tmp_path)
    now = datetime.now(UTC)
    assert load("session", now=now).expiration == now + timedelta(minutes=15)


def test_no_such_profile(aws: Aws) -> None:
    error = failure("nobody")
    assert error.kind == "configuration"
    assert "nobody" in str(error)


# The environment


def test_the_environment(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIAENV")
    assert failure().kind == "half-written"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert failure().kind == "half-written"
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", in_an_hour())
    credentials = load(None, now=datetime.now(UTC))
    assert (credentials.access_key_id, credentials.source) == ("ASIAENV", "env")
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", "2020-01-01T00:00:00Z")
    assert failure().kind == "expired"
    assert not aws.asked


# Proxies


@pytest.mark.parametrize("spared", ["", "example.com", "*"])
def test_no_proxy_gets_requests_for_metadata(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, spared: str
) -> None:
    """In the process that the daemon and the doctor start: a proxy would get the token."""
    aws.imds(whole())
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, aws.url.replace("127.0.0.1", "proxy.invalid"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, spared)
    assert SourceProcess().load(None, now=datetime.now(UTC)).source == "iam-role"
    assert all(line.split()[1].startswith("/latest/") for line in aws.asked)


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [("nonsense", "configuration"), ("http://127.0.0.1:99999", "configuration"),
     ("http://[::1", "malformed")],
)  # fmt: skip
def test_a_metadata_endpoint_that_is_none(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, endpoint: str, kind: str
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint)
    with pytest.raises(CredentialsError) as caught:
        SourceProcess().load(None, now=datetime.now(UTC))
    assert caught.value.kind == kind
    assert caught.value.hint


def test_sts_is_reached_through_a_proxy_alone(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    profile(tmp_path)
    aws.sts(200, assumed("AssumeRole"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://sts.invalid")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTP_PROXY", aws.url)
    monkeypatch.setenv("http_proxy", aws.url)
    aws.replies = {"POST http://sts.invalid/": lambda: (200, assumed("AssumeRole"))}
    assert SourceProcess().load("enclave", now=datetime.now(UTC)).access_key_id == "ASIASTS"
