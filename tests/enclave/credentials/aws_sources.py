"""Providers of AWS's credentials, and what the services give out."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from enclave.credentials import AwsCredentials
from enclave.errors import CredentialsError
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from enclave_simulator.threaded_server import Server
    from tests.doubles import ManualClock


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
