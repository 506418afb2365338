"""``enclave-agent doctor``, as users run it in a simulated enclave."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from enclave.cli import main
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

RUN = [sys.executable, "-m", "enclave_simulator.cli", "run"]
DOCTOR = [sys.executable, "-m", "enclave.cli", "doctor"]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, capture_output=True, text=True, timeout=5 * TEST_TIMEOUT, check=False
    )


def test_in_an_enclave_where_all_works(tmp_path: Path) -> None:
    done = run(
        *RUN, "--key", "alias/demo", "--credentials", "parent", "--", *DOCTOR, "--json",
        "--key-id", "alias/demo", "--check-timeout", str(TEST_TIMEOUT),
    )  # fmt: skip
    assert (done.stderr, done.returncode) == ("", 0)
    report = json.loads(done.stdout)
    verdicts = {each["name"]: each["verdict"] for each in report["checks"]}
    # The machine's own, which tests cannot know.
    for name in ("entropy", "hwrng", "memory", "descriptors"):
        verdicts.pop(name)
    assert verdicts.pop("root") == "warn"  # the simulator's
    assert set(verdicts.values()) == {"pass"}, done.stdout
    findings = {each["name"]: each["finding"] for each in report["checks"]}
    assert "min left" in findings["credentials"]
    assert findings["TLS to KMS"].startswith("TLSv1.")
    assert "KMS would accept an attested GenerateDataKey" in findings["key"]
    for secret in (SIMULATED_CREDENTIALS.secret_access_key, SIMULATED_CREDENTIALS.session_token):
        assert secret
        assert secret not in done.stdout


def test_in_an_enclave_in_debug_mode_whose_key_refuses_it(tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    statement = {
        "Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*",
        "Condition": {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:PCR0": "ab" * 48}},
    }  # fmt: skip
    policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    done = run(
        *RUN, "--debug-mode", "--key", "alias/demo", "--key-policy", f"alias/demo={policy}", "--",
        *DOCTOR, "--key-id", "alias/demo", "--check-timeout", str(TEST_TIMEOUT),
    )  # fmt: skip
    assert done.returncode == 1
    rows = {line[:18].strip(): line for line in done.stdout.splitlines() if line[:1] != " "}
    assert rows["debug mode"].split()[2] == "warn"
    assert rows["key"].split()[1] == "fail"
    assert "key-policy explain" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--check-timeout", "0"], "--check-timeout"),
        (["--encryption-context", "{}"], "--key-id is missing"),
        (["--key-id", "a", "--encryption-context", "[]"], "not a JSON object of texts"),
        (["--key-id", "a", "--encryption-context", '{"a": 1}'], "not a JSON object of texts"),
    ],
)
def test_errors_of_usage(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *words]) != 0
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
