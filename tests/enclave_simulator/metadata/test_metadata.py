"""The simulated metadata services, by plain HTTP and by botocore's own chain."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest
from botocore.utils import InstanceMetadataRegionFetcher

from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.metadata.container import ContainerCredentials
from enclave_simulator.metadata.instance import InstanceMetadata
from tests.doubles import ManualClock
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TTL = "x-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "x-aws-ec2-metadata-token"
ROLES = "/latest/meta-data/iam/security-credentials/"


def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@contextlib.contextmanager
def metadata(**options: Any) -> Iterator[InstanceMetadata]:
    service = InstanceMetadata(listener(), **options)
    with service.running():
        yield service


def ask(
    server: Any, method: str, path: str, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    host, port = server.socket.getsockname()[:2]
    connection = http.client.HTTPConnection(host, port, timeout=TEST_TIMEOUT)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_nothing_without_a_token_and_all_with_one() -> None:
    with metadata(region="eu-west-1") as service:
        assert ask(service, "GET", ROLES) == (401, b"")
        status, token = ask(service, "PUT", "/latest/api/token", {TTL: "60"})
        assert status == 200
        with_token = {TOKEN: token.decode()}
        assert ask(service, "GET", ROLES, with_token) == (200, b"simulated-role")
        _, body = ask(service, "GET", f"{ROLES}simulated-role", with_token)
        credentials = json.loads(body)
        assert credentials["Code"] == "Success"
        assert credentials["AccessKeyId"] == SIMULATED_CREDENTIALS.access_key_id
        region = ask(service, "GET", "/latest/meta-data/placement/region", with_token)
        assert region == (200, b"eu-west-1")
        assert ask(service, "GET", "/latest/user-data", with_token)[0] == 404
        assert ask(service, "PUT", "/latest/other", {TTL: "60"})[0] == 404


def test_a_token_comes_with_its_lifetime() -> None:
    """The SDK of Go looks for it: `tokenTTLHeader` of aws-sdk-go-v2's imds."""
    with metadata() as service:
        host, port = service.socket.getsockname()[:2]
        connection = http.client.HTTPConnection(host, port, timeout=TEST_TIMEOUT)
        with contextlib.closing(connection):
            connection.request("PUT", "/latest/api/token", headers={TTL: "0060"})
            response = connection.getresponse()
            assert response.getheader(TTL) == "60"
            assert service.knows(response.read().decode())


def test_botocore_finds_the_region() -> None:
    with metadata(region="eu-west-1") as service:
        url = f"http://127.0.0.1:{service.socket.getsockname()[1]}/"
        fetcher = InstanceMetadataRegionFetcher(base_url=url, timeout=TEST_TIMEOUT)
        assert fetcher.retrieve_region() == "eu-west-1"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),
        ({TTL: "\xb2"}, 400),
        ({TTL: "000000001" + "9" * 5000}, 400),
        ({TTL: "0"}, 400),
        ({TTL: "21601"}, 400),
        ({TTL: "-1"}, 400),
        ({TTL: "9" * 5000}, 400),
        ({TTL: "60", "X-Forwarded-For": "203.0.113.1"}, 403),
    ],
)
def test_a_token_that_is_not_given(headers: dict[str, str], status: int) -> None:
    with metadata() as service:
        assert ask(service, "PUT", "/latest/api/token", headers)[0] == status


def test_tokens_expire_and_their_number_is_bounded() -> None:
    clock = ManualClock()
    with metadata(monotonic=clock.monotonic) as service:
        token = service.new_token(60)
        assert service.knows(token)
        clock.elapsed = 61
        assert not service.knows(token)
        tokens = [service.new_token(60) for _ in range(1001)]
        assert not service.knows(tokens[0])
        assert service.knows(tokens[-1])


def test_the_token_of_a_pod() -> None:
    service = ContainerCredentials(listener(), token=lambda: "right")
    with service.running():
        assert ask(service, "GET", "/v1/credentials")[0] == 401
        assert ask(service, "GET", "/v1/credentials", {"Authorization": "wrong"})[0] == 401
        assert ask(service, "GET", "/", {"Authorization": "right"})[0] == 404
        assert ask(service, "GET", "/v1/credentials", {"Authorization": "right"})[0] == 200
    assert service.requests == 1


@pytest.mark.parametrize("kind", ["instance", "pod"])
def test_botocores_own_chain_finds_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    service: Any
    if kind == "instance":
        service = InstanceMetadata(listener())
        variable, path = "AWS_EC2_METADATA_SERVICE_ENDPOINT", ""
    else:
        service = ContainerCredentials(listener())
        variable, path = "AWS_CONTAINER_CREDENTIALS_FULL_URI", "/v1/credentials"
    monkeypatch.setenv(variable, f"http://127.0.0.1:{service.socket.getsockname()[1]}{path}")
    with service.running():
        found = botocore.session.Session().get_credentials().get_frozen_credentials()
    assert found.access_key == SIMULATED_CREDENTIALS.access_key_id
    assert found.token == SIMULATED_CREDENTIALS.session_token
