"""SECURITY.md: every test that holds a promise exists."""

from __future__ import annotations

import ast
import re

from tests.paths import ROOT

DOCUMENT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def promises() -> list[tuple[str, str]]:
    """Return the rows of the promises: the promise, and what holds it."""
    section = re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)[2]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [(row[0].strip(), row[-1]) for row in rows[2:]]


def test_every_promise_is_held_by_tests_that_exist() -> None:
    found = promises()
    assert len(found) > 20, "the test looks where there is nothing"
    for promise, held_by in found:
        tests = re.findall(r"`(tests/[a-z_/]+\.py)::(test_[a-z0-9_]+)`", held_by)
        assert tests, promise
        for path, name in tests:
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert name in names, f"{path}::{name}"
