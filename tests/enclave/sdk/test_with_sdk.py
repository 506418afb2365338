"""The C SDK itself, in a simulated enclave; skipped if the bindings to it are not built.

The launcher gives libnsm its ``/dev/nsm`` and aws-c-io its AF_VSOCK; behind them are the simulated
NSM, vsock-proxy and the simulated KMS.
"""

from __future__ import annotations

import base64
import json
import os
import re
import select
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from enclave.errors import ConfigurationError
from enclave.sdk.build import compile_module
from enclave.sdk.search import find
from tests.chain.commands import AGENT, SIMULATOR, run
from tests.paths import ROOT
from tests.sockets import unused_port
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from enclave.sdk.bindings.native import Native

pytestmark = pytest.mark.usefixtures("built")

ENGINES = ("sdk", "sdk-client")
HUNG = "no response from the SDK's client within"
LEAK = 512
"""KiB that 800 calls may add: less than half a KiB a call, which sends and receives several."""


@dataclass
class Calls:
    """What tests/enclave/sdk/calls.py printed."""

    outcomes: list[str]
    memory: list[int]

    @property
    def failed(self) -> list[str]:
        return [outcome for outcome in self.outcomes if outcome]


def watched(*command: str) -> str:
    """Run a command and return its output. Only silence ends it, however slow it is."""
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout
        printed = b""
        try:
            while select.select([process.stdout], [], [], TEST_TIMEOUT)[0]:
                piece = os.read(process.stdout.fileno(), 65_536)
                if not piece:
                    break
                printed += piece
            else:
                pytest.fail(f"silent for {TEST_TIMEOUT} s after {printed[-200:]!r}")
            code = process.wait(TEST_TIMEOUT)
        finally:
            process.kill()
        errors.seek(0)
        assert code == 0, printed.decode() + errors.read().decode()
    return printed.decode()


def calls(*words: str, faults: tuple[str, ...] = ()) -> Calls:
    """Make calls in a simulated enclave."""
    options = [word for fault in faults for word in ("--fault", fault)]
    program = (sys.executable, "-m", "tests.enclave.sdk.calls", *words)
    printed = watched(*SIMULATOR, *options, "--", *program)
    values = [json.loads(line) for line in printed.splitlines()]
    return Calls(
        [value for value in values if isinstance(value, str)],
        [value for value in values if isinstance(value, int)],
    )


