"""tests/programs/set_up.py: what it says of progress, and of each failure."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.paths import ROOT
from tests.programs import clean, set_up
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

PIP = """\
Obtaining file:///home/stranger/nitro-enclave-agent
  Installing build dependencies: started
Collecting botocore>=1.40 (from nitro-enclave-agent==0.1.0)
  Downloading botocore-1.43.1-py3-none-any.whl.metadata (5.9 kB)
Downloading botocore-1.43.1-py3-none-any.whl (14.5 MB)
Using cached cbor2-5.8.0-cp311-cp311-manylinux.whl (250 kB)
Installing collected packages: cbor2, botocore
Successfully installed botocore-1.43.1 cbor2-5.8.0
"""


def test_progress_names_the_package_and_how_far() -> None:
    shown: list[str] = []
    tail = set_up.follow(PIP.splitlines(), shown.append)
    assert shown == [
        "0 packages, 0 MB: looking for botocore>=1.40",
        "1 packages, 14 MB: botocore",
        "2 packages, 15 MB: cbor2",
        "writing 2 packages",
    ]
    assert tail[-1].startswith("Successfully installed")


@pytest.mark.parametrize(
    ("printed", "message", "hint"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full", "500 MB"),
        ("PermissionError: [Errno 13] Permission denied: '/x'", "may not write", "TMPDIR"),
        ("SSLError(SSLCertVerificationError(1, '...", "certificate", "PIP_CERT"),
        (
            "ERROR: Could not find a version that satisfies setuptools>=77 (from versions: none)",
            "index cannot be reached",
            "PIP_INDEX_URL",
        ),
        ("error: subprocess-exited-with-error", "could not be installed", "lines above"),
    ],
)
def test_each_failure_of_pip_has_its_hint(printed: str, message: str, hint: str) -> None:
    error = set_up.explain(["Collecting x", printed])
    assert message in str(error)
    assert hint in error.hint
    assert printed in error.detail


def make(tree: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `make setup` in a folder with no more than what it needs to begin."""
    for name in ("Makefile", "pyproject.toml", "tests/programs/set_up.py"):
        copy = tree / name
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    path = f"{os.path.dirname(sys.executable)}:/usr/local/bin:/usr/bin:/bin"  # noqa: PTH120
    return subprocess.run(
        ["make", "--no-print-directory", "setup", f"PYTHON={sys.executable}", *words],
        cwd=tree,
        env={"HOME": str(tree), "PATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT,
        check=False,
    )


def complaint(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode != 0
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if line.startswith(("make: error:", "make: hint:"))]


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    """As an unwritable tree, but for root as well: root may write everywhere."""
    (tmp_path / ".venv").write_text("a file")
    error, hint = complaint(make(tmp_path))
    assert error == f"make: error: cannot write in {tmp_path}: File exists"
    assert "clone it" in hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_tree_is_named(tmp_path: Path) -> None:
    make(tmp_path, "PYTHON=false")
    tmp_path.chmod(0o555)
    try:
        error, hint = complaint(make(tmp_path))
    finally:
        tmp_path.chmod(0o755)
    assert error == f"make: error: cannot write in {tmp_path}: Permission denied"
    assert "venv" not in hint


def test_a_python_without_venv_names_its_package(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nexport PYTHONPATH={tmp_path}/without\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    (tmp_path / "without").mkdir()
    (tmp_path / "without/ensurepip.py").write_text("raise ImportError")
    error, hint = complaint(make(tmp_path, f"PYTHON={python}"))
    assert error.endswith("cannot make virtual environments: it has no ensurepip")
    assert re.fullmatch(r"make: hint: on Debian, apt-get install python3(\.\d+)?-venv", hint)


def test_no_python_is_not_an_old_python(tmp_path: Path) -> None:
    error, hint = complaint(make(tmp_path, "PYTHON=python-nowhere"))
    assert error == "make: error: no python-nowhere"
    assert "apt-get install" in hint


@pytest.mark.long
def test_a_dead_index_is_named(tmp_path: Path) -> None:
    done = make(
        tmp_path,
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_RETRIES="0",
        PIP_CONFIG_FILE="/dev/null",
    )
    error, hint = complaint(done)
    assert error.startswith("make: error: the package index cannot be reached")
    assert "PIP_INDEX_URL" in hint


def test_make_run_installs_what_each_program_needs() -> None:
    """README says that all four programs are there then."""
    needed = {
        extra
        for folder in ("vsock_proxy", "parent", "enclave_simulator")
        for path in (ROOT / folder).rglob("*.py")
        for extra in re.findall(r'\brequire\("(\w+)"', path.read_text(encoding="utf-8"))
    }
    assert needed == set(set_up.EXTRAS["run"].split(","))
    assert set_up.EXTRAS.keys() == set_up.COST.keys()


def test_the_packages_of_the_clean_room_are_those_of_readme() -> None:
    assert clean.needed_packages() == ["python3-venv", "make"]


def test_help_fits_80_columns() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT, capture_output=True, text=True, timeout=TEST_TIMEOUT, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(lines) == len(targets)
    assert [line for line in lines if len(line) > 80] == []
    column = {re.match(r"  make [a-z-]+ +", line).end() for line in lines}  # type: ignore[union-attr]
    assert len(column) == 1
