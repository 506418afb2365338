"""The credential service: what is kept, when it is renewed, what enclaves are told."""

from __future__ import annotations

import json
import logging
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from parent.credentials import CredentialService, CredentialSettings
from parent.credentials.cache import POLICY, Cache
from parent.credentials.model import (
    Credentials,
    CredentialsError,
    checked_credentials,
    credentials_response,
)
from parent.credentials.responses import respond
from parent.http_server import Request
from tests.doubles import ManualClock
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.errors import ListenError
from vsock_proxy.net.addresses import TcpAddress, UnixAddress
from vsock_proxy.service.renewal import LONGEST_USE

if TYPE_CHECKING:
    from collections.abc import Iterator

START = datetime(2026, 1, 2, tzinfo=UTC)
GET = Request("GET", "/", "localhost", 16)


def lasting(seconds: float | None, *, key: str = "ASIA1", since: datetime = START) -> Credentials:
    end = None if seconds is None else since + timedelta(seconds=seconds)
    return Credentials(key, "s3cret", "t0ken" if seconds else None, end, "test")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def cache(clock: ManualClock) -> Cache:
    return Cache(clock, lambda _, high: high)


# What credentials are.


def test_the_credentials_response() -> None:
    assert json.loads(credentials_response(lasting(3600))) == {
        "AccessKeyId": "ASIA1",
        "SecretAccessKey": "s3cret",
        "Token": "t0ken",
        "Expiration": "2026-01-02T01:00:00Z",
    }
    assert set(json.loads(credentials_response(lasting(None)))) == {
        "AccessKeyId",
        "SecretAccessKey",
    }


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (("AKIA", "", None), "half-written"),
        (("", "s3cret", None), "half-written"),
        ((None, None, None), "half-written"),
        (("ASIA", "s3cret", None), "half-written"),
        (("AKIA", "s3cret\n", None), "malformed"),
        (("AKIA", "s3cret", "x" * 16_385), "malformed"),
        (("AKIA", "s3crét", None), "malformed"),
    ],
)
def test_invalid_credentials_are_rejected(
    values: tuple[str | None, str | None, str | None], kind: str
) -> None:
    with pytest.raises(CredentialsError) as caught:
        checked_credentials(*values, None, source="test", now=START)
    assert caught.value.kind == kind
    assert "s3cr" not in str(caught.value)


def test_expired_credentials_are_rejected() -> None:
    with pytest.raises(CredentialsError, match=r"expired on 2026-01-02 at 00:00:00Z") as caught:
        checked_credentials("ASIA", "s3cret", "t", START, source="test", now=START)
    assert caught.value.kind == "expired"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("9999-12-31T23:59:59-23:59", "malformed"),
        ("0001-01-01T00:00:00+23:59", "malformed"),
        ("0001-01-01T00:00:00+00:00", "expired"),
    ],
)
def test_a_time_that_is_none_in_utc(text: str, kind: str) -> None:
    """A program of a profile may print it; it ended the daemon."""
    with pytest.raises(CredentialsError) as caught:
        checked_credentials(
            "ASIA", "s3cret", "t", datetime.fromisoformat(text), source="test", now=START
        )
    assert caught.value.kind == kind


def test_no_secret_in_a_repr() -> None:
    assert "s3cret" not in repr(lasting(60))
    assert "t0ken" not in repr(lasting(60))


# When the source is asked.


def test_renewal_is_due_at_the_start_and_at_half_time(cache: Cache, clock: ManualClock) -> None:
    assert cache.wait() == 0
    cache.renewed(lasting(600))
    assert cache.wait() == 300
    clock.elapsed = 300
    assert cache.wait() == 0
    assert cache.current() == lasting(600)


@pytest.mark.parametrize("lifetime", [None, 6 * 3600.0])
def test_renewal_is_due_every_15_minutes(cache: Cache, lifetime: float | None) -> None:
    cache.renewed(lasting(lifetime))
    assert cache.wait() == LONGEST_USE


def test_a_source_of_very_short_credentials_is_not_flooded(cache: Cache) -> None:
    cache.renewed(lasting(1))
    assert cache.wait() == 5


