"""Service processes: ready, not ready, and gone."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from enclave_simulator.parent.processes import Service, ServiceError
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def command(tmp_path: Path) -> dict[str, str]:
    """An environment in which ``python -c`` finds a module `service` to run."""
    (tmp_path / "service.py").write_text(
        textwrap.dedent("""
            import signal, sys
            from vsock_proxy.service.notify import notify
            def main():
                match sys.argv[1]:
                    case "ready":
                        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
                        notify("READY=1\\nSTATUS=listening on tcp://127.0.0.1:1")
                        signal.sigwait([signal.SIGTERM])
                    case "deaf":
                        signal.signal(signal.SIGTERM, signal.SIG_IGN)
                        notify()
                        signal.pause()
                    case "silent":
                        signal.pause()
                return "cannot do that"
        """)
    )
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def test_ready(command: dict[str, str]) -> None:
    with Service("service", ["ready"], env=command) as service:
        assert service.state["STATUS"] == "listening on tcp://127.0.0.1:1"
        assert service.process.poll() is None
    assert service.process.returncode == 1  # asked kindly, it returned from main


def test_service_ends_before_it_is_ready(command: dict[str, str]) -> None:
    with pytest.raises(ServiceError, match="ended with 1") as caught:
        Service("service", ["fail"], env=command)
    assert caught.value.hint == "cannot do that"


def test_service_never_gets_ready(command: dict[str, str]) -> None:
    with pytest.raises(ServiceError, match="not ready within"):
        Service("service", ["silent"], env=command, ready_within=0.2)


def test_service_that_ignores_sigterm_is_killed(
    command: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enclave_simulator.parent.processes._STOP_WITHIN", 0.1)
    with Service("service", ["deaf"], env=command) as service:
        pass
    assert service.process.returncode == -signal.SIGKILL


def test_service_dies_with_its_starter(command: dict[str, str]) -> None:
    script = """
import time
from enclave_simulator.parent.processes import Service
print(Service("service", ["deaf"]).process.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], env=command, stdout=subprocess.PIPE
    ) as starter:
        assert starter.stdout is not None
        service = os.pidfd_open(int(starter.stdout.readline()))
        starter.kill()
    try:
        assert select.select([service], [], [], TEST_TIMEOUT)[0]
    finally:
        os.close(service)


def test_a_service_that_ends_by_its_own_error_is_quoted() -> None:
    options = ["kms", "--nitro-root=/nonexistent/root.pem", "--ca-file=/nonexistent/ca.pem"]
    with pytest.raises(ServiceError) as caught:
        Service("enclave_simulator.cli", options)
    assert str(caught.value).startswith("cannot read /nonexistent/root.pem")
    assert "simulator" not in f"{caught.value} {caught.value.hint}"
