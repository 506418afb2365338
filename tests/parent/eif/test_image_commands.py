"""build-eif, sign-eif, describe-eif and pcr as commands: what they refuse, and what they tell."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from parent import cli
from parent.eif import cpio_reader, image
from parent.eif.layout import SectionType
from tests.parent.eif import archives, eifs
from tests.parent.eif.archives import member

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

    from tests.parent.conftest import Identity

STATIC = archives.elf()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, identity: Identity) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "bzImage": archives.bzimage("6.12.1-test"),
        "init": STATIC,
        "nsm.ko": archives.elf(kind=1, tail=b"vermagic=6.12.1-test SMP"),
        "dynamic": archives.elf(interpreter="/lib64/ld.so"),
        "arm": archives.elf(machine=183),
        "ramdisk": b"ramdisk",
        "certificate.pem": identity.pem,
        "key.pem": identity.key_pem,
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "root/bin").mkdir(parents=True)
    (tmp_path / "root/bin/app").write_bytes(STATIC)
    (tmp_path / "root/bin/app").chmod(0o755)
    return tmp_path


BUILD = ["build-eif", "--kernel", "bzImage", "--cmdline", "console=ttyS0", "--output", "out.eif"]
WITH_INIT = [*BUILD, "--init", "init", "--nsm-module", "nsm.ko"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], str]:
    assert cli.main(arguments) == 0, capsys.readouterr().err
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err


def application(path: Path) -> dict[str, cpio_reader.Member]:
    with path.open("rb") as stream:
        read = image.read(stream)
        section = read.of_type(SectionType.RAMDISK)[-1]
        ramdisk = cpio_reader.read(image.chunks(stream, section))
    return {each.path: each for each in ramdisk.members}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"ramdisk", True),
        (b".eif", True),
        (STATIC, True),
        (b"070707", True),
        (b"070701", False),
        (bytes(4) + b"070701", False),
        (bytes(512), False),
        (gzip.compress(b"070701", mtime=0), False),
        (b"\x28\xb5\x2f\xfd", False),
    ],
)
def test_a_ramdisk_that_linux_would_not_take_is_told(
    content: bytes, told: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "ramdisk").write_bytes(content)
    _, complaints = run(capsys, *BUILD, "--ramdisk", "ramdisk")
    assert ("begins like no archive" in complaints) is told


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--output", "bzImage"], "--kernel"),
        (["--output", "./init"], "--init"),
        (["--output", "ramdisk", "--ramdisk", "ramdisk"], "--ramdisk"),
        (["--output", "link", "--nsm-module", "nsm.ko"], "--nsm-module"),
        (["--output", "arm", "--add", "arm:/arm"], "--add"),
        (["--output", "key.pem", "--private-key", "key.pem", "--signing-certificate",
          "certificate.pem"], "--private-key"),
    ],
)  # fmt: skip
def test_what_is_read_is_not_overwritten(
    arguments: list[str], option: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "link").symlink_to("nsm.ko")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    command = [*BUILD, "--init", "init", "--rootfs", "root", *arguments, "--", "/bin/app"]
    assert cli.main(command) == 1
    assert f"{option} names the same file" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("path", ["/bin", "/bin/", "/new/", "/"])
def test_a_file_does_not_replace_a_directory(
    path: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*WITH_INIT, "--rootfs", "root", "--add", f"arm:{path}", "--", "/bin/app"]
    assert cli.main(command) == 1
    complaints = capsys.readouterr().err
    assert f"{path} is a directory" in complaints
    assert f"name the file: {path.rstrip('/')}/arm" in complaints
    assert not (folder / "out.eif").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--kernel", "init"], "the kernel is an uncompressed vmlinux (ELF), not a bzImage"),
        (["--arch", "aarch64"], "--arch aarch64, but the kernel is for x86_64"),
        (["--init", "ramdisk"], "init is not an ELF program"),
        (["--init", "arm"], "init is for aarch64, the kernel for x86_64"),
        (["--init", "dynamic"], "needs /lib64/ld.so, which is in no ramdisk"),
        (["--nsm-module", "init"], "the NSM module is not a kernel module"),
        (["--rootfs", "empty"], "empty is empty: there is no root file system in it"),
        (["--rootfs", "key.pem"], "is neither a folder, a tar nor a container image"),
        (["--rootfs", "root", "--", "/bin/other"], "'/bin/other' is not in the root file system"),
        (["--rootfs", "root"], "no command for the enclave to run"),
        (["--rootfs", "root", "--env", "TOKEN"], "the variable 'TOKEN' has no value"),
    ],
)
def test_what_could_not_boot_is_refused_with_what_would_happen(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    (folder / "empty").mkdir()
    if "--rootfs" not in arguments:
        arguments = [*arguments, "--rootfs", "root", "--", "/bin/app"]
    assert cli.main([*WITH_INIT, *arguments]) == 1
    error = capsys.readouterr().err
    assert f"enclave-parent: error: {reason}" in error or reason in error
    assert "enclave-parent: hint: " in error
    assert not (folder / "out.eif").exists()


def test_a_good_root_needs_no_words(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, told = run(capsys, *WITH_INIT, "--rootfs", "root", "--", "/bin/app")
    assert told == ""
    described, _ = run(capsys, "describe-eif", "out.eif")
    assert described["Metadata"]["KernelVersion"] == "6.12.1-test"
    assert "rootfs/bin/app" in application(folder / "out.eif")


def test_what_may_be_wrong_is_a_warning(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "nsm.ko").write_bytes(archives.elf(kind=1, tail=b"vermagic=4.14.1 SMP"))
    (folder / "root/tmp").mkdir()
    (folder / "root/tmp/\x1b[31m").touch()
    (folder / "init").write_bytes((folder / "dynamic").read_bytes())
    _, told = run(capsys, *WITH_INIT, "--ramdisk", "ramdisk", "--rootfs", "root", "--", "app")
    for warning in (
        "init is not a static program: it needs /lib64/ld.so, which a ramdisk must hold",
        "the NSM module is for Linux 4.14.1, the kernel is 6.12.1-test",
        "/tmp is hidden by init's tmpfs: 1 files",  # noqa: S108
        "the command app is /bin/app in the root file system",
    ):
        assert f"enclave-parent: warning: {warning}" in told
    assert "\x1b" not in told


@pytest.mark.parametrize("form", ["oci.tar", "docker.tar", "oci", "oci.tar.gz"])
def test_a_container_image_is_a_root(
    folder: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    layer = archives.tar(
        member("srv/app", STATIC, mode=0o4755, uid=7, gid=8), member("bin/sh", STATIC, mode=0o755)
    )
    run_as: dict[str, Any] = {
        "Entrypoint": ["./app"],
        "Cmd": ["-v"],
        "Env": ["A=1"],
        "WorkingDir": "/srv",
    }
    if form.startswith("docker"):
        files = archives.docker_files(layer, **run_as)
    else:
        files = archives.oci_files(layer, **run_as)
    path = archives.write(files, folder / form.removesuffix(".gz"))
    if form.endswith(".gz"):
        (folder / form).write_bytes(gzip.compress(path.read_bytes()))
    _, told = run(capsys, *WITH_INIT, "--rootfs", form, "--env", "B=2")
    found = application(folder / "out.eif")
    assert found["cmd"].text.splitlines() == [
        "/bin/sh", "-c", 'cd "$0" && exec "$@"', "/srv", "/srv/app", "-v",
    ]  # fmt: skip
    assert found["env"].text == "A=1\nB=2\n"
    app = found["rootfs/srv/app"]
    assert (app.owner, stat.S_IMODE(app.mode)) == ((7, 8), 0o4755)
    assert "CMD follows ENTRYPOINT" in told
    first = (folder / "out.eif").read_bytes()
    run(capsys, *WITH_INIT, "--rootfs", form, "--env", "B=2")
    assert (folder / "out.eif").read_bytes() == first
    assert not list(folder.glob(".*"))


def test_hard_links_cost_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A busybox of 269 links became 535 MB.
    program = STATIC + bytes(1 << 20)
    (folder / "root/bin/busybox").write_bytes(program)
    (folder / "root/bin/busybox").chmod(0o755)
    for number in range(269):
        (folder / f"root/bin/applet{number}").hardlink_to(folder / "root/bin/busybox")
    run(capsys, *WITH_INIT, "--rootfs", "root", "--", "/bin/applet7")
    assert (folder / "out.eif").stat().st_size < 2 << 20
    found = application(folder / "out.eif")
    assert found["rootfs/bin/applet7"].links == 270
    assert found["rootfs/bin/applet7"].digest == hashlib.sha256(program).hexdigest()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes owners")
def test_owners_are_kept_if_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.chown(folder / "root/bin/app", 7, 8)
    (folder / "root/bin/app").chmod(0o4755)
    build = [*WITH_INIT, "--rootfs", "root"]
    _, told = run(capsys, *build, "--", "/bin/app")
    assert "setuid or setgid is dropped" in told
    assert application(folder / "out.eif")["rootfs/bin/app"].mode & 0o7777 == 0o755
    _, told = run(capsys, *build, "--owners", "keep", "--", "/bin/app")
    assert told == ""
    kept = application(folder / "out.eif")["rootfs/bin/app"]
    assert (kept.mode & 0o7777, kept.owner) == (0o4755, (7, 8))


def test_files_are_added(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = [*WITH_INIT, "--rootfs", "root"]
    run(capsys, *build, "--add", "ramdisk:/etc/x", "--add", "ramdisk:/y", "--", "/bin/app")
    found = application(folder / "out.eif")
    assert found["rootfs/y"].digest == hashlib.sha256(b"ramdisk").hexdigest()
    for wrong, reason in (
        ("ramdisk", "not FILE:PATH"), (":/x", "not FILE:PATH"), ("ramdisk:x", "not FILE:PATH"),
        ("nothing:/x", "cannot read nothing"), ("ramdisk:/../x", "cannot be a path"),
    ):  # fmt: skip
        assert cli.main([*build, "--add", wrong, "--", "/bin/app"]) == 1
        assert reason in capsys.readouterr().err


def certificate(key: ec.EllipticCurvePrivateKey, before: datetime, after: datetime) -> bytes:
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, before, after)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


PAST, FUTURE = datetime(2020, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)
SIGNER = ["--signing-certificate", "certificate.pem", "--private-key", "key.pem"]


def test_an_expired_certificate(
    folder: Path, capsys: pytest.CaptureFixture[str], identity: Identity
) -> None:
    expired = certificate(identity.key, PAST, datetime(2021, 1, 1, tzinfo=UTC))
    (folder / "certificate.pem").write_bytes(expired)
    (folder / "image.eif").write_bytes(eifs.eif())
    for command in (["sign-eif", "image.eif"], [*BUILD, "--ramdisk", "ramdisk"]):
        assert cli.main([*command, *SIGNER]) == 1
        error = capsys.readouterr().err
        assert "the certificate expired on 2021-01-01" in error
        assert "E59" in error
    assert (folder / "image.eif").read_bytes() == eifs.eif()
    # Somebody else signed with it: it is described, and what will happen is told.
    section = eifs.signature(eifs.pcrs()[0], expired, identity.key)
    (folder / "image.eif").write_bytes(eifs.eif([*eifs.SECTIONS, (eifs.SIGNATURE, section)]))
    described, told = run(capsys, "describe-eif", "image.eif")
    assert described["SignatureCheck"] is True
    assert "warning: the certificate expired on 2021-01-01 00:00:00Z: nitro-cli starts no" in told
    assert cli.main(["describe-eif", "--check", "image.eif"]) == 1


def test_a_certificate_of_the_future(
    folder: Path, capsys: pytest.CaptureFixture[str], identity: Identity
) -> None:
    early = certificate(identity.key, datetime(2998, 1, 1, tzinfo=UTC), FUTURE)
    (folder / "certificate.pem").write_bytes(early)
    (folder / "image.eif").write_bytes(eifs.eif())
    _, told = run(capsys, "sign-eif", "image.eif", *SIGNER)
    assert "warning: the certificate is not valid before 2998-01-01 00:00:00Z" in told
    _, told = run(capsys, "describe-eif", "image.eif")
    assert "is not valid before 2998" in told


def test_signing_says_the_same_pcrs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "image.eif").write_bytes(eifs.eif())
    printed, _ = run(capsys, "sign-eif", "image.eif", *SIGNER)
    described, _ = run(capsys, "describe-eif", "--check", "image.eif")
    assert printed["Measurements"] == described["Measurements"]
    again, _ = run(capsys, "sign-eif", "image.eif", *SIGNER)
    assert again == printed


def test_flags_are_told(
    folder: Path, capsys: pytest.CaptureFixture[str], identity: Identity
) -> None:
    parts = [payload for kind, payload in eifs.SECTIONS if kind != eifs.METADATA]
    section = eifs.signature(eifs.pcr(b"\x02\x40", *parts), identity.pem, identity.key)
    data = eifs.eif([*eifs.SECTIONS, (eifs.SIGNATURE, section)], flags=0x240)
    (folder / "image.eif").write_bytes(data)
    described, told = run(capsys, "describe-eif", "image.eif")
    assert described["Pcr0Rule"] == "flags before sections, big-endian"
    assert "only the signature says so" in told


def test_pcr(folder: Path, capsys: pytest.CaptureFixture[str], identity: Identity) -> None:
    (folder / "data").write_bytes(b"data")
    assert run(capsys, "pcr", "--input", "data")[0] == {"PCR": eifs.pcr(b"data").hex()}
    der = identity.certificate.public_bytes(serialization.Encoding.DER)
    of_signer = run(capsys, "pcr", "--signing-certificate", "certificate.pem")[0]
    assert of_signer == {"PCR8": eifs.pcr(der).hex()}
    (folder / "image.eif").write_bytes(eifs.eif())
    signed, _ = run(capsys, "sign-eif", "image.eif", *SIGNER)
    assert signed["Measurements"]["PCR8"] == of_signer["PCR8"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 2),
        (["--input", "data", "--signing-certificate", "certificate.pem"], 2),
        (["--input", "nothing"], 1),
        (["--signing-certificate", "key.pem"], 1),
    ],
)
@pytest.mark.usefixtures("folder")
def test_pcr_of_nothing(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int
) -> None:
    try:
        assert cli.main(["pcr", *arguments]) == status
    except SystemExit as e:
        assert e.code == status  # noqa: PT017 (argparse ends so)
    assert "enclave-parent" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("options", [[], ["--gzip"]])
def test_progress_goes_to_a_terminal_and_covers_the_root(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
) -> None:
    (folder / "root/large").write_bytes(bytes(20 << 20))
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert cli.main([*WITH_INIT, *options, "--rootfs", "root", "--", "/bin/app"]) == 0
    shown = terminal.getvalue().split("\r\x1b[K")
    percents = [int(each.split()[1]) for each in shown if each.startswith("building: ")]
    assert percents == sorted(set(percents))
    assert len(percents) > 10  # The root is most of it, and counts.
    assert percents[-1] == 100
    assert json.loads(capsys.readouterr().out)["Measurements"]