def test_expired_credentials_leave_the_cache(cache: Cache, clock: ManualClock) -> None:
    cache.renewed(lasting(600))
    clock.elapsed = 599
    assert cache.current()
    clock.elapsed = 600
    assert cache.current() is None
    assert cache.wait() == 0


def test_a_wall_clock_that_was_set_makes_renewal_due(cache: Cache, clock: ManualClock) -> None:
    """The wall clock alone: the time that was waited for is not over."""
    cache.renewed(lasting(3600))
    clock._start += timedelta(hours=2)
    assert cache.wait() == 0


def test_pauses_after_failures_grow(cache: Cache, clock: ManualClock) -> None:
    cache.renewed(lasting(600))
    waits = []
    for _ in range(9):
        cache.failed(CredentialsError("none", kind="none"))
        waits.append(cache.wait())
        clock.elapsed += waits[-1]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, POLICY.pause.most]
    assert cache.current() == lasting(600), "going on with what is at hand"
    cache.renewed(lasting(900))
    assert (cache.failures, cache._renewal.failures, cache.failure) == (9, 0, None)
    cache.failed(CredentialsError("none", kind="none"))
    assert cache.wait() == 1


def test_expired_credentials_do_not_shorten_the_pauses(cache: Cache, clock: ManualClock) -> None:
    cache.renewed(lasting(600))
    clock.elapsed = 600
    cache.failed(CredentialsError("none", kind="none"))
    assert cache.wait() == 1


# What an enclave is told.


def test_an_enclave_gets_the_cached_credentials(cache: Cache) -> None:
    cache.renewed(lasting(600))
    response = respond(GET, cache, None)
    assert (response.status, response.body) == (200, credentials_response(lasting(600)))


def test_before_the_first_response_of_the_source(cache: Cache) -> None:
    response = respond(GET, cache, None)
    assert response.status == 503
    assert json.loads(response.body)["message"] == "no credentials yet: the parent has just started"


def test_an_enclave_is_told_the_kind_of_the_failure_only(cache: Cache) -> None:
    cache.failed(CredentialsError("arn:aws:iam::1:role/r s3cret", kind="refused", hint="hush"))
    response = respond(GET, cache, None)
    assert response.status == 503
    assert response.body == b'{"message": "the parent has no credentials (refused); see its log"}'


def test_an_enclave_that_is_not_listed_is_rejected(cache: Cache) -> None:
    cache.renewed(lasting(600))
    assert respond(GET, cache, {16, 17}).status == 200
    response = respond(GET, cache, {17})
    assert response.status == 403
    assert b"CID 16" in response.body
    assert b"s3cret" not in response.body
    assert respond(GET, cache, set()).status == 403
    assert respond(Request("GET", "/"), cache, {16}).status == 403, "no vsock, no CID"


@pytest.mark.parametrize("path", ["/healthz", "//", "/latest/meta-data", "*"])
def test_there_is_one_path(cache: Cache, path: str) -> None:
    cache.renewed(lasting(600))
    assert respond(Request("GET", path), cache, None).status == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("", 200), ("localhost", 200), ("LOCALHOST:8002", 200), ("127.0.0.1:8002", 200),
        ("[::1]:8002", 200), ("evil.example:8002", 403), ("localhost.evil.example", 403),
        ("[::1", 403), ("[x]", 403),
    ],
)  # fmt: skip
def test_dns_rebinding_is_rejected(cache: Cache, host: str, status: int) -> None:
    cache.renewed(lasting(600))
    assert respond(Request("GET", "/", host), cache, None).status == status


# The component.


class Source:
    """A source of credentials that counts, fails, and can be held up."""

    def __init__(self) -> None:
        self.asked = 0
        self.failing = False
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, now: datetime) -> Credentials:
        self.asked += 1
        assert self.go_on.wait(TEST_TIMEOUT)
        if self.failing:
            raise CredentialsError("it failed", kind="none", hint="do something")
        return lasting(3600, key=f"ASIA{self.asked}", since=now)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def service(source: Source) -> Iterator[CredentialService]:
    settings = CredentialSettings(listen=TcpAddress("127.0.0.1", 0))
    service = CredentialService(settings, load=source)
    yield service
    source.go_on.set()
    service.stop(1.0)


