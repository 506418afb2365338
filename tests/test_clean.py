"""tests/programs/clean.py: a suite that cannot be made has its reason, and hides no failure."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.programs import clean

if TYPE_CHECKING:
    from pathlib import Path

EXPIRED = """\
I: running apt-get update...
Reading package lists...
E: Release file for http://mirror.example/dists/forky/InRelease is expired (invalid since 21d).
E: apt-get update --error-on=any failed
I: removing tempdir /tmp/mmdebstrap.N26dIuJDvP...
E: mmdebstrap failed to run
"""


def failed(said: str) -> subprocess.CalledProcessError:
    return subprocess.CalledProcessError(25, ["mmdebstrap"], stderr=said)


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Suites that can be made, and whether their commands succeed there."""
    suites: dict[str, bool] = {}

    def make_room(suite: str, root: Path, python: str) -> None:
        del root
        if suite + python not in suites:
            raise failed(EXPIRED)

    def enter(suite: str, root: Path, command: str, python: str) -> bool:
        del root, command
        return suites[suite.partition(":")[0] + python]

    monkeypatch.setattr(clean, "missing", str)
    monkeypatch.setattr(clean, "make_room", make_room)
    monkeypatch.setattr(clean, "enter", enter)
    return suites


def test_the_reason_is_the_first_error() -> None:
    expired = "Release file for http://mirror.example/dists/forky/InRelease is expired"
    assert clean.why(failed(EXPIRED)).startswith(expired)
    assert clean.why(failed("useradd: user exists\n")) == "useradd: user exists"


def test_a_suite_that_cannot_be_made_is_skipped_and_the_next_is_tried(
    rooms: dict[str, bool], capsys: pytest.CaptureFixture[str]
) -> None:
    rooms["trixie"] = True
    assert clean.main(["forky", "trixie"]) == clean.SKIPPED
    printed = capsys.readouterr().out
    assert "SKIPPED: forky cannot be made: Release file for" in printed
    assert printed.endswith("test-clean: not tried: forky\n")
    assert clean.main(["trixie"]) == 0


def test_a_suite_is_tried_with_the_python_named(
    rooms: dict[str, bool], capsys: pytest.CaptureFixture[str]
) -> None:
    rooms["sidpython3.15"] = True
    assert clean.main(["sid:python3.15"]) == 0
    assert capsys.readouterr().out == "test-clean: passed\n"


@pytest.mark.parametrize("suites", [["bookworm", "forky"], ["forky", "bookworm"]])
def test_a_suite_that_cannot_be_made_hides_no_failure(
    rooms: dict[str, bool], suites: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rooms["bookworm"] = False
    assert clean.main(suites) == 1
    assert capsys.readouterr().out.endswith("failed: make run in bookworm\n")


def test_an_old_archive_is_taken_where_this_machines_apt_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert clean.age() == []
    apt_config = tmp_path / "apt-config"
    apt_config.write_text("#!/bin/sh\necho 'Acquire::Check-Valid-Until \"false\";'\n")
    apt_config.chmod(0o755)
    assert clean.age() == ['--aptopt=Acquire::Check-Valid-Until "false"']
    apt_config.write_text("#!/bin/sh\n")
    assert clean.age() == []
