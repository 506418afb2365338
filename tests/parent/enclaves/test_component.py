"""Enclaves kept by the daemon, with a nitro-cli that answers as the real one does."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from parent.enclaves.agent import EnclaveAgentError, VsockAgent
from parent.enclaves.component import EnclaveComponent
from parent.enclaves.console import Console
from parent.enclaves.runner import Completed, Subprocess
from parent.enclaves.settings import EnclaveSettings, Restart
from tests.parent.eif import eifs
from tests.waiting import eventually
from vsock_proxy.errors import AgentError
from vsock_proxy.net.addresses import Address, VsockAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from parent.eif.describe import Description
    from parent.enclaves.agent import EnclaveAgent
    from tests.parent.conftest import Identity

FAKE = str(Path(__file__).parents[1] / "fake_nitro_cli.py")
SOON = Restart(first=0.1, longest=0.1)


class Host:
    """A parent instance: its enclaves, and the components that keep them."""

    runner = Subprocess

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "run"
        self.folder.mkdir()
        self.eif = folder / "worker.eif"
        self.eif.write_bytes(eifs.eif())
        self.faults = ""
        self._turn = threading.Lock()
        self._components: list[EnclaveComponent] = []

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "NITRO_CLI_SOCKETS_PATH": str(self.folder),
            "FAKE_NITRO_CLI_FAULTS": self.faults,
        }

    def component(
        self, *, asks: Callable[[Address], EnclaveAgent] = VsockAgent, **changes: Any
    ) -> EnclaveComponent:
        asked: dict[str, Any] = {
            "name": "worker",
            "eif": self.eif,
            "memory_mib": 512,
            "cid": 16,
            "cpu_count": 2,
            "poll": 0.1,
            "restart": SOON,
            **changes,
        }
        environment = self.environment()
        made = EnclaveComponent(
            EnclaveSettings(**asked),
            self.runner(FAKE, environment),
            turn=self._turn,
            console=Console(asked["name"], FAKE, environment),
            agent=asks,
        )
        self._components.append(made)
        return made

    def enclaves(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in self.folder.glob("*.json")]

    def end_enclaves(self) -> None:
        for path in self.folder.glob("*.json"):
            path.unlink()

    def close(self) -> None:
        for component in self._components:
            component.stop(10)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.close()


def state(component: EnclaveComponent) -> object:
    return component.status().values["state"]


def test_an_enclave_is_started_watched_restarted_and_terminated(host: Host) -> None:
    component = host.component()
    assert not component.status().healthy
    component.start()
    eventually(lambda: component.status().healthy)
    (first,) = host.enclaves()
    values = component.status().values
    assert values["enclave_id"] == first["EnclaveID"]
    assert values["pcr0"] == first["Measurements"]["PCR0"] == eifs.pcrs()[0].hex()
    assert (values["cpu_ids"], values["cid"], values["starts"]) == ([1, 3], 16, 1)
    json.dumps(values)
    host.end_enclaves()
    eventually(lambda: component.status().values["starts"] == 2)
    assert component.status().values["ended"] == 1
    component.stop(10)
    component.stop(10)
    assert host.enclaves() == []
    assert state(component) == "stopped"
    assert not component.status().healthy


def test_starts_take_turns(host: Host) -> None:
    components = [
        host.component(name=f"e{cid}", cid=cid, memory_mib=64, cpu_count=1) for cid in (16, 17, 18)
    ]
    for component in components:
        component.start()
    eventually(lambda: all(component.status().healthy for component in components))
    assert {e["EnclaveCID"] for e in host.enclaves()} == {16, 17, 18}
    components[0].stop(10)
    assert {e["EnclaveCID"] for e in host.enclaves()} == {17, 18}


def test_a_daemon_that_was_killed_finds_its_enclave_again(host: Host) -> None:
    first = host.component(poll=60)
    first.start()
    eventually(lambda: first.status().healthy)
    second = host.component()
    second.start()
    eventually(lambda: second.status().healthy)
    assert second.status().values["starts"] == 0
    assert second.status().values["enclave_id"] == first.status().values["enclave_id"]
    second.stop(10)
    assert host.enclaves() == []


def test_another_image_in_its_place_is_left_alone(host: Host) -> None:
    first = host.component(poll=60)
    first.start()
    eventually(lambda: first.status().healthy)
    other = [(eifs.KERNEL, b"new"), *eifs.SECTIONS[1:]]
    host.eif.write_bytes(eifs.eif(other))
    second = host.component()
    second.start()
    eventually(lambda: state(second) == "conflict")
    assert "is in the way" in second.status().detail
    second.stop(10)
    assert len(host.enclaves()) == 1


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ("run-enclave=E27", "nitro-cli run-enclave: E27: Insufficient memory available"),
        ("run-enclave=E36", "does the image boot?"),
        ("run-enclave=garbage", "printed something unexpected"),
        ("run-enclave=flood", "printed over"),
        ("describe-enclaves=E07", "group ne"),
        ("describe-enclaves=garbage", "printed something unexpected"),
        ("describe-enclaves=partial", "not every enclave's process responded"),
    ],
)
def test_failures_are_logged_with_their_hint(host: Host, faults: str, said: str) -> None:
    host.faults = faults
    component = host.component()
    component.start()
    eventually(lambda: said in component.status().detail)
    assert not component.status().healthy
    component.stop(10)


def test_starting_again_after_failures(host: Host) -> None:
    host.faults = "run-enclave=E36:2,describe-enclaves=E11:1"
    component = host.component()
    component.start()
    eventually(lambda: component.status().healthy)
    assert component.status().values["failures"] == 2
    assert component.status().values["starts"] == 1


def test_a_terminate_that_fails_does_not_delay_stop(host: Host) -> None:
    host.faults = "terminate-enclave=lie:1"
    component = host.component()
    component.start()
    eventually(lambda: component.status().healthy)
    component.stop(30)
    assert host.enclaves() == []


@pytest.mark.parametrize("faults", ["terminate-enclave=hang", "run-enclave=orphan"])
def test_stopping_is_bounded(host: Host, faults: str) -> None:
    host.faults = faults
    component = host.component()
    component.start()
    eventually(host.enclaves)
    if faults.startswith("terminate"):
        eventually(lambda: component.status().healthy)
    component.stop(1)  # Otherwise it would take longer than a test may.
    eventually(lambda: not component._thread.is_alive())


def test_the_console_goes_to_the_log_neutralised(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "parent.enclaves.console")
    component = host.component(debug=True)
    component.start()
    eventually(lambda: any("owned" in message for message in caplog.messages))
    assert "worker: [    0.000000] Linux version 4.14.256" in caplog.messages
    assert r"worker: \x1b]0;owned\x07\xff" in caplog.messages
    component.stop(10)
    assert not [t for t in threading.enumerate() if t.name == "console/worker"]


def test_an_invalid_image_is_rejected_before_anything_runs(host: Host, identity: Identity) -> None:
    big = host.folder / "big.eif"
    big.write_bytes(eifs.eif([*eifs.SECTIONS, (eifs.RAMDISK, bytes(1 << 20))]))
    with pytest.raises(AgentError, match="memory are too few"):
        host.component(eif=big, memory_mib=4).start()
    with pytest.raises(AgentError, match="cannot read"):
        host.component(eif=host.folder / "none.eif").start()
    host.eif.write_bytes(b"nothing")
    with pytest.raises(AgentError, match=f"{host.eif}: not a valid enclave image"):
        host.component().start()
    host.eif.write_bytes(eifs.eif()[:-1] + b"\0")
    with pytest.raises(AgentError, match="the CRC is wrong"):
        host.component().start()
    forged = eifs.signature(bytes(48), identity.pem, identity.key)
    host.eif.write_bytes(eifs.eif([*eifs.SECTIONS, (eifs.SIGNATURE, forged)]))
    with pytest.raises(AgentError, match="made over another image"):
        host.component().start()
    assert host.enclaves() == []


def test_an_image_damaged_between_two_starts_is_not_started(host: Host) -> None:
    component = host.component()
    component.start()
    eventually(lambda: component.status().healthy)
    host.eif.write_bytes(eifs.eif()[:-1] + b"\0")
    host.end_enclaves()
    eventually(lambda: "the CRC is wrong" in component.status().detail)
    assert host.enclaves() == []
    host.eif.write_bytes(eifs.eif())
    eventually(lambda: component.status().healthy)


def test_an_expired_certificate_starts_nothing_and_stops_nothing(
    host: Host, identity: Identity
) -> None:
    signed = eifs.signature(eifs.pcrs()[0], identity.pem, identity.key)
    host.eif.write_bytes(eifs.eif([*eifs.SECTIONS, (eifs.SIGNATURE, signed)]))
    component = host.component()
    component.start()
    eventually(lambda: component.status().healthy)
    # PCR0 is the same: the enclave that runs is still this image's.
    expired = eifs.signature(eifs.pcrs()[0], expired_pem(identity), identity.key)
    host.eif.write_bytes(eifs.eif([*eifs.SECTIONS, (eifs.SIGNATURE, expired)]))
    second = host.component()
    second.start()
    eventually(lambda: second.status().healthy)
    component.stop(10)
    eventually(lambda: "the certificate expired on 2021-01-01" in second.status().detail)
    assert "enclave-parent sign-eif" in second.status().detail
    assert host.enclaves() == []


def expired_pem(identity: Identity) -> bytes:
    name = x509.Name([])
    start, end = datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, identity.key.public_key(), 7, start, end)
    certificate = builder.sign(identity.key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("trouble", ["descriptors", "disk"])
def test_system_errors_do_not_end_the_thread(
    host: Host, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of descriptors, or a disk with holes: the thread that watches the enclave goes on."""

    class Refusing(Subprocess):
        refusing = False

        def run(self, arguments: Sequence[str], timeout: float) -> Completed:
            if self.refusing and trouble == "descriptors":
                raise OSError(errno.EMFILE, "Too many open files")
            return super().run(arguments, timeout)

    def unreadable(_stream: object) -> Description:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Host, "runner", Refusing)
    component = host.component()
    component.start()
    eventually(lambda: component.status().healthy)
    with monkeypatch.context() as refused:
        refused.setattr(Refusing, "refusing", True)
        refused.setattr("parent.enclaves.component.describe", unreadable)
        host.end_enclaves()
        said = "Too many open files" if trouble == "descriptors" else "Input/output error"
        eventually(lambda: said in str(component.status().values["error"]))
    eventually(lambda: component.status().values["starts"] == 2)


