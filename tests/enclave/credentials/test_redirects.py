"""Metadata services that redirect: no token is sent elsewhere, and no credentials come from there.

The parent's service is attacked so by ``enclave-simulator attack`` (credentials-redirect).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from enclave_simulator.threaded_server import Handler, Server
from tests.enclave.credentials.aws_sources import error, listener, url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.doubles import ManualClock

CREDENTIALS = (
    b'{"AccessKeyId": "ASIA1", "SecretAccessKey": "hush", "Token": "t", '
    b'"Expiration": "2026-01-02T01:00:00Z", "Code": "Success"}'
)


@contextlib.contextmanager
def elsewhere() -> Iterator[tuple[Server, list[str]]]:
    """Serve credentials, and note who asks for them."""
    asked: list[str] = []

    class Elsewhere(Handler):
        def do_GET(self) -> None:  # noqa: N802
            asked.append(f"{self.command} {self.path}")
            self.respond(200, CREDENTIALS, "application/json")

        do_PUT = do_GET  # noqa: N815

    server = Server(listener(), Elsewhere)
    with server.running():
        yield server, asked


@contextlib.contextmanager
def redirecting(to: str, status: int, *, method: str) -> Iterator[Server]:
    """Redirect requests of one method; to the other, respond with a token or a role's name."""

    class Redirecting(Handler):
        def do_GET(self) -> None:  # noqa: N802
            if self.command == method:
                self.send_response(status)
                self.send_header("Location", to)
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self.respond(200, b"token")

        do_PUT = do_GET  # noqa: N815

    server = Server(listener(), Redirecting)
    with server.running():
        yield server


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_container_is_not_led_elsewhere(tmp_path: Path, clock: ManualClock, status: int) -> None:
    token = tmp_path / "token"
    token.write_text("hush-hush")
    with (
        elsewhere() as (other, asked),
        redirecting(url(other, "/"), status, method="GET") as service,
    ):
        environ = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": url(service, "/v1/credentials"),
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
        }
        found = error("container", environ, clock)
    assert str(status) in str(found)
    assert asked == []


@pytest.mark.parametrize("method", ["PUT", "GET"])
@pytest.mark.parametrize("status", [302, 307])
def test_an_instance_is_not_led_elsewhere(clock: ManualClock, status: int, method: str) -> None:
    with (
        elsewhere() as (other, asked),
        redirecting(url(other, "/"), status, method=method) as service,
    ):
        environ = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": url(service)}
        found = error("instance", environ, clock)
    assert str(status) in str(found)
    assert asked == []
