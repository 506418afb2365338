"""An instance's enclaves follow their configuration; what has not changed goes on."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from parent.enclaves.console import Console
from parent.enclaves.group import Enclaves
from parent.enclaves.settings import EnclaveSettings, Restart
from tests.doubles import no_threads
from tests.parent.eif import eifs
from tests.parent.processes import FAKE
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Host:
    """An instance, with the enclaves a and b."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "run"
        self.folder.mkdir()
        self.eif = folder / "worker.eif"
        self.eif.write_bytes(eifs.eif())
        self.enclaves = Enclaves([self.settings("a"), self.settings("b")], program=str(FAKE))

    def settings(self, name: str, **changes: Any) -> EnclaveSettings:
        asked = {
            "name": name,
            "eif": self.eif,
            "memory_mib": 64,
            "cid": 16 + "abc".index(name),
            "cpu_count": 1,
            "poll": 0.1,
            **changes,
        }
        return EnclaveSettings(**asked)

    def running(self) -> dict[str, dict[str, Any]]:
        """Those that nitro-cli knows, by name."""
        told = [json.loads(path.read_text()) for path in self.folder.glob("*.json")]
        return {each["EnclaveName"]: each for each in told}

    def ids(self) -> dict[str, str]:
        return {name: each["EnclaveID"] for name, each in self.running().items()}

    def take(self, *wanted: EnclaveSettings) -> None:
        self.enclaves.prepare(wanted)()
        self.all_run()

    def all_run(self) -> None:
        eventually(lambda: self.enclaves.status().healthy)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("NITRO_CLI_SOCKETS_PATH", str(tmp_path / "run"))
    host = Host(tmp_path)
    host.enclaves.start()
    host.all_run()
    yield host
    host.enclaves.stop(10)


def test_they_start_and_stop(host: Host) -> None:
    assert [component.name for component in host.enclaves.components] == ["enclave/a", "enclave/b"]
    assert host.running().keys() == {"a", "b"}
    host.enclaves.stop(10)
    assert host.running() == {}


def test_one_is_added_and_one_removed(host: Host) -> None:
    before = host.ids()
    host.take(host.settings("c"), host.settings("b"))
    assert host.running().keys() == {"b", "c"}
    assert host.ids()["b"] == before["b"]
    assert [component.name for component in host.enclaves.components] == ["enclave/c", "enclave/b"]
    host.take()
    assert host.running() == {}


@pytest.mark.parametrize(
    "changes",
    [{"memory_mib": 128}, {"cid": 20}, {"cpu_count": 2}, {"cpu_ids": (7,)}, {"debug": True}],
)
def test_a_changed_enclave_is_restarted(host: Host, changes: dict[str, Any]) -> None:
    before = host.ids()
    host.take(host.settings("a", **changes), host.settings("b"))
    after = host.running()
    assert after["a"]["EnclaveID"] != before["a"]
    assert after["b"]["EnclaveID"] == before["b"]
    told = {
        "memory_mib": after["a"]["MemoryMiB"],
        "cid": after["a"]["EnclaveCID"],
        "cpu_count": after["a"]["NumberOfCPUs"],
        "cpu_ids": tuple(after["a"]["CPUIDs"]),
        "debug": after["a"]["Flags"] == "DEBUG_MODE",
    }
    assert {key: told[key] for key in changes} == changes


def test_two_change_places(host: Host) -> None:
    """Both are gone before either starts, or they would be in each other's way."""
    host.take(host.settings("a", cid=17), host.settings("b", cid=16))
    assert {name: each["EnclaveCID"] for name, each in host.running().items()} == {"a": 17, "b": 16}


def test_restart_and_poll_change_while_it_runs(host: Host) -> None:
    before = host.ids()
    never = Restart(always=False)
    host.take(host.settings("a", restart=never), host.settings("b", poll=0.2))
    assert host.ids() == before
    one, other = host.enclaves.components
    eventually(lambda: one._machine.settings.restart == never)  # A look was under way, maybe.
    for path in host.folder.glob("*.json"):
        path.unlink()
    eventually(lambda: one.status().values["state"] == "failed")
    eventually(lambda: other.status().healthy)
    host.take(host.settings("a"), host.settings("b", poll=0.2))  # Another chance.
    assert one.status().values["starts"] == 2


def test_an_invalid_image_changes_nothing(host: Host) -> None:
    before = host.ids()
    for changes in ({"eif": host.folder / "none"}, {"memory_mib": 1, "eif": big(host)}):
        with pytest.raises(AgentError):
            host.enclaves.prepare([host.settings("b"), host.settings("c", **changes)])
    assert host.ids() == before
    assert len(host.enclaves.components) == 2


def big(host: Host) -> Path:
    path = host.folder / "big.eif"
    path.write_bytes(eifs.eif([*eifs.SECTIONS, (eifs.RAMDISK, bytes(1 << 20))]))
    return path


def test_stop_during_a_reload(host: Host) -> None:
    """No enclave is started once the daemon ends, whatever a reload was about to do."""
    take = host.enclaves.prepare([host.settings("c")])
    ending = threading.Thread(target=host.enclaves.stop, args=(10,))
    ending.start()
    ending.join(TEST_TIMEOUT)
    take()
    assert [component.name for component in host.enclaves.components] == ["enclave/a", "enclave/b"]
    assert host.running() == {}


def test_without_a_thread_the_next_reload_starts_the_new_one(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = [host.settings(name) for name in "abc"]
    with no_threads():
        host.enclaves.prepare(wanted)()
    assert "enclave/c: not started: cannot start a thread" in caplog.text
    assert host.running().keys() == {"a", "b"}
    host.take(*wanted)
    assert host.running().keys() == {"a", "b", "c"}


def test_without_threads_enclaves_are_ended_one_after_the_other(host: Host) -> None:
    with no_threads():
        host.enclaves.stop(10)
    assert host.running() == {}


def test_without_a_thread_a_console_is_followed_later(caplog: pytest.LogCaptureFixture) -> None:
    console = Console("a", str(FAKE))
    with no_threads():
        console.follow("i-1-enc1")
    assert "a: no console: cannot start a thread" in caplog.text
    console.follow("i-1-enc1")
    try:
        assert any(thread.name == "console/a" for thread in threading.enumerate())
    finally:
        console.stop()
