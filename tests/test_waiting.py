"""How long tests wait for programs."""

from __future__ import annotations

import ast
import re
import tomllib

from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT

WAITS = {"run", "check_output", "communicate", "wait"}


def test_no_program_gets_a_deadline_of_its_own() -> None:
    """A number that is enough on a quiet machine is too little on a busy one."""
    found = []
    for path in (ROOT / "tests").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "programs" in path.parts or not re.search(r"\btimeout=\d\d", text):
            continue
        found += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in WAITS
            for each in node.keywords
            if each.arg == "timeout"
            and isinstance(each.value, ast.Constant)
            and float(each.value.value) >= 10  # type: ignore[arg-type] # a number
        ]
    assert not found, "timeout=TEST_TIMEOUT (tests/waiting.py)"


def test_pytest_waits_longest() -> None:
    read = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert read["tool"]["pytest"]["ini_options"]["timeout"] >= 3 * TEST_TIMEOUT
