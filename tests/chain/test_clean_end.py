"""An enclave's numbers, and its clean end, from the parent's daemon to the program's last line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from enclave_simulator.authority import Authority
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.launcher.launch import Launcher
from enclave_simulator.nsm import SimulatedNsm
from enclave_simulator.parent.processes import Service
from parent.daemon.status_command import exchange
from tests.chain.commands import AGENT
from tests.parent.processes import Instance
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.net.addresses import UnixAddress
from vsock_proxy.net.dialing import SocketDialer

if TYPE_CHECKING:
    from pathlib import Path

CONFIGURATION = """\
proxy:
  allowlist: [{address: 127.0.0.1, port: KMS}]
  forwards: [{listen: "unix:{folder}/3_8000", to: "tcp://127.0.0.1:KMS"}]
logs: {listen: "unix:{folder}/3_8003", to: stderr}
enclaves:
- {name: worker, eif: "{folder}/worker.eif", memory_mib: 512, cpus: 2, cid: 16, poll: 0.2 s,
   agent: "unix:{folder}/16_8010", stop_timeout: 40 s}
operations: {listen: "unix:{folder}/operations", control: "unix:{folder}/control"}
"""

PROGRAM = """
trap 'echo "last words"; exit 3' TERM
echo "the program runs"
while :; do sleep 0.1; done
"""


def get(folder: Path, path: str) -> tuple[int, str]:
    with SocketDialer().dial(UnixAddress(f"{folder}/operations"), TEST_TIMEOUT) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        received = b""
        while chunk := client.recv(65_536):
            received += chunk
    head, _, body = received.decode().partition("\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.long
def test_numbers_then_a_restart_then_an_end_without_the_agent(tmp_path: Path) -> None:
    authority = Authority.generate()
    root, ca = tmp_path / "root.pem", tmp_path / "ca.pem"
    root.write_bytes(authority.root_pem)
    kms = Service("enclave_simulator.cli", ["kms", f"--nitro-root={root}", f"--ca-file={ca}"])
    with kms, Instance(tmp_path) as instance:
        port = kms.state["STATUS"].rpartition(":")[2]
        instance.configure(CONFIGURATION.replace("KMS", port))
        daemon = instance.run()
        daemon.says("enclave/worker: running, i-")
        (first,) = instance.running.glob("*.json")
        launcher = Launcher(nsm=SimulatedNsm(authority), folder=tmp_path)
        command = [*AGENT, "serve", "--no-seed-from-kms", "--listen", "tcp://127.0.0.1:0",
                   "--control", "vsock://any:8010", "--log-to", "vsock://3:8003",
                   "--", "sh", "-c", PROGRAM]  # fmt: skip
        environment = {
            "PATH": os.environ["PATH"],
            "AWS_REGION": "us-east-1",
            "AWS_CA_BUNDLE": str(ca),
            "AWS_ACCESS_KEY_ID": SIMULATED_CREDENTIALS.access_key_id,
            "AWS_SECRET_ACCESS_KEY": SIMULATED_CREDENTIALS.secret_access_key,
            "AWS_SESSION_TOKEN": SIMULATED_CREDENTIALS.session_token or "",
        }
        with launcher.start(command, env=environment) as session:
            daemon.says("the program runs")
            eventually(lambda: get(tmp_path, "/enclaves/worker/metrics")[0] == 200)
            numbers = get(tmp_path, "/enclaves/worker/metrics")[1]
            assert re.search(
                r'^enclave_agent_info\{enclave="worker",version="', numbers, re.MULTILINE
            )
            assert re.search(
                r'^enclave_agent_document_age_seconds\{enclave="worker",region="us-east-1"\} \d',
                numbers, re.MULTILINE,
            )  # fmt: skip
            assert get(tmp_path, "/enclaves/other/metrics")[0] == 503
            restart = [sys.executable, "-m", "parent.cli", "restart", "worker",
                       "--config", str(instance.configuration)]  # fmt: skip
            restarting = subprocess.Popen(restart, stdout=subprocess.PIPE, text=True)
            # The program decides; its last line is with the parent before the agent ends.
            assert session.wait() == 3
            assert "last words" in daemon.said
            first.unlink()  # As an enclave's init does when its program has ended.
            told, _ = restarting.communicate(timeout=TEST_TIMEOUT)
        assert re.fullmatch(r"worker: running, i-\S+\n", told)
        assert restarting.returncode == 0
        assert "the parent asks to end: the program has 40 s" in daemon.said
        assert "terminating" not in daemon.said
        _, content = exchange(UnixAddress(f"{tmp_path}/control"), "GET", "/status")
        values = content["components"]["enclave/worker"]["values"]
        assert (values["state"], values["starts"], values["ended"]) == ("running", 2, 0)
        (second,) = instance.running.glob("*.json")
        assert json.loads(second.read_text())["EnclaveID"] == values["enclave_id"]

        # No agent listens there now: nothing but a line in the log is different.
        assert daemon.end() == 0
        assert "it is terminated without: " in daemon.said
        assert "terminating" in daemon.said
        assert list(instance.running.glob("*.json")) == []
