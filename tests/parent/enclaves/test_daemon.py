"""``enclave-parent run`` as a process: with an enclave and its logs, and with threads that fail."""

from __future__ import annotations

import json
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from tests.parent.processes import Instance
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENCLAVE = (
    "{name: worker, eif: '{folder}/worker.eif', memory_mib: 512, cpus: 2, cid: 16, poll: 0.1 s}"
)
PROXY = "proxy: {forwards: [{listen: 'unix:{folder}/one', to: 'unix:{folder}/two'}]}"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    with Instance(tmp_path) as instance:
        yield instance


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_enclaves_and_their_logs_from_start_to_end(
    instance: Instance, ending: signal.Signals
) -> None:
    instance.configure(
        f"logs: {{listen: 'unix:{instance.folder}/logs', to: stderr}}\nenclaves:\n- {ENCLAVE}\n"
    )
    daemon = instance.run()
    daemon.says("enclave/worker: running, i-")
    assert len(list(instance.running.glob("*.json"))) == 1
    with socket.socket(socket.AF_UNIX) as enclave:
        enclave.connect(f"{instance.folder}/logs")
        enclave.sendall(b"hello\x1b[2J\n")
        daemon.says(r"enclave: hello\x1b[2J")
    assert daemon.end(ending) == 0
    assert "enclave/worker: stopped" in daemon.said
    assert list(instance.running.glob("*.json")) == []


def test_a_reload_adds_an_enclave_and_keeps_what_is_connected(instance: Instance) -> None:
    text = "logs: {listen: 'unix:{folder}/logs', to: stderr, lines_per_second: 1}\n"
    instance.configure(f"{text}enclaves:\n- {ENCLAVE}\n")
    daemon = instance.run()
    daemon.says("enclave/worker: running, i-")
    (first,) = instance.running.glob("*.json")
    with socket.socket(socket.AF_UNIX) as enclave:
        enclave.connect(f"{instance.folder}/logs")
        more = ENCLAVE.replace("name: worker", "name: more").replace("cid: 16", "cid: 17")
        instance.configure(f"{text}enclaves:\n- {ENCLAVE}\n- {more}\n")
        daemon.tell(signal.SIGHUP)
        daemon.says("enclave/more: running, i-")
        enclave.sendall(b"still here\n")
        daemon.says("enclave: still here")
    instance.configure("enclaves: []\nfoo: bar\n")
    daemon.tell(signal.SIGHUP)
    daemon.says("not reloaded, the old settings stay: ")
    assert first.exists()
    instance.configure(f"enclaves: [{more}]\noperations: {{listen: 'unix:/none'}}\n")
    daemon.tell(signal.SIGHUP)
    daemon.says("changed in the file, but applied only by a restart: logs, operations")
    assert not first.exists()
    assert daemon.end() == 0
    assert list(instance.running.glob("*.json")) == []


def test_two_signals_in_a_row_are_two(instance: Instance) -> None:
    """However quickly the second comes after the first, it is no part of it."""
    to = f"{instance.folder}/two"
    instance.configure(PROXY.replace("{forwards", "{drain_timeout: 1 h, forwards"))
    daemon = instance.run()
    daemon.says("listening on unix:")
    with socket.socket(socket.AF_UNIX) as target, socket.socket(socket.AF_UNIX) as client:
        target.bind(to)
        target.listen()
        client.connect(f"{instance.folder}/one")
        server, _ = target.accept()
        with server:
            daemon.tell(signal.SIGTERM)
            daemon.tell(signal.SIGINT)
            assert daemon.wait() in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert "warning: stopping at once" in daemon.said


FAULTS = {
    "proxy": "import vsock_proxy.relay.loop as m; m.Loop.turn = fail",
    "credentials": "import asyncio.events as m; m.new_event_loop = fail",
    "credentials-renewal": "import parent.credentials as m; m.CredentialService.renew = fail",
    "logs": "import parent.logs.server as m; m.LogServer.turn = fail",
    "enclave/worker": "import parent.enclaves.lifecycle as m; m.Lifecycle.looked = fail",
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_thread_that_fails_ends_the_process(instance: Instance, name: str) -> None:
    """Without it the daemon would look well, and do no more what that thread did."""
    instance.configure(
        f"{PROXY}\n"
        "credentials: {listen: 'unix:{folder}/credentials'}\n"
        "logs: {listen: 'unix:{folder}/logs', to: stderr}\n"
        f"enclaves: [{ENCLAVE}]\n"
    )
    fault = f"def fail(*_, **__): raise ZeroDivisionError('a bug')\n{FAULTS[name]}"
    daemon = instance.run("--log-format", "json", before=fault)
    assert daemon.wait() == 1
    lines = [json.loads(line) for line in daemon.said.splitlines() if line[0] == "{"]
    (failed,) = [line for line in lines if line["message"] == f"{name}: internal error"]
    assert "ZeroDivisionError: a bug" in failed["exception"]
    assert f"{name} failed; stopping everything, to be restarted" in daemon.said
    assert list(instance.running.glob("*.json")) == []


def test_systemd_is_notified(instance: Instance) -> None:
    instance.configure(
        "proxy: {forwards: [{listen: 'unix:{folder}/one', to: 'unix:{folder}/two'}]}"
    )
    notified = str(instance.folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(notified)
        systemd.settimeout(TEST_TIMEOUT)
        daemon = instance.run(more={"NOTIFY_SOCKET": notified, "WATCHDOG_USEC": "100000"})
        assert systemd.recv(100).startswith(b"READY=1\nSTATUS=running")
        assert [systemd.recv(100) for _ in range(2)] == [b"WATCHDOG=1"] * 2
        daemon.tell(signal.SIGHUP)
        heard = [systemd.recv(100)]
        while heard[-1] != b"READY=1":
            heard.append(systemd.recv(100))
        (reloading,) = [each for each in heard[:-1] if each != b"WATCHDOG=1"]
        assert reloading.startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        daemon.tell(signal.SIGTERM)
        while systemd.recv(100) != b"STOPPING=1":
            pass
        assert daemon.wait() == 0
