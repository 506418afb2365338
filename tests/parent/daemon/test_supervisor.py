"""Components started in order, told of other settings, and stopped in reverse."""

from __future__ import annotations

import dataclasses
import logging
import threading
from typing import TYPE_CHECKING

import pytest

from parent.component import ComponentStatus
from parent.credentials import CredentialSettings
from parent.daemon.configuration import Configuration
from parent.daemon.supervisor import Stage, Supervisor
from parent.logs.settings import LogSettings
from parent.operations import OperationsSettings
from parent.proxy import ProxyService
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.errors import AgentError, ListenError
from vsock_proxy.net.addresses import TcpAddress, UnixAddress
from vsock_proxy.proxy.forward import Forward
from vsock_proxy.proxy.section import ProxySettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Recorder:
    """A component that notes what is done to it, and fails where it shall."""

    def __init__(self, name: str, events: list[str], *, fails: str = "") -> None:
        self.name = name
        self._events = events
        self._fails = fails

    def _note(self, what: str) -> None:
        self._events.append(f"{what} {self.name}")
        if what == self._fails:
            raise AgentError(f"{self.name} fails")

    def start(self) -> None:
        self._note("start")

    def stop(self, timeout: float) -> None:
        self._note(f"stop({timeout:g})")
        if self._fails == "stop":
            raise ValueError("a bug")

    def status(self) -> ComponentStatus:
        return ComponentStatus(healthy=True, detail="")


def supervisor(*stages: Stage) -> Supervisor:
    made = Supervisor(Configuration())
    made._stages = list(stages)
    return made


def test_the_last_started_is_the_first_to_stop() -> None:
    events: list[str] = []
    a, b, c = (Recorder(name, events) for name in "abc")
    run = supervisor(Stage([a], 1), Stage([], 2), Stage([b], 3), Stage([c], 4))
    run.start()
    run.stop()
    assert events == ["start a", "start b", "start c", "stop(4) c", "stop(3) b", "stop(1) a"]


def test_components_of_one_stage_stop_at_the_same_time() -> None:
    together = threading.Barrier(2)

    class Waiting(Recorder):
        def stop(self, timeout: float) -> None:
            together.wait(TEST_TIMEOUT)
            super().stop(timeout)

    events: list[str] = []
    supervisor(Stage([Waiting("a", events), Waiting("b", events)], 1)).stop()
    assert sorted(events) == ["stop(1) a", "stop(1) b"]


def test_a_failed_start_stops_what_was_started() -> None:
    events: list[str] = []
    a, b, c = Recorder("a", events), Recorder("b", events, fails="start"), Recorder("c", events)
    run = supervisor(Stage([a], 1), Stage([b], 1), Stage([c], 1))
    with pytest.raises(AgentError, match="b fails"):
        run.start()
    assert events == ["start a", "start b", "stop(1) c", "stop(1) b", "stop(1) a"]


def test_a_component_that_fails_to_stop_does_not_stop_the_others_from_stopping(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[str] = []
    a, b = Recorder("a", events), Recorder("b", events, fails="stop")
    supervisor(Stage([a], 1), Stage([b], 1)).stop()
    assert events == ["stop(1) b", "stop(1) a"]
    assert "b did not stop" in caplog.text


# The real components


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    forward = Forward(UnixAddress(str(tmp_path / "one")), UnixAddress(str(tmp_path / "to")))
    return Configuration(
        proxy=ProxySettings((dataclasses.replace(forward, name="one"),), drain_timeout=0.0),
        credentials=CredentialSettings(UnixAddress(str(tmp_path / "credentials"))),
        logs=LogSettings(None, UnixAddress(str(tmp_path / "logs")), to="stderr"),
        operations=OperationsSettings(TcpAddress("127.0.0.1", 0)),
    )


@pytest.fixture
def running(
    configuration: Configuration, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Supervisor]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    run = Supervisor(configuration)
    run.start()
    yield run
    run.stop()


def other_forward(configuration: Configuration, tmp_path: Path) -> Configuration:
    assert configuration.proxy
    (one,) = configuration.proxy.forwards
    two = dataclasses.replace(one, listen=UnixAddress(str(tmp_path / "two")), name="two")
    proxy = dataclasses.replace(configuration.proxy, forwards=(one, two))
    return dataclasses.replace(configuration, proxy=proxy)


def test_it_listens_while_it_runs(running: Supervisor, tmp_path: Path) -> None:
    assert {path.name for path in tmp_path.iterdir()} == {"one", "credentials", "logs"}
    running.stop()
    assert not list(tmp_path.iterdir())


def test_a_reload_takes_forwards(
    running: Supervisor, configuration: Configuration, tmp_path: Path
) -> None:
    running.reload(other_forward(configuration, tmp_path))
    assert (tmp_path / "two").is_socket()
    running.reload(configuration)
    assert not (tmp_path / "two").exists()


def test_an_invalid_reload_changes_nothing(
    running: Supervisor, configuration: Configuration, tmp_path: Path
) -> None:
    (tmp_path / "two").write_text("in the way")
    new = other_forward(configuration, tmp_path)
    new = dataclasses.replace(
        new, credentials=CredentialSettings(UnixAddress(str(tmp_path / "credentials")), profile="x")
    )
    with pytest.raises(ListenError):
        running.reload(new)
    assert running._credentials
    assert running._credentials.settings == configuration.credentials


def test_a_reload_logs_what_needs_a_restart(
    running: Supervisor,
    configuration: Configuration,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert configuration.proxy
    running.reload(configuration)
    assert "restart" not in caplog.text
    running.reload(
        Configuration(
            proxy=dataclasses.replace(configuration.proxy, drain_timeout=9.0),
            credentials=CredentialSettings(UnixAddress("/elsewhere")),
            logs=LogSettings(None, UnixAddress(str(tmp_path / "logs")), to="journal"),
            operations=OperationsSettings(UnixAddress("/elsewhere")),
        )
    )
    (said,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert said == (
        "changed in the file, but applied only by a restart: proxy.drain_timeout, "
        "credentials.listen, logs.to, operations"
    )
    caplog.clear()
    running.reload(Configuration())
    (said,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert said.endswith(": proxy, credentials, logs, operations")


# The proxy as a component


def test_a_proxy_that_fails_says_so(
    configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    assert configuration.proxy
    proxy = ProxyService(configuration.proxy)
    assert not proxy.status().healthy
    assert proxy.snapshot() is None

    def fails(_daemon: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("vsock_proxy.relay.loop.Loop.turn", fails)
    proxy.start()
    eventually(lambda: [f.exc_type for f in failed] == [ZeroDivisionError])
    eventually(lambda: not proxy.status().healthy)
    proxy.stop(1.0)


def test_a_proxy_whose_loop_is_stuck_is_not_healthy(configuration: Configuration) -> None:
    now = 0.0
    assert configuration.proxy
    proxy = ProxyService(configuration.proxy, monotonic=lambda: now)
    proxy.start()
    assert proxy.status().healthy
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go_on.wait(TEST_TIMEOUT)

    assert proxy._daemon
    proxy._daemon._loop.call_from_thread(hold)
    assert held.wait(TEST_TIMEOUT)
    proxy.status()
    now = 14.0
    assert proxy.status().healthy
    now = 16.0
    assert proxy.status().detail == "its loop is stuck"
    go_on.set()
    eventually(lambda: proxy.status().healthy)
    proxy.stop(TEST_TIMEOUT)
    proxy.stop(TEST_TIMEOUT)
    assert proxy.status().detail == "not running"
