"""A very short ``make fuzz``: seeds, what was found once, and a few mutations without coverage."""

from __future__ import annotations

import base64
import dataclasses
import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.paths import ROOT
from tests.programs.fuzz import __main__ as fuzz
from tests.programs.fuzz import kept, under_atheris
from tests.programs.fuzz.found import FOUND
from tests.programs.fuzz.target import Feed, Target, mutate, pieces
from tests.programs.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from pathlib import Path

MUTATIONS = 60


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_only_documented_errors(target: Target) -> None:
    choose = random.Random(0)  # noqa: S311 (nothing secret: the same each time)
    seeds = [*target.seeds(), *kept.load(target.name), *FOUND.get(target.name, ())]
    for data in seeds:
        assert len(data) <= target.max_length
        target.run(data)
    for _ in range(MUTATIONS):
        target.run(mutate(choose.choice(seeds), target.words, choose)[: target.max_length])


def test_what_was_found_and_kept_belongs_to_targets() -> None:
    assert set(FOUND) <= set(TARGETS)
    assert {path.stem for path in kept.FOLDER.glob("*")} <= set(TARGETS)


def test_what_is_kept_goes_further_than_the_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "FOLDER", tmp_path / "kept")
    further = min(TARGETS["ber"].seeds(), key=len)
    target = dataclasses.replace(TARGETS["ber"], seeds=lambda: [b""])
    inputs = [b"", further, further + b"\0", further.ljust(kept.MAX_LENGTH + 1, b"\0")]
    chosen = kept.worth_keeping(target, inputs)
    assert further in chosen
    assert b"" not in chosen
    assert inputs[-1] not in chosen
    assert kept.worth_keeping(dataclasses.replace(target, seeds=lambda: chosen), inputs) == []

    kept.save("ber", chosen)
    assert kept.load("ber") == chosen
    kept.save("ber", [])
    assert kept.load("ber") == []
    assert not list(kept.FOLDER.iterdir())


def test_no_more_is_kept_than_is_run_with_each_test_run(monkeypatch: pytest.MonkeyPatch) -> None:
    target = dataclasses.replace(TARGETS["ber"], seeds=lambda: [b""])
    inputs = TARGETS["ber"].seeds()
    assert len(kept.worth_keeping(target, inputs)) > 1
    monkeypatch.setattr(kept, "MAX_INPUTS", 1)
    assert len(kept.worth_keeping(target, inputs)) == 1


def _breaks(data: bytes) -> None:
    if data[:1] != b"a":
        raise KeyError(data[:1])


BROKEN = Target(name="broken", run=_breaks, seeds=lambda: [b"aaaa"], packages=("enclave",))


def test_an_undocumented_error_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = fuzz.without_atheris(BROKEN, 50, seed=1)
    (finding,) = outcome.findings
    (path,) = (tmp_path / ".fuzz/found/broken").iterdir()
    data = path.read_bytes()
    assert data[:1] != b"a"
    assert base64.b64encode(data).decode() in finding
    assert "KeyError" in finding


def test_an_input_that_takes_too_long_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_atheris, "CPU", 0.0)
    with pytest.raises(AssertionError, match="s of CPU for 4 bytes"):
        under_atheris.within_bounds(BROKEN, b"aaaa")


def test_one_input_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"\x01")
    command = [sys.executable, "-m", "tests.programs.fuzz", "cbor", "--input", str(path)]
    done = subprocess.run(
        command, cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_an_input_is_taken_apart_from_its_end() -> None:
    feed = Feed(b"start\x01\x02")
    assert (feed.byte(), feed.byte(), feed.rest()) == (2, 1, b"start")
    assert Feed(b"").byte() == 0
    assert pieces(b"abcde", 2) == [b"ab", b"cd", b"e"]
    assert pieces(b"abcde", 0) == [b"abcde"]
