"""The numbers of agents in enclaves, and restarts: by the daemon, over its own sockets."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from parent import cli
from parent.component import ComponentStatus
from parent.daemon.restart_command import restart
from parent.daemon.status_command import StatusError, exchange
from parent.enclaves.agent import EnclaveAgentError
from parent.enclaves.component import EnclaveComponent
from parent.enclaves.runner import Subprocess
from parent.enclaves.settings import EnclaveSettings
from parent.operations import OperationsService, OperationsSettings
from parent.operations.enclave_metrics import KEPT, EnclaveMetrics
from tests.parent.operations.test_operations import get
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import Address, TcpAddress, UnixAddress, VsockAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

AGENT = VsockAddress(16, 8010)
TEXT = b"# HELP enclave_agent_x X.\n# TYPE enclave_agent_x gauge\nenclave_agent_x 1\n"


class Enclave(EnclaveComponent):
    """One that is in the state it is told to be in, and notes that it is to be restarted."""

    def __init__(self, name: str = "worker", agent: Address | None = AGENT) -> None:
        settings = EnclaveSettings(name, Path("/x.eif"), 64, 16, cpu_count=1, agent=agent)
        super().__init__(settings, Subprocess("nitro-cli", {}), turn=threading.Lock())
        self.values: dict[str, Any] = {
            "state": "running", "name": name, "starts": 1, "ended": 0, "failures": 0,
            "error": "", "seconds": 1.0, "enclave_id": "i-0-enc1", "cid": 16,
        }  # fmt: skip
        self.restarted = 0
        self.then: list[dict[str, Any]] = []

    def status(self) -> ComponentStatus:
        if self.restarted and self.then:
            self.values |= self.then.pop(0)
        return ComponentStatus(healthy=True, detail="as told", values=dict(self.values))

    def restart(self) -> None:
        self.restarted += 1


def metrics(*enclaves: Enclave, text: bytes = TEXT) -> tuple[EnclaveMetrics, list[float]]:
    now = [100.0]
    made = EnclaveMetrics(lambda: enclaves, monotonic=lambda: now[0], fetch=lambda _: text)
    return made, now


def test_numbers_are_passed_on_with_the_name_of_the_enclave() -> None:
    made, now = metrics(Enclave())
    assert made.text("worker") is None
    made.refresh()
    now[0] += 2.5
    told = (made.text("worker") or b"").decode().splitlines()
    assert told[:3] == [
        "# HELP enclave_agent_x X.",
        "# TYPE enclave_agent_x gauge",
        'enclave_agent_x{enclave="worker"} 1',
    ]
    assert told[-1] == 'enclave_parent_enclave_metrics_age_seconds{enclave="worker"} 2.5'
    assert made.text("other") is None
    now[0] += KEPT
    assert made.text("worker") is None


@pytest.mark.parametrize("enclave", [Enclave(agent=None), "waiting", "restarting", "stopping"])
def test_only_enclaves_that_run_and_have_an_agent_are_asked(enclave: Enclave | str) -> None:
    if isinstance(enclave, str):
        state, enclave = enclave, Enclave()
        enclave.values["state"] = state

    def fetch(_: Address) -> bytes:
        raise AssertionError

    made = EnclaveMetrics(lambda: [enclave], fetch=fetch)
    made.refresh()
    assert made.text("worker") is None


def test_numbers_of_an_enclave_that_has_ended_are_gone() -> None:
    enclave = Enclave()
    made, _ = metrics(enclave)
    made.refresh()
    assert made.text("worker")
    enclave.values["state"] = "waiting"
    made.refresh()
    assert made.text("worker") is None


def test_hostile_numbers_change_nothing_and_are_told_without_their_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    texts = [TEXT, b"# TYPE enclave_parent_up gauge\nenclave_parent_up \x1b[2J\n"]
    made = EnclaveMetrics(lambda: [Enclave()], fetch=lambda _: texts.pop(0))
    made.refresh()
    made.refresh()
    assert b"enclave_agent_x" in (made.text("worker") or b"")
    assert "enclave/worker: no numbers: line 1 of the metrics: a name" in caplog.text
    assert "\x1b" not in caplog.text


def test_one_enclave_that_does_not_respond_does_not_hide_the_others() -> None:
    other = Enclave("other", agent=VsockAddress(17, 8010))

    def fetch(address: Address) -> bytes:
        if address == AGENT:
            raise EnclaveAgentError("no response")
        return TEXT

    made = EnclaveMetrics(lambda: [Enclave(), other], fetch=fetch)
    made.refresh()
    assert made.text("worker") is None
    assert made.text("other")


@pytest.fixture
def enclave() -> Enclave:
    return Enclave()


@pytest.fixture
def operations(tmp_path: Path, enclave: Enclave) -> Iterator[OperationsService]:
    settings = OperationsSettings(
        TcpAddress("127.0.0.1", 0), control=UnixAddress(f"{tmp_path}/control")
    )
    made = OperationsService(settings, lambda: [enclave])
    made.start()
    yield made
    made.stop(5)


def test_the_operations_serve_them(operations: OperationsService) -> None:
    assert get(operations, "/enclaves/worker/metrics")[0] == 503
    operations._enclaves._fetch = lambda _: TEXT
    operations._enclaves.refresh()
    status, kind, body = get(operations, "/enclaves/worker/metrics")
    assert (status, kind.split(";")[0]) == (200, "text/plain")
    assert b'enclave_agent_x{enclave="worker"} 1' in body
    for path in ("/enclaves/a%2fb/metrics", "/enclaves//metrics", "/enclaves/worker"):
        assert get(operations, path)[0] == 404


def control(tmp_path: Path) -> UnixAddress:
    return UnixAddress(f"{tmp_path}/control")


def test_an_enclave_is_restarted_over_the_control_socket_alone(
    tmp_path: Path, operations: OperationsService, enclave: Enclave
) -> None:
    assert operations.settings.control == control(tmp_path)
    address = operations.server.address
    assert exchange(address, "POST", "/enclaves/worker/restart")[0] == 405
    assert exchange(control(tmp_path), "GET", "/enclaves/worker/restart")[0] == 404
    assert exchange(control(tmp_path), "POST", "/enclaves/other/restart")[0] == 404
    assert exchange(control(tmp_path), "PUT", "/enclaves/worker/restart")[0] == 405
    assert enclave.restarted == 0
    status, content = exchange(control(tmp_path), "POST", "/enclaves/worker/restart")
    assert (status, content) == (202, {"status": "restarting", "starts": 1})
    assert enclave.restarted == 1


def run(tmp_path: Path, name: str = "worker", timeout: float = 60) -> int:
    return restart(control(tmp_path), name, timeout, sleep=lambda _: None)


def test_the_command_waits_until_it_runs_again(
    tmp_path: Path,
    operations: OperationsService,
    enclave: Enclave,
    capsys: pytest.CaptureFixture[str],
) -> None:
    enclave.then = [
        {}, {"state": "restarting"}, {"state": "ready"}, {"state": "starting"},
        {"state": "running", "starts": 2, "enclave_id": "i-0-enc2"},
    ]  # fmt: skip
    assert run(tmp_path) == 0
    assert capsys.readouterr().out == "worker: running, i-0-enc2\n"


ENDS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "it does not start": (
        [{"state": "restarting"}, {"state": "waiting", "failures": 1, "error": "E27"}],
        "worker: waiting: E27",
    ),
    "another is in the way": ([{"state": "conflict", "error": "x"}], "worker: conflict: x"),
    "the daemon stops": ([{"state": "stopping"}], "worker: stopping"),
}


@pytest.mark.parametrize("what", ENDS)
def test_the_command_tells_why_it_does_not(
    tmp_path: Path, operations: OperationsService, enclave: Enclave, what: str
) -> None:
    enclave.then, message = ENDS[what]
    with pytest.raises(StatusError, match=message):
        run(tmp_path)


def test_the_command_ends_in_time(
    tmp_path: Path, operations: OperationsService, enclave: Enclave
) -> None:
    enclave.values["state"] = "restarting"
    with pytest.raises(StatusError, match="not running after 0 s: restarting"):
        run(tmp_path, timeout=0)
    with pytest.raises(StatusError, match="there is no enclave other; there are: worker"):
        run(tmp_path, "other")


def test_the_command_needs_a_control_socket(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "parent.yaml"
    for text in ("proxy: {forwards: []}\n", "operations: {listen: 'tcp://127.0.0.1:9100'}\n"):
        path.write_text(text)
        assert cli.main(["restart", "worker", "--config", str(path)]) == 1
        assert "has no `operations.control`" in capsys.readouterr().err
    path.write_text(
        "operations: {listen: 'tcp://127.0.0.1:9100', control: 'tcp://127.0.0.1:9101'}\n"
    )
    assert cli.main(["restart", "worker", "--config", str(path)]) == 1
    assert "control: must be a UNIX socket" in capsys.readouterr().err
    path.write_text(f"operations: {{listen: 'tcp://127.0.0.1:1', control: 'unix:{tmp_path}/c'}}\n")
    assert cli.main(["restart", "worker", "--config", str(path)]) == 1
    assert "cannot connect" in capsys.readouterr().err


def test_a_bug_in_the_numbers_does_not_end_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parent.operations.enclave_metrics.INTERVAL", 0.01)
    called = threading.Semaphore(0)

    def components() -> list[Any]:
        called.release()
        raise ZeroDivisionError

    made = EnclaveMetrics(components)
    made.start()
    for _ in range(3):
        assert called.acquire(timeout=TEST_TIMEOUT)
    made.stop(60)
    assert not made._thread.is_alive()
