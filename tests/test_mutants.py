"""``make mutants``: what it reads and writes. The mutants themselves take minutes."""

from __future__ import annotations

import configparser
import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from enclave.kms import signing
from tests.paths import ROOT
from tests.programs.mutants import equivalent
from tests.programs.mutants.__main__ import of_module
from tests.programs.mutants.cold import empty_caches
from tests.programs.mutants.equivalent import Change
from tests.programs.mutants.modules import MODULES
from tests.programs.mutants.run import Result, read_mutants, settings

if TYPE_CHECKING:
    from pathlib import Path

ENTRY = """\
# A comment.

enclave/recipient/cms.py parse
- if length > 1:
+ if length >= 1:
= no envelope has one byte,
= as the line above says
"""
CHANGE = Change("enclave/recipient/cms.py parse", ("if length > 1:",), ("if length >= 1:",))


def test_files_and_tests_of_the_modules_exist() -> None:
    for module in MODULES.values():
        for path in (*module.files, *module.tests):
            assert (ROOT / path).exists(), path


def test_an_entry_is_read() -> None:
    read = equivalent.read(ENTRY)
    assert read == {CHANGE: "no envelope has one byte, as the line above says"}
    assert of_module("cms", read) == {CHANGE}
    assert of_module("ber", read) == set()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ENTRY.partition("=")[0], "no reason"),
        ("file function\n= reason", "no change"),
        (ENTRY.replace("+ ", "* "), "not a line"),
    ],
)
def test_an_entry_without_reason_or_change_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        equivalent.read(text)


def test_every_equivalent_mutant_is_of_a_module_and_of_code_that_is_there() -> None:
    known = equivalent.read(equivalent.FILE.read_text(encoding="utf-8"))
    files = {file for module in MODULES.values() for file in module.files}
    for change in known:
        file, _, function = change.function.partition(" ")
        assert file in files, file
        code = (ROOT / file).read_text(encoding="utf-8")
        assert f"def {function.rpartition('.')[2]}(" in code, change.function
        lines = {line.strip() for line in code.splitlines()}
        assert set(change.removed) <= lines, change


def test_what_mutmut_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cms.py"
    path.write_text(
        "def x_parse__mutmut_orig(length):\n    if length > 1:\n        pass\n"
        "def x_parse__mutmut_1(length):\n    if length >= 1:\n        pass\n"
        "def x_parse__mutmut_2(length):\n    if length > 2:\n        pass\n"
    )
    spans = {"orig": [1, 3], "1": [4, 6], "2": [7, 9]}
    (tmp_path / "cms.py.spans").write_text(
        json.dumps({"spans": {f"x_parse__mutmut_{name}": span for name, span in spans.items()}})
    )
    codes = {"a.x_parse__mutmut_1": 0, "a.x_parse__mutmut_2": 1}
    (tmp_path / "cms.py.meta").write_text(json.dumps({"exit_code_by_key": codes}))
    result = Result()
    read_mutants(tmp_path, "cms.py", result)
    assert result.counts == Counter(killed=1, survived=1)
    assert list(result.survivors) == [
        Change("cms.py parse", ("if length > 1:",), ("if length >= 1:",))
    ]


def test_what_was_cached_before_a_mutant_does_not_hide_it() -> None:
    assert signing._host_and_path("https://localhost/a/../b") == ("localhost", "/b")
    assert signing._host_and_path.cache_info().currsize
    empty_caches()
    assert not signing._host_and_path.cache_info().currsize


def test_settings_are_those_of_the_module() -> None:
    parser = configparser.ConfigParser()
    parser.read_string(settings(MODULES["cms"]))
    assert parser["mutmut"]["only_mutate"].split() == ["enclave/recipient/cms.py"]
    assert "no:randomly" in parser["mutmut"]["pytest_add_cli_args"].split()