def test_its_status(service: CredentialService, source: Source) -> None:
    status = service.status()
    assert (status.healthy, status.detail) == (False, "not running")
    source.go_on.clear()
    service.start()
    eventually(lambda: source.asked == 1)
    status = service.status()
    assert (status.healthy, status.detail) == (False, "no credentials yet")
    source.go_on.set()
    eventually(lambda: service.status().healthy)
    status = service.status()
    assert status.detail.startswith("credentials from test, valid until 20")
    assert status.values["source"] == "test"
    assert status.values["renewals"] == 1
    assert isinstance(status.values["expires_at"], float)
    assert "s3cret" not in str(status)
    service.stop(1.0)
    service.stop(1.0)
    assert not service.status().healthy


def test_the_service_starts_although_its_source_fails(
    service: CredentialService, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    source.failing = True
    service.start()
    eventually(lambda: "hint: do something" in caplog.text)
    assert service.status().detail == "no credentials: it failed"
    assert service.status().values["failure"] == "none"
    assert "credentials not renewed (there are none): it failed" in caplog.text


def test_the_cached_credentials_are_used_after_a_failure(
    service: CredentialService, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    service.start()
    eventually(lambda: service.status().healthy)
    source.failing = True
    service.renew()
    status = service.status()
    assert status.healthy
    assert status.detail.endswith("; not renewed: it failed")
    assert "the cached ones are still valid" in caplog.text
    assert "s3cret" not in caplog.text
    assert "t0ken" not in caplog.text


def test_another_profile_is_another_role(service: CredentialService, source: Source) -> None:
    service.start()
    eventually(lambda: service.status().healthy)
    settings = service.settings
    assert service.reconfigure(settings) == []
    assert source.asked == 1
    source.go_on.clear()
    assert service.reconfigure(CredentialSettings(settings.listen, profile="other")) == []
    assert not service.status().healthy, "those of the former role are no longer given out"
    eventually(lambda: source.asked == 2)
    source.go_on.set()
    eventually(lambda: service.status().healthy)


def test_a_clock_that_jumps_is_noticed(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a suspended machine wakes, say: what was waited for by monotonic time is not over."""
    monkeypatch.setattr("parent.credentials.service._LOOK", 0.01)
    clock = ManualClock(START)
    settings = CredentialSettings(listen=TcpAddress("127.0.0.1", 0))
    service = CredentialService(settings, load=source, clock=clock)
    service.start()
    eventually(lambda: service.status().healthy)
    clock._start += timedelta(hours=2)
    eventually(lambda: source.asked == 2)
    eventually(lambda: service.status().healthy)
    service.stop(1.0)


def test_stop_cancels_the_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No program of a profile outlives the daemon."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    os.mkfifo(tmp_path / "begun")
    (tmp_path / "config").write_text(
        f"[profile it]\ncredential_process = sh -c 'echo $$ >{tmp_path}/begun; exec sleep 1000'\n"
    )
    listen = UnixAddress(str(tmp_path / "credentials"))
    service = CredentialService(CredentialSettings(listen, profile="it"))
    service.start()
    pid = int((tmp_path / "begun").read_text())
    service.stop(1.0)
    eventually(lambda: not Path(f"/proc/{pid}/exe").exists())
    assert "not renewed" not in caplog.text


def test_other_cids_apply_to_the_next_request(service: CredentialService) -> None:
    service.renew()
    assert service._respond(GET).status == 200
    here = service.settings.listen
    assert service.reconfigure(CredentialSettings(here, cids=frozenset({17}))) == []
    assert service._respond(GET).status == 403


def test_another_address_needs_a_restart(service: CredentialService) -> None:
    before = service.settings.listen
    elsewhere = CredentialSettings(UnixAddress("/x"), cids=frozenset({17}))
    assert service.reconfigure(elsewhere) == ["listen"]
    assert service.settings == CredentialSettings(before, cids=frozenset({17}))


def test_an_address_in_use_is_an_error(tmp_path: Path, source: Source) -> None:
    settings = CredentialSettings(listen=UnixAddress(str(tmp_path / "credentials")))
    first, second = (CredentialService(settings, load=source) for _ in range(2))
    first.start()
    with pytest.raises(ListenError):
        second.start()
    second.stop(1.0)
    first.stop(1.0)
    assert source.asked <= 1
