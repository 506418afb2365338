"""Images with Debian's kernel: what goes into them. That they boot: ``make boot-test``."""

from __future__ import annotations

import lzma
import re
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from parent import cli
from parent.eif import debian
from tests.parent.eif import archives
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

RELEASE = "6.12.9+deb13-cloud-amd64"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Debian's packages as they are unpacked, with nothing real in them."""
    folder = tmp_path / "cache"
    modules = folder / "kernel/usr/lib/modules" / RELEASE / "kernel"
    for name in debian._MODULES:
        (modules / name).parent.mkdir(parents=True, exist_ok=True)
        (modules / f"{name}.ko.xz").write_bytes(lzma.compress(name.encode()))
    (folder / "kernel/boot").mkdir()
    (folder / "kernel/boot" / f"vmlinuz-{RELEASE}").write_bytes(archives.bzimage(RELEASE))
    (folder / "busybox/usr/bin").mkdir(parents=True)
    (folder / "busybox/usr/bin/busybox").write_bytes(b"busybox")
    (tmp_path / "root/bin").mkdir(parents=True)
    (tmp_path / "root/bin/app").write_bytes(archives.elf())
    (tmp_path / "root/bin/app").chmod(0o755)
    return folder


def test_the_first_ramdisk(cache: Path) -> None:
    entries = {entry.path: entry for entry in debian.find(cache).boot_ramdisk()}
    assert b"".join(entries["modules/1.ko"].content()) == b"drivers/misc/nsm"
    assert stat.S_ISCHR(entries["dev/console"].mode)
    for name in ("init", "bin/busybox", "bin/vsock-9000", "bin/vsock-9001"):
        assert entries[name].mode & 0o111
    script = b"".join(entries["init"].content()).decode()
    for program in re.findall(r"/bin/vsock-\d+", script):
        assert program[1:] in entries


def test_packages_of_another_architecture_are_apart(cache: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"kernel is not in .*/aarch64") as caught:
        debian.find(cache, architecture="aarch64")
    assert "setup-machine --kernel --arch aarch64" in caught.value.hint
    assert debian.find(cache).architecture == "x86_64"


def test_what_is_missing_is_named_with_what_gets_it(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="kernel is not in") as caught:
        debian.find(tmp_path / "empty")
    assert "setup-machine --kernel" in caught.value.hint
    found = debian.find(cache)
    module = found.modules / "kernel/drivers/misc/nsm.ko.xz"
    module.write_bytes(b"damaged")
    with pytest.raises(ConfigurationError, match=r"nsm.ko.xz cannot be decompressed"):
        found.boot_ramdisk()
    module.unlink()
    with pytest.raises(ConfigurationError, match=r"cannot read .*nsm.ko.xz"):
        found.boot_ramdisk()


def test_init_is_a_script_that_a_shell_reads() -> None:
    done = subprocess.run(["sh", "-n"], input=debian.INIT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_building(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = ["build-eif", "--kernel", "debian", f"--cache={cache}", f"--rootfs={tmp_path}/root",
             f"--output={tmp_path}/out.eif"]  # fmt: skip
    assert cli.main([*build, "--", "/bin/app"]) == 0
    first = (tmp_path / "out.eif").read_bytes()
    assert RELEASE.encode() in first
    assert debian.CMDLINE.encode() in first
    assert cli.main([*build, "--cmdline", "quiet loglevel=7", "--", "/bin/app"]) == 0
    assert debian.CMDLINE.encode() not in (tmp_path / "out.eif").read_bytes()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["--kernel", "debian", "--rootfs", "root", "--init", "x"],
            "do not go with --kernel debian",
        ),
        (["--kernel", "debian"], "needs a root file system"),
        (["--kernel", "bzImage", "--rootfs", "root"], "--cmdline is missing"),
        (["--kernel", "debian", "--rootfs", "root", "--cache", "none"], "kernel is not in none"),
    ],
)
def test_options_that_do_not_fit(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["build-eif", *arguments, "--output", "out.eif", "--", "/bin/app"]) == 1
    assert reason in capsys.readouterr().err