def test_stop_without_start(host: Host) -> None:
    host.component().stop(1)


class Asked:
    """Stands for the agent in an enclave: `respond` is what it does, in the world it is in."""

    def __init__(self, respond: Callable[[], bool]) -> None:
        self.respond = respond
        self.seconds: list[float] = []

    def __call__(self, address: Address) -> Asked:
        assert address == AGENT
        return self

    def stop(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return self.respond()


AGENT = VsockAddress(16, 8010)


def test_the_agent_is_asked_before_its_enclave_is_terminated(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def respond() -> bool:
        assert len(host.enclaves()) == 1
        host.end_enclaves()  # As its init does once the program has ended.
        return True

    agent = Asked(respond)
    component = host.component(asks=agent, agent=AGENT, stop_timeout=7.0)
    component.start()
    eventually(lambda: component.status().healthy)
    component.stop(10)
    assert (state(component), agent.seconds, host.enclaves()) == ("stopped", [7.0], [])
    assert "terminating" not in caplog.text


def no_response() -> bool:
    raise EnclaveAgentError("the agent at vsock://16:8010: no response")


@pytest.mark.parametrize("respond", [no_response, lambda: False])
def test_an_agent_that_does_not_respond_changes_nothing(
    host: Host, caplog: pytest.LogCaptureFixture, respond: Callable[[], bool]
) -> None:
    caplog.set_level(logging.INFO)
    component = host.component(asks=Asked(respond), agent=AGENT)
    component.start()
    eventually(lambda: component.status().healthy)
    component.stop(10)
    assert (state(component), host.enclaves()) == ("stopped", [])
    assert "terminating" in caplog.text


def test_an_enclave_is_restarted_in_order(host: Host) -> None:
    def respond() -> bool:
        host.end_enclaves()
        return True

    agent = Asked(respond)
    component = host.component(asks=agent, agent=AGENT)
    component.start()
    eventually(lambda: component.status().healthy)
    (first,) = host.enclaves()
    component.restart()
    assert state(component) in ("restarting", "ready", "starting", "running")
    eventually(lambda: component.status().values["starts"] == 2)
    eventually(lambda: component.status().healthy)
    (second,) = host.enclaves()
    assert first["EnclaveID"] != second["EnclaveID"]
    values = component.status().values
    assert (values["ended"], values["failures"], len(agent.seconds)) == (0, 0, 1)


def test_an_enclave_without_an_agent_is_restarted_too(host: Host) -> None:
    component = host.component()
    component.start()
    eventually(lambda: component.status().healthy)
    component.restart()
    eventually(lambda: component.status().values["starts"] == 2)
    eventually(lambda: component.status().healthy)
    assert len(host.enclaves()) == 1
