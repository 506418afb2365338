"""Credentials of pods and tasks, from the simulator's services on loopback."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from enclave.credentials.aws import MAX_TOKEN
from enclave.credentials.document import MAX_BODY
from enclave.errors import CredentialsError
from enclave_simulator.metadata.container import TASK_PATH, ContainerCredentials
from tests.doubles import ManualClock, RedirectingDialer
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import TcpAddress

if TYPE_CHECKING:
    from pathlib import Path
from tests.enclave.credentials.aws_sources import START, Document, error, listener, provider, url


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
