"""setup-machine --kernel and --kms-ca: what they make, and leave alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from enclave_simulator.cli import main
from enclave_simulator.machine import debian, kernel, qemu

if TYPE_CHECKING:
    from pathlib import Path


class Packages:
    """Debian's, without a mirror."""

    def __init__(
        self, folder: Path, *, architecture: str, mirror: str | None, report: object
    ) -> None:
        assert mirror == "http://mirror"
        assert callable(report)
        self.architecture = architecture
        self.folder = folder

    def update(self) -> None:
        unpacked.append("update")

    def latest(self, name: str) -> str:
        return f"{name}-6.12"

    def unpack(self, names: list[str], into: Path, *, dependencies: bool) -> None:
        assert not dependencies
        unpacked.extend(names)
        into.mkdir(parents=True)


unpacked: list[str] = []


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked.clear()
    monkeypatch.setattr(debian, "Packages", Packages)
    monkeypatch.setattr(qemu, "set_up", lambda *_, **__: None)
    monkeypatch.setattr(qemu, "find", lambda system, **_: ["qemu", "-M", system])


def test_what_is_there_is_not_downloaded_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["setup-machine", f"--cache={tmp_path}", "--mirror=http://mirror"]
    assert main(arguments) == 0
    assert unpacked == []
    assert main([*arguments, "--kernel"]) == 0
    both = ["linux-image-cloud-amd64-6.12", "busybox-static"]
    assert unpacked == ["update", *both]
    assert {"kernel", "busybox"} <= {path.name for path in tmp_path.iterdir()}
    assert main([*arguments, "--kernel"]) == 0
    assert unpacked == ["update", *both]
    (tmp_path / "busybox").rmdir()
    kernel.set_up(tmp_path, mirror="http://mirror")
    assert unpacked[3:] == ["update", "busybox-static"]
    assert capsys.readouterr().out == "qemu -M microvm\n" * 3


def test_each_architecture_has_its_kernel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["setup-machine", f"--cache={tmp_path}", "--mirror=http://mirror", "--kernel"]
    assert main([*arguments, "--arch=aarch64"]) == 0
    assert unpacked == ["update", "linux-image-cloud-arm64-6.12", "busybox-static"]
    assert {path.name for path in (tmp_path / "aarch64").iterdir()} == {"kernel", "busybox"}
    assert capsys.readouterr().out == "qemu -M virt\n"


def test_an_authority_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "sim"
    arguments = ["setup-machine", f"--cache={tmp_path}", f"--kms-ca={folder}"]
    assert main(arguments) == 0
    key, certificate = (folder / "ca.key").read_bytes(), (folder / "ca.pem").read_bytes()
    loaded = x509.load_pem_x509_certificate(certificate)
    assert loaded.public_key() == load_pem_private_key(key, None).public_key()
    assert (folder / "ca.key").stat().st_mode & 0o777 == 0o600
    assert main(arguments) == 0
    assert (folder / "ca.pem").read_bytes() == certificate


def test_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["setup-machine", f"--cache={tmp_path}", f"--kms-ca={tmp_path}/file/x"]) == 1
    assert "cannot write" in capsys.readouterr().err
