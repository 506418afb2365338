"""``serve --processes``: one address, several processes, one life."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from enclave.serve.workers import Workers
from enclave_simulator.parent.processes import Service
from tests.chain.commands import AGENT, SIMULATOR, run
from tests.forked import run_in_child
from tests.waiting import TEST_TIMEOUT, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


def health(client: socket.socket) -> dict[str, Any]:
    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: any\r\n\r\n")
    response = http.client.HTTPResponse(client)
    response.begin()
    found: dict[str, Any] = json.loads(response.read())
    return found


def connected(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(TEST_TIMEOUT)
    client.connect(str(path))
    return client


def children(pid: int) -> list[int]:
    """Return the processes that this one has started, without those that have ended."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == pid and fields[0] not in "ZX":
                    found.append(int(folder.name))
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kms.sock"


@pytest.fixture
def service(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    arguments = ["serve", "--listen", f"unix:{path}", "--processes", "3"]
    with Service("enclave.cli", arguments) as started:
        yield started


def test_every_process_serves_and_says_which_it_is(service: Service, path: Path) -> None:
    assert len(children(service.process.pid)) == 2
    seen = set()

    def ask() -> bool:
        with connected(path) as client:
            facts = health(client)
        assert facts["processes"] == 3
        assert facts["clients"] == 1
        seen.add(facts["process"])
        return seen == {0, 1, 2}

    eventually(ask)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_of_them(service: Service, path: Path, number: signal.Signals) -> None:
    workers = children(service.process.pid)
    with connected(path) as one, connected(path) as two:
        health(one)
        health(two)
        # As from a keyboard, which reaches all; the first process alone decides.
        for pid in (*workers, service.process.pid):
            os.kill(pid, number)
        assert one.recv(1) == two.recv(1) == b""
        assert service.process.wait(TEST_TIMEOUT) == 0
    assert not path.exists()
    assert not any(map(is_running, workers))


def test_a_worker_does_not_end_by_a_signal_of_its_own(service: Service, path: Path) -> None:
    worker = children(service.process.pid)[0]
    os.kill(worker, signal.SIGTERM)
    for _ in range(10):
        with connected(path) as client:
            assert health(client)["status"] == "ok"
    assert is_running(worker)


def test_a_worker_that_dies_ends_the_endpoint(service: Service, path: Path) -> None:
    workers = children(service.process.pid)
    os.kill(workers[1], signal.SIGKILL)
    assert service.process.wait(TEST_TIMEOUT) == 255
    assert not is_running(workers[0])
    assert not path.exists()


def test_workers_do_not_outlive_the_first_process(service: Service) -> None:
    workers = children(service.process.pid)
    service.process.kill()
    service.process.wait(TEST_TIMEOUT)
    eventually(lambda: not any(map(is_running, workers)))


def test_the_program_is_run_once_and_told_of_a_worker_that_died() -> None:
    script = """
trap "echo told; exit 3" TERM
echo started
kill -KILL $(cat /proc/$PPID/task/$PPID/children | tr " " "\\n" | grep -v "^$$\\$" | grep .)
while :; do sleep 0.1; done
"""
    serve = (*AGENT, "serve", "--listen", "tcp://127.0.0.1:0", "--processes", "2")
    done = run(*SIMULATOR, "--", *serve, "--", "sh", "-c", script)
    assert done.stdout.split() == ["started", "told"]
    assert "error: process 1 of the endpoint was killed by SIGKILL" in done.stderr
    assert done.returncode == 255


def test_every_process_makes_attested_calls() -> None:
    script = """
import json, os, urllib.request
url, seen = os.environ["AWS_ENDPOINT_URL_KMS"], set()
head = {"X-Amz-Target": "TrentService.GenerateRandom"}
made = set()
for _ in range(5000):
    request = urllib.request.Request(url, b'{"NumberOfBytes":32}', head)
    made.add(json.load(urllib.request.urlopen(request))["Plaintext"])
    health = json.load(urllib.request.urlopen(url + "/healthz"))
    if health["calls"] > 0:
        seen.add(health["process"])
    if len(seen) == 2:
        break
print(len(seen))
"""
    serve = (*AGENT, "serve", "--listen", "tcp://127.0.0.1:0", "--processes", "2")
    done = run(*SIMULATOR, "--", *serve, "--", *AGENT[:1], "-c", script)
    assert (done.stdout, done.stderr, done.returncode) == ("2\n", "", 0)


def test_the_programs_network_is_the_first_processs() -> None:
    """Its thread begins after the fork."""
    serve = (*AGENT, "serve", "--listen", "tcp://127.0.0.1:0", "--processes", "2", "--egress")
    allowed = ("--egress-listen", "tcp://127.0.0.1:0", "--egress-allow", "example.com:443")
    done = run(*SIMULATOR, "--", *serve, *allowed, "--", "sh", "-c", "echo $HTTPS_PROXY")
    assert (done.stdout[:17], done.stderr, done.returncode) == ("http://127.0.0.1:", "", 0)


@pytest.mark.parametrize("number", ["0", "65", "-1"])
def test_the_number_of_processes_is_checked(number: str) -> None:
    done = run(*AGENT, "serve", "--region", "us-east-1", "--processes", number)
    assert "--processes is not in 1..64" in done.stderr
    assert done.returncode == 252


def test_without_another_process_nothing_is_forked() -> None:
    def check() -> None:
        workers = Workers()
        workers.fork(0, lambda *_: 1)
        workers.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)
            raise AssertionError("a child")

    run_in_child(check)


def test_an_error_of_a_worker_is_its_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    def check() -> None:
        workers = Workers()
        workers.fork(1, lambda number, _: 40 + number)
        [worker] = workers._workers
        assert worker.life.recv(1) == b""
        assert os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1]) == 41
        workers.close()

    run_in_child(check)
    assert capfd.readouterr().err == ""


AT_ONCE = """
import os, signal
from enclave.serve.workers import Workers

fork = os.fork
def forked():
    pid = fork()
    if pid == 0:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
    return pid
os.fork = forked

def work(number, life):
    os.write(1, f"works {number}\\n".encode())  # whole: others write there too
    life.recv(1)
    return 0

workers = Workers()
workers.fork(2, work)
os.write(1, f"mask {signal.pthread_sigmask(signal.SIG_BLOCK, ())}\\n".encode())
for each in workers._workers:
    each.life.shutdown(1)
    each.life.recv(1)
workers.close()
"""


def test_a_worker_ignores_signals_from_its_beginning() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", AT_ONCE],
        capture_output=True, text=True, timeout=TEST_TIMEOUT, check=False,
    )  # fmt: skip
    lines = ["mask set()", "works 1", "works 2"]
    assert (sorted(ran.stdout.splitlines()), ran.stderr) == (lines, "")
