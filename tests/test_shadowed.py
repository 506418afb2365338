"""A user's project with a folder `enclave/` or `parent/` of its own (ADR 18)."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project."""
    for name in ("enclave", "parent"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text('"""The user\'s own."""\n')
    (tmp_path / "test_mine.py").write_text(
        "def test_random(agent):\n    assert len(agent.generate_random(8)) == 8\n"
    )
    return tmp_path


def start(program: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run a program as its script in bin/ does, with a folder first on the path."""
    function = program.replace("-", "_")
    code = (
        f"import sys; sys.path[:0] = [{str(path)!r}, {str(ROOT)!r}]; sys.argv[1:] = ['--version']\n"
        f"from vsock_proxy.service.entries import {function}; sys.exit({function}())"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        env=ENVIRONMENT, cwd=path, capture_output=True, text=True, timeout=TEST_TIMEOUT,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("program", "package"), [("enclave-agent", "enclave"), ("enclave-parent", "parent")]
)
def test_a_program_names_the_folder(project: Path, program: str, package: str) -> None:
    done = start(program, project)
    error, hint = done.stderr.splitlines()
    assert (done.stdout, done.returncode) == ("", 1)
    folder = (project / package).resolve()
    assert error == (
        f"{program}: error: {folder} is imported instead of this project's package {package!r}"
    )
    assert hint.startswith(f"{program}: hint: rename it, or keep {folder.parent} out of PYTHONPATH")


@pytest.mark.parametrize("program", ["enclave-agent", "enclave-parent"])
def test_a_file_of_the_name_is_named_as_well(tmp_path: Path, program: str) -> None:
    file = tmp_path / f"{program.removeprefix('enclave-').replace('agent', 'enclave')}.py"
    file.write_text("")
    assert f"{file.resolve()} is imported instead" in start(program, tmp_path).stderr


@pytest.mark.parametrize("program", ["enclave-agent", "enclave-parent"])
def test_a_folder_that_is_no_package_is_in_nobodys_way(tmp_path: Path, program: str) -> None:
    for name in ("enclave", "parent"):
        (tmp_path / name).mkdir()
    done = start(program, tmp_path)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.startswith(f"{program} ")


def test_the_fixtures_name_the_folder(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"],
        env=ENVIRONMENT, cwd=project, capture_output=True, text=True, timeout=TEST_TIMEOUT,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    folder = (project / "enclave").resolve()
    assert f"{folder} is imported instead of this project's package 'enclave'" in done.stdout
    assert "--import-mode=importlib" in done.stdout
    assert "Traceback" not in done.stdout
