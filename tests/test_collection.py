"""The tests have the same names in every process: pytest-xdist runs none where they differ."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT

_COLLECT = """
import sys
import time

later, now = float(sys.argv[1]), time.time
time.time = lambda: now() + later

import pytest

plugins = ["-p", "no:randomly", "-p", "no:cacheprovider"]
sys.exit(pytest.main(["--collect-only", "-q", "-m", "", *plugins]))
"""


@pytest.mark.long
def test_names_do_not_depend_on_the_moment_or_the_process() -> None:
    """A parameter's name is its text: a time in it, or the order of a set, makes another one."""

    def collect(later: float, seed: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _COLLECT, str(later)],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": seed, "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            text=True,
        )

    found = []
    for process in (collect(0.0, "1"), collect(86_400.0, "2")):
        output, _ = process.communicate(timeout=TEST_TIMEOUT)
        assert process.returncode == 0, output[-2000:]
        found.append({line for line in output.splitlines() if "::" in line})
    assert len(found[0]) > 1000
    assert found[0] ^ found[1] == set()
