"""``enclave-parent run`` as a process, with an enclave and its logs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.parent import eifs

FAKE = Path(__file__).with_name("fake_nitro_cli.py")


def eventually_in(text: str, path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while text not in path.read_text(errors="replace"):
        assert process.poll() is None
        assert time.monotonic() < deadline, path.read_text(errors="replace")
        time.sleep(0.02)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_enclaves_and_their_logs_from_start_to_end(tmp_path: Path, ending: signal.Signals) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nitro-cli").symlink_to(FAKE)
    running = tmp_path / "run"
    running.mkdir()
    eif = tmp_path / "worker.eif"
    eif.write_bytes(eifs.eif())
    configuration = tmp_path / "parent.yaml"
    configuration.write_text(
        f"logs: {{listen: 'unix:{tmp_path}/logs', to: stderr}}\n"
        f"enclaves:\n- {{name: worker, eif: {eif}, memory_mib: 512, cpus: 2, cid: 16}}\n"
    )
    said = tmp_path / "said"
    environment = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "NITRO_CLI_SOCKETS_PATH": str(running),
    }
    command = [sys.executable, "-m", "parent.cli", "run", "--config", str(configuration)]
    with said.open("wb") as output:
        process = subprocess.Popen(command, stderr=output, env=environment)
    try:
        eventually_in("enclave/worker: running, i-", said, process)
        assert len(list(running.glob("*.json"))) == 1
        with socket.socket(socket.AF_UNIX) as enclave:
            enclave.connect(f"{tmp_path}/logs")
            enclave.sendall(b"hello\x1b[2J\n")
            eventually_in(r"enclave: hello\x1b[2J", said, process)
        process.send_signal(ending)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert "enclave/worker: stopped" in said.read_text()
    assert list(running.glob("*.json")) == []
