"""The commands of the chain, as processes: the simulator, and the agent in it."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SIMULATOR = (sys.executable, "-m", "enclave_simulator.cli", "run")
AGENT = (sys.executable, "-m", "enclave.cli")
MAIN_JOB = (*AGENT, "generate-random", "--number-of-bytes", "32", "--verbose")

OPENED = r"CiphertextForRecipient of \d+ bytes opened: 32 bytes inside"
"""The last hop of the main job."""

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
USE_KEY = (sys.executable, "-c", _USE_KEY)
"""Prints True if ``alias/demo`` encrypts and decrypts; exits with KMS's error otherwise."""


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a program, which may start a dozen others, one after another."""
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=2 * TEST_TIMEOUT
    )


def run_main_job(*options: str, hops: Sequence[str]) -> None:
    """Run the main job under the simulator, and compare its hops, one line each.

    Args:
        options: of the simulator.
        hops: patterns.
    """
    done = run(*SIMULATOR, *options, "--", *MAIN_JOB)
    assert done.returncode == 0, done.stderr
    assert len(base64.b64decode(json.loads(done.stdout)["Plaintext"])) == 32
    lines = done.stderr.splitlines()
    assert len(lines) == len(hops), done.stderr
    for line, hop in zip(lines, hops, strict=True):
        assert re.search(hop, line), line


def run_contract(*options: str, suite: str, keyword: str, at_least: int) -> None:
    """Run a contract suite under the simulator, and check that so many of its tests ran.

    Args:
        options: of the simulator.
        suite: the file of the suite.
        keyword: pytest's ``-k``.
        at_least: tests that pass; none may be skipped.
    """
    pytest_ = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-k", keyword)
    done = run(*SIMULATOR, "--no-services", *options, "--", *pytest_, suite)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) >= at_least
    assert "skipped" not in done.stdout
