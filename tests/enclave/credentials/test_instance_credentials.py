"""Credentials of instances, from the simulator's IMDSv2 on loopback."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from enclave_simulator.metadata.instance import InstanceMetadata
from enclave_simulator.threaded_server import Handler, Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.doubles import ManualClock
from tests.enclave.credentials.aws_sources import Document, error, listener, provider, url


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
