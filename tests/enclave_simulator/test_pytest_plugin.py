"""The fixtures, in a pytest of their own as users have it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.waiting import TEST_TIMEOUT
from vsock_proxy.service.extras import install_command

if TYPE_CHECKING:
    from pathlib import Path

SCOPES = """
import pytest

@pytest.fixture(scope="module")
def data_key(module_agent, module_kms_simulator):
    module_kms_simulator.service.add_key("alias/module")
    return module_agent.generate_data_key("alias/module", key_spec="AES_256")

def test_module(module_agent, data_key):
    assert module_agent.decrypt(data_key.ciphertext_blob).plaintext == data_key.plaintext

def test_module_again(module_simulated_nsm, data_key):
    assert module_simulated_nsm.calls["Attestation"] == 1

@pytest.fixture(scope="session")
def random(session_agent):
    return session_agent.generate_random(8)

def test_session(random, session_simulated_nsm, session_kms_simulator):
    assert len(random) == 8
    assert session_kms_simulator.service.requests["GenerateRandom"] == 1

def test_each_test_has_its_own(agent, simulated_nsm, kms_simulator, session_kms_simulator):
    assert kms_simulator is not session_kms_simulator
    assert not kms_simulator.service.requests
    assert len(agent.generate_random(8)) == 8
"""

WITHOUT_EXTRA = """
import importlib.util, sys

find = importlib.util.find_spec

def missing(name, *rest):
    return None if name in ("asn1crypto", "h11") else find(name, *rest)

importlib.util.find_spec = missing
import vsock_proxy.service.extras
vsock_proxy.service.extras.find_spec = missing

def test_fixture(agent):
    pass
"""


def run(folder: Path, test: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(test)
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", folder],
        cwd=folder,
        # A developer's profile or proxy must not matter.
        env={"PATH": "/usr/bin:/bin", "AWS_PROFILE": "none", "HTTPS_PROXY": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT,
        check=False,
    )


def test_fixtures_of_every_scope(tmp_path: Path) -> None:
    done = run(tmp_path, SCOPES)
    assert "4 passed" in done.stdout, done.stdout


def test_fixture_without_the_extra_names_it(tmp_path: Path) -> None:
    done = run(tmp_path, WITHOUT_EXTRA)
    assert done.returncode == 1
    assert "not installed: asn1crypto, h11" in done.stdout
    assert install_command("simulator") in done.stdout
    assert "Traceback" not in done.stdout
    assert "During handling" not in done.stdout


HOSTILE = """
import sys
import pytest
from enclave import AgentError

def test_hostile_kms(hostile_kms):
    kms = hostile_kms("plaintext-beside-envelope")
    with pytest.raises(AgentError):
        kms.agent.decrypt(kms.ciphertexts[0], key_id=kms.key_id)

def test_no_such_attack(hostile_kms):
    with pytest.raises(AgentError, match="no such attack"):
        hostile_kms("no-such")

def test_hostile_parent(hostile_parent):
    with pytest.raises(AgentError, match="without an attack the program fails"):
        hostile_parent([sys.executable, "-c", "print('does nothing')"])
"""


def test_hostile_fixtures(tmp_path: Path) -> None:
    done = run(tmp_path, HOSTILE)
    assert "3 passed" in done.stdout, done.stdout


@pytest.mark.parametrize("scope", ["", "module_", "session_"])
def test_fixtures_are_documented(scope: str, tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "--fixtures", "-p", "no:cacheprovider", tmp_path],
        cwd=tmp_path, capture_output=True, text=True, timeout=TEST_TIMEOUT, check=False,
    ).stdout  # fmt: skip
    for name in ("agent", "kms_simulator", "simulated_nsm"):
        assert f"{scope}{name}" in shown
