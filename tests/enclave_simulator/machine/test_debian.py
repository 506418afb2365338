"""Packages unpacked with apt-get and dpkg-deb, each played by a script."""

from __future__ import annotations

import os
import pty
import tty
from typing import TYPE_CHECKING

import pytest

from enclave_simulator.machine import debian
from enclave_simulator.machine.errors import MachineError, UnavailableError
from parent import files

if TYPE_CHECKING:
    from pathlib import Path

APT_GET = """\
case "$*" in
*" install "*)
  echo "Reading package lists..."
  echo "dlstatus:1:7.5000:Retrieving file 1 of 2"
  echo "dlstatus:2:100.0000:Retrieving file 2 of 2"
  touch one_1.0_amd64.deb two_2.0_amd64.deb;;
*" update "*) echo "dlstatus:1:50.0000:Running";;
esac
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the two programs, alone in PATH but for the system's."""
    folder = tmp_path / "tools"
    folder.mkdir()
    write(folder / "apt-get", APT_GET)
    write(folder / "dpkg-deb", 'touch "$3/$(basename "$2")"')
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    (tmp_path / "keys").touch()
    monkeypatch.setattr(debian, "KEYRING", tmp_path / "keys")
    return folder


def write(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.usefixtures("tools")
def test_each_step_is_reported(tmp_path: Path) -> None:
    reported: list[str] = []
    packages = debian.Packages(tmp_path / "apt", mirror="http://mirror", report=reported.append)
    packages.update()
    packages.unpack(["one"], tmp_path / "unpacked")
    assert reported == [
        "lists of packages",
        "lists of packages: 50 %",
        "downloading one",
        "downloading one: 7 %",
        "downloading one: 100 %",
        "unpacking 1 of 2: one",
        "unpacking 2 of 2: two",
    ]
    held = {path.name for path in (tmp_path / "unpacked").iterdir()}
    assert held == {"one_1.0_amd64.deb", "two_2.0_amd64.deb"}


def test_a_program_that_fails_is_heard(tools: Path, tmp_path: Path) -> None:
    write(tools / "apt-get", "echo 'E: no such package' >&2; exit 100")
    packages = debian.Packages(tmp_path / "apt", mirror="http://mirror")
    with pytest.raises(UnavailableError) as raised:
        packages.update()
    assert raised.value.hint == "E: no such package"
    with pytest.raises(MachineError, match="apt-get ended with 100"):
        packages.unpack(["one"], tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_a_program_that_hangs_is_ended(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tools / "apt-get", "exec sleep 1000")
    monkeypatch.setattr(debian, "_WITHIN", 0.1)
    with pytest.raises(UnavailableError) as raised:
        debian.Packages(tmp_path / "apt", mirror="http://mirror").update()
    assert "took longer than 0.1 s" in str(raised.value.__cause__)
    write(tools / "apt-cache", "exec sleep 1000")
    with pytest.raises(MachineError, match="apt-cache took longer than"):
        debian.Packages(tmp_path / "apt").latest("linux")
    with pytest.raises(UnavailableError, match="no mirror: apt-get took longer than"):
        debian.Packages(tmp_path / "apt").update()


def test_a_package_is_followed_to_the_one_it_depends_on(tools: Path, tmp_path: Path) -> None:
    write(tools / "apt-cache", 'echo "linux-image"; echo "  Depends: linux-image-6.12"')
    packages = debian.Packages(tmp_path / "apt")
    assert packages.latest("linux-image") == "linux-image-6.12"
    write(tools / "apt-cache", 'echo "busybox-static"')
    with pytest.raises(MachineError, match="no package busybox-static in trixie"):
        packages.latest("busybox-static")


def test_the_line_of_a_terminal_is_replaced_and_taken_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    with os.fdopen(master, "rb", buffering=0) as reader, os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setenv("COLUMNS", "20")
        monkeypatch.setenv("TERM", "xterm")
        with files.status_line() as show:
            show("downloading a package of a long name")
            show("\x1b[31mred")
        monkeypatch.setenv("TERM", "dumb")
        with files.status_line() as show:
            show("nothing is shown")
        terminal.write("\n")
        terminal.flush()
        shown = b""
        while not shown.endswith(b"\n"):
            shown += reader.read(4096)
    assert shown == b"\r\x1b[Kdownloading a packa\r\x1b[K\\x1b[31mred\r\x1b[K\n"