def run_unless_hung(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command; repeat it if a call of the SDK's client hung until its deadline.

    The SDK loses a wake-up now and then, under load more often; nothing else is repeated.
    """
    for _ in range(4):
        done = run(*command)
        if HUNG not in done.stdout + done.stderr:
            break
    return done


def python(script: str, *options: str) -> str:
    done = run_unless_hung(*SIMULATOR, *options, "--", sys.executable, "-c", script)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_bindings_are_to_the_sdk(built: Native) -> None:
    assert not built.stand_in
    assert "STAND-IN" not in built.build


@pytest.mark.parametrize("engine", ENGINES)
def test_the_main_job(engine: str) -> None:
    command = ("generate-random", "--number-of-bytes", "32", "--verbose", "--engine", engine)
    done = run_unless_hung(*SIMULATOR, "--", *AGENT, *command)
    assert done.returncode == 0, done.stderr
    assert len(base64.b64decode(json.loads(done.stdout)["Plaintext"])) == 32
    by_us = "CiphertextForRecipient of" in done.stderr
    assert by_us == (engine == "sdk")
    assert ("by the SDK's own client" in done.stderr) == (engine == "sdk-client")


def test_the_recipients_contract_and_equal_decryption() -> None:
    pytest_ = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "-n", "0")
    printed = watched(
        *SIMULATOR, "--no-services", "--", *pytest_, "-k", "sdk_recipient or opening",
        "tests/contracts/test_recipient.py", "tests/enclave/sdk/test_differential.py",
    )  # fmt: skip
    passed = re.search(r"(\d+) passed", printed)
    assert passed
    assert "skipped" not in printed
    assert int(passed[1]) >= 25


@pytest.mark.parametrize("engine", ["python", *ENGINES])
def test_a_thousand_calls_leave_memory_as_it_was(engine: str) -> None:
    made = calls(engine, "1000", "--seconds", "15")
    early, late = made.memory
    assert late - early < LEAK
    if engine == "sdk-client":  # its wake-ups get lost: each such call ended at its deadline
        assert len(made.failed) < 10
        assert all(HUNG in outcome for outcome in made.failed)
    else:
        assert made.failed == []


def test_whatever_kms_does_the_sdks_client_ends_by_the_deadline() -> None:
    """A silence, a crash and a refusal: each is one error, and then it goes on.

    Which one the last two become is up to the C code: it crashes or not, as its memory happens
    to be, and may miss a response that comes quickly.
    """
    faults = ("stall:1", "no-ciphertext:1", "refuse:1")
    *failed, last = calls(
        "sdk-client", "12", "--until-success", "--seconds", "10", faults=faults
    ).outcomes
    assert last == "", failed
    assert len(failed) >= len(faults), failed
    silent = f"SdkWorkerError: {HUNG}"
    known = rf"{silent}|SdkWorkerError: .*was killed by SIG|KmsResponseError|.*HTTP status 400"
    assert re.match(silent, failed[0])
    assert all(re.match(known, outcome) for outcome in failed), failed


def test_a_server_that_closes_between_calls() -> None:
    assert calls("sdk", "6", faults=("close-after",)).outcomes == [""] * 6


def test_a_server_that_closes_between_calls_of_the_sdks_client() -> None:
    """Each call whose connection ended is retried by a new worker.

    About one in a hundred was lost before: the SDK reports the end of its connection as "non-200
    answer from KMS: -1" before it prints that it is disconnected. What may remain is a wake-up
    that is lost in each of the attempts.
    """
    made = calls("sdk-client", "60", "--seconds", "30", faults=("close-after",))
    assert len(made.outcomes) == 60
    assert made.failed == []


def test_our_calls_with_the_sdks_recipient_have_our_errors() -> None:
    (silent,) = calls("sdk", "1", "--seconds", "2", faults=("stall",)).outcomes
    assert silent.startswith("KmsUnreachableError")
    refused, corrupt, last = calls("sdk", "3", faults=("refuse:1", "corrupt-cms:1")).outcomes
    assert refused.startswith("KmsRefusedError: ")
    assert "AccessDeniedException" in refused
    assert corrupt.startswith("DecryptionError")
    assert last == ""


_EVERY_OPERATION = """
import sys
from enclave import Agent
with Agent(engine=sys.argv[1]) as agent:
    key = {"KeyId": "alias/demo", "EncryptionContext": {"a": "b"}}
    made = agent.call("GenerateDataKey", {"KeyId": "alias/demo", "KeySpec": "AES_128"}).content
    again = agent.call("Decrypt", {"CiphertextBlob": made["CiphertextBlob"]}).content
    assert len(made["Plaintext"]) == 16 and made["Plaintext"] == again["Plaintext"]
    sealed = agent.call("Encrypt", {**key, "Plaintext": "eA=="}).content
    request = {**key, "CiphertextBlob": sealed["CiphertextBlob"]}
    assert agent.call("Decrypt", request).content["Plaintext"] == b"x"
    assert agent.call("DescribeKey", {"KeyId": "alias/demo"}).content["KeyMetadata"]
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_every_operation(engine: str) -> None:
    script = _EVERY_OPERATION.replace("sys.argv[1]", repr(engine))
    python(script, "--key", "alias/demo")


_BOTO = """
import botocore.session, enclave
kms = botocore.session.get_session().create_client("kms")
enclave.attach(kms, agent=enclave.Agent(engine="sdk"))
print(len(kms.generate_random(NumberOfBytes=32)["Plaintext"]))
"""


def test_an_attached_client() -> None:
    assert python(_BOTO) == "32\n"


_POST = """
import json, os, urllib.request
body = json.dumps({"NumberOfBytes": 32}).encode()
headers = {"X-Amz-Target": "TrentService.GenerateRandom"}
url = os.environ["AWS_ENDPOINT_URL_KMS"]
response = urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60)
print(sorted(json.load(response)))
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_the_local_endpoint(engine: str) -> None:
    serve = ("serve", "--engine", engine, "--listen", f"tcp://127.0.0.1:{unused_port()}")
    quiet = ("--no-seed-from-nsm", "--no-seed-from-kms", "--no-raise-loopback", "--no-check-clock")
    command = (*AGENT, *serve, *quiet, "--", sys.executable, "-c", _POST)
    done = run_unless_hung(*SIMULATOR, "--", *command)
    assert done.stdout == "['Plaintext']\n", done.stderr


def test_seeding_the_kernel() -> None:
    """Harmless: more in the pool makes it no worse, and it is the machine's own kernel."""
    script = "from enclave.sdk.entropy import seed_entropy; seed_entropy(512)"
    command = (*SIMULATOR, "--no-services", "--", sys.executable, "-c", script)
    done = run(*command)
    if _may_administer():
        assert done.returncode == 0, done.stderr
    else:
        assert "NsmUnavailableError: the C SDK did not seed" in done.stderr


def _may_administer() -> bool:
    status = Path("/proc/self/status").read_text()
    capabilities = re.search(r"CapEff:\s+([0-9a-f]+)", status)
    return bool(capabilities and int(capabilities[1], 16) >> 21 & 1)  # CAP_SYS_ADMIN


_LOAD = """
import pathlib, sys
from enclave.sdk.bindings.attestation import Attestation
from enclave.sdk.bindings.native import load_file
Attestation(load_file(pathlib.Path(sys.argv[1]))).new_key_pair()
"""


@pytest.mark.parametrize("shared", [False, True], ids=["static", "shared"])
def test_it_builds_against_what_is_installed(built: Native, shared: bool, tmp_path: Path) -> None:
    try:
        found = find(built.prefixes, os.environ, shared=shared)
    except ConfigurationError as e:
        pytest.skip(f"the libraries that the bindings were built with are gone: {e}")
    ending = ".so" if shared else ".a"
    if found.libraries[0].suffix != ending:
        pytest.skip(f"only the other kind of library is installed: {found}")
    made = compile_module("_built_by_a_test", found, into=tmp_path)
    subprocess.run(
        [sys.executable, "-c", _LOAD, str(made)], cwd=ROOT, check=True, timeout=TEST_TIMEOUT
    )
