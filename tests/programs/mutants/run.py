"""Runs mutmut over a module in a copy of the checkout, and reads what it found."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.paths import ROOT
from tests.programs.mutants.equivalent import Change

if TYPE_CHECKING:
    from tests.programs.mutants.modules import Module

FOLDER = ROOT / ".mutants"
_COPIED = ("enclave", "vsock_proxy", "enclave_simulator", "parent", "tests", "docs")

NOT_MUTATED = (
    # What an error says is for people; that it is raised, and its type, is what tests are for.
    r"^\s*raise\b",
    r"^\s*(yield|failures\.append\()\s*\(?f?\"",
    r"^\s*yield \($",
    r"\bhint=",
    r"^\s*log\.",
    # f-strings that go on over a line.
    r"^\s*f?\".*\"\)?,?$",
    r"^\s*(if|else) .* else f?\"",
)
"""Lines whose expressions are left alone."""

_CONFTEST = """

from hypothesis import settings as _settings

from tests.programs.mutants.cold import empty_caches as _empty_caches

_settings.register_profile("mutants", max_examples=30, derandomize=True, database=None)
_settings.load_profile("mutants")


def pytest_runtest_setup() -> None:
    _empty_caches()
"""
"""The same examples for every mutant, and fewer: the plain tests should notice. And for every test
caches that hold nothing from before the mutant.
"""

_SURVIVED, _KILLED, _TIMEOUT = 0, (1, 3, 37), (36, 24, -24, 152, 255)


@dataclass
class Result:
    """What came of a module's mutants.

    Attributes:
        counts: killed, survived, timeout, untested or other, of all.
        survivors: each, with how often: some mutants are the same.
    """

    counts: Counter[str] = field(default_factory=Counter)
    survivors: Counter[Change] = field(default_factory=Counter)


def run(name: str, module: Module, *, children: int) -> Result:
    """Mutate a module and run its tests against each mutant.

    Raises:
        RuntimeError: mutmut failed, for example since a test fails without any mutation.
    """
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for copied in _COPIED:
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / copied, folder / copied, ignore=ignored)
    for copied in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / copied, folder / copied)
    (folder / "setup.cfg").write_text(settings(module))
    with (folder / "tests/conftest.py").open("a") as conftest:
        conftest.write(_CONFTEST)
    done = subprocess.run(
        [
            sys.executable, str(folder / "tests/programs/mutants/without_texts.py"), "run",
            "--max-children", str(children),
        ],
        cwd=folder, check=False, capture_output=True,
        env={**os.environ, "PYTHONPATH": f"{FOLDER / 'site'}"},
    )  # fmt: skip
    result = Result()
    # Of a file that mutmut did not come to there is none: it failed.
    is_done = all((folder / "mutants" / f"{file}.meta").exists() for file in module.files)
    for file in module.files if is_done else ():
        read_mutants(folder / "mutants", file, result)
    if not result.counts or result.counts["not run"]:
        output = (done.stdout + done.stderr).decode(errors="replace").replace("\r", "\n")
        raise RuntimeError(f"mutmut ended with {done.returncode}:\n{output[-3000:]}")
    return result


def settings(module: Module) -> str:
    """Return mutmut's settings, setup.cfg of the copy."""
    lists = {
        "source_paths": [str(Path(module.files[0]).parent)],
        "only_mutate": module.files,
        "also_copy": [*_COPIED, "README.md"],
        # The same tests in the same order for every mutant.
        "pytest_add_cli_args": [
            "-p", "no:randomly", "-p", "no:xdist", "-p", "no:cacheprovider", "-x",
            # mutmut ends what takes too long, by CPU time: a busy machine is no mutant's fault.
            "--timeout=0",
        ],
        "pytest_add_cli_args_test_selection": module.tests,
        "do_not_mutate_patterns": NOT_MUTATED,
    }  # fmt: skip
    text = "[mutmut]\ntrack_dependencies = false\nuse_git_change_detection = false\n"
    for key, values in lists.items():
        text += f"{key} =\n" + "".join(f"    {value}\n" for value in values)
    return text


def read_mutants(folder: Path, file: str, result: Result) -> None:
    """Add the mutants of one file to a result."""
    path = folder / file
    codes = json.loads(path.with_name(path.name + ".meta").read_text())["exit_code_by_key"]
    spans = json.loads(path.with_name(path.name + ".spans").read_text())["spans"]
    lines = path.read_text(encoding="utf-8").splitlines()
    for key, code in codes.items():
        if code is None:
            result.counts["not run"] += 1
        elif code in _KILLED:
            result.counts["killed"] += 1
        elif code in _TIMEOUT:
            result.counts["timeout"] += 1
        elif code == _SURVIVED:
            result.counts["survived"] += 1
            name = key.rpartition(".")[2]
            result.survivors[_change(file, name, spans, lines)] += 1
        else:
            result.counts["untested"] += 1
            name = key.rpartition(".")[2]
            result.survivors[_change(file, name, spans, lines)] += 1


def _change(file: str, name: str, spans: dict[str, list[int]], lines: list[str]) -> Change:
    """Return what a mutant changes. mutmut keeps the function once as it was, and once for each."""
    original = name.rpartition("__mutmut_")[0] + "__mutmut_orig"
    before, after = (
        [line.strip().replace(each, "") for line in lines[spans[each][0] - 1 : spans[each][1]]]
        for each in (original, name)
    )
    diff = list(difflib.unified_diff(before, after, lineterm="", n=0))[2:]
    # x_name, or xǁClassǁname.
    function = ".".join(re.split("ǁ", original.removesuffix("__mutmut_orig"))).removeprefix("x")
    function = function.removeprefix("_" if "." not in function else ".")
    return Change(
        f"{file} {function}",
        tuple(line[1:] for line in diff if line.startswith("-")),
        tuple(line[1:] for line in diff if line.startswith("+")),
    )
