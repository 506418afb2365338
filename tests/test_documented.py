"""docs/testing.md: its example is a test file that passes as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

from enclave_simulator.kms.faults import FAULTS
from tests.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENT = (ROOT / "docs/testing.md").read_text(encoding="utf-8")


def test_the_example_of_the_fixtures_passes(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    (tmp_path / "test_example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"{example.count('def test_')} passed" in done.stdout


def test_the_faults_it_names_exist() -> None:
    injected = re.findall(r'faults\.inject\("([a-z-]+)', DOCUMENT)
    assert injected
    assert set(injected) <= set(FAULTS)
