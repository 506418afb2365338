"""``enclave-parent run`` as a process, and an enclave that gets by on nothing else."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from enclave_simulator.authority import Authority
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.launcher.launch import Launcher
from enclave_simulator.nsm import SimulatedNsm
from enclave_simulator.parent.processes import Service
from tests.chain.commands import AGENT
from tests.waiting import TEST_TIMEOUT, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


CONFIGURATION = """\
proxy:
  allowlist: [{{address: 127.0.0.1, port: {kms}}}, {{address: 127.0.0.1, port: {echo}}}]
  drain_timeout: 50 s
  forwards:
  - {{name: kms, listen: "unix:{folder}/3_8000", to: "tcp://127.0.0.1:{kms}"}}
  - {{name: echo, listen: "unix:{folder}/3_8005", to: "tcp://127.0.0.1:{echo}"}}
{more}
credentials: {{listen: "unix:{folder}/3_8002"}}
logs: {{listen: "unix:{folder}/3_8003", to: stderr}}
operations: {{listen: "tcp://127.0.0.1:0"}}
"""
SECOND = '  - {{name: second, listen: "unix:{folder}/3_8001", to: "tcp://127.0.0.1:{kms}"}}'


@dataclass
class Parent:
    """What the parent instance is to these tests; its vsock ports are `folder`/3_PORT.

    Attributes:
        folder: see `Launcher.folder`.
        environment: of the daemon.
        echo: somebody else's server, to which the proxy may forward.
    """

    folder: Path
    environment: dict[str, str]
    echo: socket.socket
    kms_port: int
    ca: Path
    authority: Authority
    daemon: Service | None = None

    def configure(self, more: str = "") -> Path:
        path = self.folder / "parent.yaml"
        values = {
            "kms": self.kms_port,
            "echo": self.echo.getsockname()[1],
            "folder": self.folder,
        }
        path.write_text(CONFIGURATION.format(**values, more=more.format(**values)))
        return path

    @contextlib.contextmanager
    def running(self) -> Iterator[Service]:
        command = ["run", "--config", str(self.configure()), "--log-format", "json"]
        with Service("parent.cli", command, env=self.environment, show_stderr=True) as self.daemon:
            yield self.daemon

    def get(self, path: str) -> tuple[int, bytes]:
        assert self.daemon
        address = self.daemon.state["STATUS"].partition("tcp://")[2]
        client = http.client.HTTPConnection(address, timeout=TEST_TIMEOUT)
        with contextlib.closing(client):
            client.request("GET", path)
            response = client.getresponse()
            return response.status, response.read()

    def metric(self, line: str) -> float | None:
        for each in self.get("/metrics")[1].decode().splitlines():
            name, _, value = each.rpartition(" ")
            if name == f"enclave_parent_{line}":
                return float(value)
        return None

    def agent(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run the agent in a simulated enclave, with nothing but its parent."""
        environment = {
            "PATH": os.environ["PATH"],
            "AWS_REGION": "eu-central-1",
            "AWS_CA_BUNDLE": str(self.ca),
        }
        launcher = Launcher(nsm=SimulatedNsm(self.authority), folder=self.folder)
        command = [*AGENT, "generate-random", "--number-of-bytes", "32", *options]
        pipe = subprocess.PIPE
        with launcher.start(command, env=environment, stdout=pipe, stderr=pipe) as session:
            out, err = session.process.communicate(timeout=TEST_TIMEOUT)
            return subprocess.CompletedProcess(command, session.wait(), out.decode(), err.decode())


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Parent]:
    authority = Authority.generate()
    root, ca = tmp_path / "root.pem", tmp_path / "ca.pem"
    root.write_bytes(authority.root_pem)
    kms = ["kms", "--listen", "tcp://127.0.0.1:0", f"--nitro-root={root}", f"--ca-file={ca}"]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ACCESS_KEY_ID": SIMULATED_CREDENTIALS.access_key_id,
        "AWS_SECRET_ACCESS_KEY": SIMULATED_CREDENTIALS.secret_access_key,
        "AWS_SESSION_TOKEN": SIMULATED_CREDENTIALS.session_token or "",
    }
    with (
        Service("enclave_simulator.cli", kms) as served,
        socket.create_server(("127.0.0.1", 0)) as echo,
    ):
        echo.settimeout(TEST_TIMEOUT)
        port = int(served.state["STATUS"].rpartition(":")[2])
        yield Parent(tmp_path, environment, echo, port, ca, authority)


def bytes_of(done: subprocess.CompletedProcess[str]) -> bytes:
    assert done.returncode == 0, done.stderr
    return base64.b64decode(json.loads(done.stdout)["Plaintext"])


def health(parent: Parent) -> tuple[int, dict[str, Any]]:
    status, body = parent.get("/healthz")
    return status, json.loads(body)


