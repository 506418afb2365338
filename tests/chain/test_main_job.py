"""The whole chain as processes, as `make run` has it: launcher, agent, proxy, KMS."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from enclave.nsm import Nsm
from enclave_simulator.authority import Authority
from enclave_simulator.nsm import SimulatedNsm
from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

SIMULATOR = (sys.executable, "-m", "enclave_simulator.cli", "run")
AGENT = (sys.executable, "-m", "enclave.cli")


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a program, which may start a dozen others, one after another."""
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=2 * TEST_TIMEOUT
    )


def test_the_main_job_prints_the_bytes_and_shows_its_hops() -> None:
    done = run(*SIMULATOR, "--", *AGENT, "generate-random", "--number-of-bytes", "32", "--verbose")
    assert done.returncode == 0, done.stderr
    assert len(base64.b64decode(json.loads(done.stdout)["Plaintext"])) == 32
    hops = [
        r"attested by i-[0-9a-f]+-enc[0-9a-f]+, PCR0 [0-9a-f]{96}: attestation document of \d+ by",
        r"connected to kms\.[a-z0-9-]+\.amazonaws\.com through vsock://3:8000, TLSv1\.3",
        r"CiphertextForRecipient of \d+ bytes opened: 32 bytes inside",
    ]
    lines = done.stderr.splitlines()
    assert len(lines) == len(hops), done.stderr
    for line, hop in zip(lines, hops, strict=True):
        assert re.search(hop, line)


def test_it_says_nothing_unless_asked() -> None:
    command = ("generate-random", "--number-of-bytes", "8", "--output", "text", "--query")
    done = run(*SIMULATOR, "--", *AGENT, *command, "length(Plaintext)")
    assert (done.stdout, done.stderr, done.returncode) == ("12\n", "", 0)


@pytest.mark.parametrize("fault", ["refuse", "plaintext", "wrong-key", "cut", "garbage"])
def test_a_fault_of_kms_is_two_lines_and_no_output(fault: str) -> None:
    done = run(
        *SIMULATOR, "--fault", fault, "--", *AGENT, "generate-random", "--number-of-bytes", "32"
    )
    assert done.stdout == ""
    assert done.returncode in (254, 255)
    assert done.stderr.startswith("enclave-agent: error: ")
    assert "Traceback" not in done.stderr


_USE_KEY = """
import sys
from enclave import Agent
from enclave.errors import KmsRefusedError
with Agent() as agent:
    try:
        made = agent.call("GenerateDataKey", {"KeyId": "alias/demo", "KeySpec": "AES_256"}).content
    except KmsRefusedError as e:
        sys.exit(e.type)
    again = agent.call("Decrypt", {"CiphertextBlob": made["CiphertextBlob"]}).content
    print(made["Plaintext"] == again["Plaintext"])
"""


def test_a_key_policy_tells_enclaves_apart(tmp_path: Path) -> None:
    image = Nsm(SimulatedNsm(Authority.generate())).describe_pcr(0).data.hex()
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "kms:*",
        "Resource": "*",
        "Condition": {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:PCR0": image}},
    }
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"Statement": [statement]}))
    options = ("--key=alias/demo", f"--key-policy=alias/demo={policy}")
    command = ("--", sys.executable, "-c", _USE_KEY)
    done = run(*SIMULATOR, *options, *command)
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)
    debugged = run(*SIMULATOR, *options, "--debug-mode", *command)
    assert (debugged.stdout, debugged.stderr) == ("", "AccessDeniedException\n")


def test_the_simulated_device_keeps_the_nsms_contract() -> None:
    """The same suite as in process, now through the real ioctl of `DevNsm`."""
    pytest_ = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q")
    done = run(
        *SIMULATOR, "--no-services", "--", *pytest_, "-k", "DevNsm",
        "tests/contracts/test_nsm_device.py",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) >= 15


def test_credentials_from_the_parent() -> None:
    done = run(
        *SIMULATOR, "--credentials", "parent", "--",
        *AGENT, "generate-random", "--number-of-bytes", "32", "--verbose",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "credentials from vsock://3:8002, valid until " in done.stderr
    assert len(base64.b64decode(json.loads(done.stdout)["Plaintext"])) == 32


def test_the_word_on_the_command_line_decides_whose_credentials() -> None:
    command = ("generate-random", "--number-of-bytes", "8", "--credentials")
    parent = run(*SIMULATOR, "--credentials", "parent", "--", *AGENT, *command, "vsock://3:8002")
    assert parent.returncode == 0, parent.stderr
    environment = run(*SIMULATOR, "--credentials", "parent", "--", *AGENT, *command, "environment")
    assert environment.returncode == 253
    assert environment.stderr.startswith("enclave-agent: error: no AWS credentials\n")
