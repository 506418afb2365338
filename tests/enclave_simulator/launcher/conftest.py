"""Fixtures of the launcher's tests."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from enclave_simulator.launcher import Launcher
from tests.enclave_simulator.launcher.rig import PROGRAMS, EchoNsm, namespaces_refused

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the static program; compiled already in the guest of the boot test."""
    compiled = PROGRAMS / "enclave"
    if compiled.exists():
        return str(compiled)
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to compile a static program with: apt-get install gcc libc6-dev")
    binary = tmp_path_factory.mktemp("program") / "enclave"
    source = PROGRAMS / "enclave.c"
    subprocess.run(["gcc", "-static", "-pthread", "-O1", "-o", binary, source], check=True)
    return str(binary)


@pytest.fixture(params=[True, False], ids=["own-dev", "trapped-paths"])
def launcher(request: pytest.FixtureRequest, tmp_path: Path) -> Launcher:
    """Return a launcher of each way."""
    namespaces: bool = request.param
    if namespaces and namespaces_refused():
        pytest.skip(f"{namespaces_refused()}: see user_namespaces(7)")
    return Launcher(nsm=EchoNsm(), folder=tmp_path, namespaces=namespaces)