def test_an_enclave_needs_nothing_else(parent: Parent) -> None:
    with parent.running():
        eventually(lambda: health(parent)[0] == 200)
        done = parent.agent("--verbose")
        assert len(bytes_of(done)) == 32
        assert "credentials from vsock://3:8002, valid until " in done.stderr
        assert "through vsock://3:8000, TLSv1.3" in done.stderr
        assert parent.metric('proxy_relayed_total{forward="kms"}') == 1
        assert (parent.metric('proxy_bytes_total{direction="up",forward="kms"}') or 0) > 5000
        assert parent.metric('credentials_responses_total{status="200"}') == 1
        assert (parent.metric("credentials_time_to_expiry_seconds") or 0) > 600
        assert set(health(parent)[1]["components"]) == {"proxy", "credentials", "logs"}
        text = parent.get("/metrics")[1] + parent.get("/healthz")[1]
        assert SIMULATED_CREDENTIALS.secret_access_key.encode() not in text


def test_a_reload_adds_a_forward_and_a_bad_file_changes_nothing(
    parent: Parent, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[dict[str, str]] = []

    def has_said(message: str) -> bool:
        said.extend(map(json.loads, capfd.readouterr().err.splitlines()))
        return any(line["message"].startswith(message) for line in said)

    def reload(more: str, outcome: str) -> None:
        parent.configure(more)
        daemon.process.send_signal(signal.SIGHUP)
        eventually(lambda: has_said(outcome))

    with parent.running() as daemon:
        assert parent.agent("--proxy", "vsock://3:8001").returncode != 0
        assert parent.metric('proxy_accepted_total{forward="second"}') is None
        reload(SECOND, "reloaded")
        assert len(bytes_of(parent.agent("--proxy", "vsock://3:8001"))) == 32
        assert parent.metric('proxy_relayed_total{forward="second"}') == 1
        assert parent.metric('proxy_relayed_total{forward="kms"}') == 0
        reload("  - nonsense", "not reloaded, the old settings stay: ")
        assert f"{parent.folder}/parent.yaml:7: forwards: 'nonsense'" in said[-1]["message"]
        assert len(bytes_of(parent.agent("--proxy", "vsock://3:8001"))) == 32
        assert parent.metric("proxy_reloads_total") == 1


def test_the_end_lets_connections_end(parent: Parent) -> None:
    with parent.running() as daemon, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TEST_TIMEOUT)
        client.connect(str(parent.folder / "3_8005"))
        server, _ = parent.echo.accept()
        daemon.process.terminate()
        eventually(lambda: not (parent.folder / "3_8005").exists())
        with server:
            client.sendall(b"still there?")
            assert server.recv(100) == b"still there?"
            server.sendall(b"yes")
            server.shutdown(socket.SHUT_WR)
            assert b"".join(iter(lambda: client.recv(100), b"")) == b"yes"
            assert daemon.process.poll() is None
        client.close()
        assert daemon.process.wait(TEST_TIMEOUT) == 0
    assert not list(parent.folder.glob("3_*"))


def test_a_second_signal_ends_at_once(parent: Parent) -> None:
    with parent.running() as daemon, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(parent.folder / "3_8005"))
        server, _ = parent.echo.accept()
        with server:
            daemon.process.terminate()
            eventually(lambda: not (parent.folder / "3_8005").exists())
            daemon.process.terminate()
            assert daemon.process.wait(TEST_TIMEOUT / 2) == 128 + signal.SIGTERM


def test_a_parent_without_credentials_says_so_everywhere(parent: Parent) -> None:
    del parent.environment["AWS_ACCESS_KEY_ID"]
    with parent.running():
        eventually(lambda: (parent.metric("credentials_failures_total") or 0) > 0)
        status, shown = health(parent)
        assert status == 503
        assert shown["components"]["credentials"]["detail"].startswith("no credentials: ")
        assert shown["components"]["proxy"]["healthy"]
        assert parent.get("/livez")[0] == 200
        done = parent.agent()
    assert done.returncode != 0
    assert "the parent has no credentials (none); see its log" in done.stderr


def test_what_cannot_start_leaves_nothing_behind(parent: Parent) -> None:
    taken = parent.folder / "3_8003"
    taken.write_text("in the way")
    command = [sys.executable, "-m", "parent.cli", "run", "--config", str(parent.configure())]
    done = subprocess.run(
        command, env=parent.environment, capture_output=True, text=True, check=False,
        timeout=TEST_TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 1
    *_, error, hint = done.stderr.splitlines()
    assert error.startswith(f"enclave-parent: error: cannot listen on unix:{taken}: ")
    assert hint.startswith("enclave-parent: hint: ")
    assert list(parent.folder.glob("3_*")) == [taken]
