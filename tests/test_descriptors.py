"""The test that left a socket open is named, not only the one that was blamed."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

TESTS = """\
import gc, socket

gc.disable()  # otherwise it may find the cycle sooner

def test_guilty():
    cycle = list(socket.socketpair())
    cycle.append(cycle)

def test_harmless():
    pass

def test_blamed():
    gc.collect()
"""


def test_the_guilty_test_is_named(tmp_path: Path) -> None:
    (tmp_path / "test_three.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.descriptors", "-p", "no:randomly",
         "-p", "no:cacheprovider", "-W", "error", f"--rootdir={tmp_path}", "-c", "/dev/null",
         str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=TEST_TIMEOUT, check=False,
    )  # fmt: skip
    assert "1 failed, 2 passed" in done.stdout, done.stdout
    named = done.stdout[done.stdout.index("test_blamed") :]
    assert named.count("open since") == 2
    assert "test_three.py::test_guilty" in named
